import dataclasses

import pytest

from experiments import presets
from experiments.errors import UsageError


def test_changes_go_to_the_section_that_has_the_field():
  changes = {"width": 4, "epochs": 2, "order": 3, "canvas": 40, "seeds": (7,)}
  study = presets.build("quick", changes)
  assert {model.width for model in study.models} == {4}
  assert study.train.epochs == 2
  assert study.measure.order == 3
  assert study.data.canvas == 40
  assert study.seeds == (7,)
  own = presets.PRESETS["quick"]
  assert study == dataclasses.replace(
    own,
    models=tuple(dataclasses.replace(m, width=4) for m in own.models),
    train=dataclasses.replace(own.train, epochs=2),
    measure=dataclasses.replace(own.measure, order=3),
    data=dataclasses.replace(own.data, canvas=40),
    seeds=(7,),
  )


def test_no_change_is_the_preset_itself():
  assert presets.build("quick", {}) == presets.PRESETS["quick"]


def test_a_preset_compares_pooling_at_two_depths():
  models = presets.PRESETS["quick"].models
  cells = {(model.pooling, model.depth) for model in models}
  assert cells == {(p, d) for p in ("max", "none") for d in (1, 3)}


def test_a_larger_data_set_changes_what_is_not_given():
  study = presets.build("quick", {"dataset": "mnist", "epochs": 7})
  assert study.data.dataset == "mnist"
  assert study.data.train_examples == 10_000
  assert study.train.epochs == 7
  same = presets.build("quick", {"dataset": "digits"})
  assert same == presets.PRESETS["quick"]


def test_unknown_presets_are_refused():
  with pytest.raises(UsageError, match="--preset=slow is unknown; known are q"):
    presets.build("slow", {})


@pytest.mark.parametrize(
  ("changes", "workdir"),
  [
    ({}, "results/quick"),
    ({"dataset": "mnist"}, "results/quick-mnist"),
    ({"dataset": "tfds:emnist/letters"}, "results/quick-tfds-emnist-letters"),
  ],
)
def test_results_have_a_folder_a_data_set(changes, workdir):
  assert presets.default_workdir(presets.build("quick", changes)) == workdir
