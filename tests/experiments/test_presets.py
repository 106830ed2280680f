import dataclasses

import pytest

from experiments import presets
from experiments.config import MeasureConfig, ModelConfig, TrainConfig
from experiments.errors import UsageError


def test_changes_go_to_the_section_that_has_the_field():
  changes = {"width": 4, "epochs": 2, "order": 3, "canvas": 40, "seeds": (7,)}
  study = presets.build("quick", changes)
  own = presets.PRESETS["quick"]
  assert study == dataclasses.replace(
    own,
    model=dataclasses.replace(own.model, width=4),
    train=dataclasses.replace(own.train, epochs=2),
    measure=dataclasses.replace(own.measure, order=3),
    data=dataclasses.replace(own.data, canvas=40),
    seeds=(7,),
  )


def test_no_change_is_the_preset_itself():
  assert presets.build("quick", {}) == presets.PRESETS["quick"]


def test_the_quick_preset_compares_pooling_at_two_depths():
  cells = presets.PRESETS["quick"].cells
  found = {(cell.model["pooling"], cell.model["depth"]) for cell in cells}
  assert found == {(p, d) for p in ("max", "none") for d in (1, 3)}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_names_of_cells_are_unique_and_those_of_the_overview_exist(name):
  study = presets.PRESETS[name]
  names = [cell.name for cell in study.cells]
  assert len(set(names)) == len(names)
  assert set(study.overview) <= set(names)
  for i, cell in enumerate(study.cells):
    assert not cell.match or cell.match in names[:i]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_fields_that_a_cell_sets_exist(name):
  known = {
    "model": {f.name for f in dataclasses.fields(ModelConfig)},
    "train": {f.name for f in dataclasses.fields(TrainConfig)},
    "measure": {f.name for f in dataclasses.fields(MeasureConfig)},
  }
  for cell in presets.PRESETS[name].cells:
    for section, fields in known.items():
      assert set(getattr(cell, section)) <= fields


def test_the_presets_differ_in_data_and_size_only():
  mnist = presets.PRESETS["mnist"]
  assert len(mnist.seeds) >= 5
  for name in ("fashion_mnist", "kmnist", "full"):
    assert presets.PRESETS[name].cells == mnist.cells
  assert presets.PRESETS["kmnist"].data.dataset == "kmnist"
  assert len(presets.PRESETS["full"].seeds) == 10
  assert presets.PRESETS["full"].data.train_examples == 0


def test_a_larger_data_set_changes_what_is_not_given():
  study = presets.build("quick", {"dataset": "mnist", "epochs": 7})
  assert study.data.dataset == "mnist"
  assert study.data.train_examples == 10_000
  assert study.train.epochs == 7
  same = presets.build("quick", {"dataset": "digits"})
  assert same == presets.PRESETS["quick"]


def test_unknown_presets_are_refused():
  message = "--preset=slow is unknown; known are quick, mnist, full"
  with pytest.raises(UsageError, match=message):
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
