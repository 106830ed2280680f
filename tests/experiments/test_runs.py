import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import runs, training
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.diverging import Divergence
from experiments.errors import ExperimentError, UsageError
from experiments.progress import Progress
from experiments.run_folder import STAGES

DATA = DataConfig(train_examples=256, test_examples=96)
MODEL = ModelConfig(model="mlp", depth=1, width=8)
TRAIN = TrainConfig(epochs=2, batch_size=60, strategy="loop")
MEASURE = MeasureConfig(
  transforms="rotation:15", shift_map="", measure_examples=8
)


@pytest.fixture
def run(tmp_path, small):
  return runs.make_run(tmp_path / "run", DATA, MODEL, TRAIN, small)


@pytest.fixture
def bar():
  with Progress(1.0, 1) as result:
    yield result


def test_a_seed_whose_loss_explodes_is_kept_as_failed_and_the_others_go_on(
  run, small, bar, monkeypatch
):
  make_trainer = training.make_trainer

  def explosive(*args):
    trainer = make_trainer(*args)

    def train_epoch(state, seed, epoch, data):
      state, losses = trainer.train_epoch(state, seed, epoch, data)
      if int(seed) == 1 and int(epoch) == 1:
        losses = losses.at[2].set(jnp.inf)
      return state, losses

    return trainer._replace(train_epoch=train_epoch)

  monkeypatch.setattr(training, "make_trainer", explosive)
  runs.train(run, small, [0, 1, 2], bar)
  assert run.folder.trained_seeds() == [0, 2]
  assert {line["seed"] for line in run.folder.metrics()} == {0, 2}
  params = {path.name for path in (run.folder.path / "params").iterdir()}
  assert params == {
    f"seed{seed}_{stage}.npz" for seed in (0, 2) for stage in STAGES
  }
  found = Divergence(1, 2, 7, 4e-3, "inf", "train")
  assert run.folder.failures() == runs.failures(run, [0, 1]) == [found]
  assert runs.failures(run, [0, 2]) == []
  assert runs.missing_seeds(run, [0, 1, 2, 3]) == [3]
  parts = [(seed, stage) for seed in (0, 2) for stage in STAGES]
  assert runs.missing_parts(run, [0, 1, 2], MEASURE) == parts


def test_parts_are_missing_until_measured_and_again_when_the_seed_is(
  run, small, bar
):
  parts = [(0, "init"), (0, "trained")]
  assert runs.missing_parts(run, [0], MEASURE) == parts
  runs.train(run, small, [0], bar)
  runs.measure(run, small, MEASURE, parts, bar)
  assert runs.missing_parts(run, [0], MEASURE) == []
  assert set(run.folder.seconds()) == {"train", "measure"}
  table = runs.join(run, [0])
  assert set(table["stage"]) == {"init", "trained"}
  assert set(table["run"]) == {"mlp-d1-w8"}

  run.folder.params_path(0, "trained").unlink()
  assert runs.missing_parts(run, [0], MEASURE) == parts
  run.folder.params_path(0, "trained").touch()
  other = dataclasses.replace(MEASURE, order=3)
  assert runs.missing_parts(run, [0], other) == parts
  assert runs.missing_parts(run, [0], MEASURE) == parts  # they are gone


def test_measuring_without_parameters_names_the_file(run, small, bar):
  with pytest.raises(ExperimentError, match=r"seed0_init\.npz cannot be read"):
    runs.measure(run, small, MEASURE, [(0, "init")], bar)


def test_a_network_whose_activations_overflow_is_named(run, small, bar):
  kernel = np.full((1024, 8), 3e38, np.float32)
  expected = jax.tree.map(
    lambda a: np.zeros(a.shape, np.float32),
    run.model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1))),
  )
  expected["params"]["dense1"]["kernel"] = kernel
  run.folder.add_seed(0, expected, expected, [{"seed": 0, "epoch": 2}])
  message = "^mlp-d1-w8 seed 0 init cannot be measured: .*not finite"
  with pytest.raises(ExperimentError, match=message):
    runs.measure(run, small, MEASURE, [(0, "init")], bar)


def test_a_network_that_cannot_be_leaves_no_folder(tmp_path, small):
  impossible = dataclasses.replace(MODEL, width=0)
  with pytest.raises(UsageError, match="width=0"):
    runs.make_run(tmp_path / "run", DATA, impossible, TRAIN, small)
  assert not (tmp_path / "run").exists()


def test_the_flags_of_a_run_are_read_back(run):
  assert runs.read_configs(run.folder.path) == (DATA, MODEL, TRAIN)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "holds no config.json: give the --workdir of a run"),
    ("{}", "is not a run of this version"),
    ('{"data": {"colour": 1}}', "is not a run of this version"),
    ("{", "cannot be read"),
  ],
)
def test_what_is_not_a_run_is_refused(tmp_path, content, message):
  if content is not None:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(ExperimentError, match=message):
    runs.read_configs(tmp_path)


def test_names_tell_architectures_apart():
  names = {
    runs.run_name(config)
    for config in (
      ModelConfig(),
      ModelConfig(model="lecture"),
      ModelConfig(model="mlp"),
      ModelConfig(pooling="none"),
      ModelConfig(depth=2),
      ModelConfig(width=8),
      ModelConfig(kernel_size=5),
      ModelConfig(padding="valid"),
      ModelConfig(head="gap"),
    )
  }
  assert len(names) == 9
  assert "cnn-max-d3-w32-k3-same-dense" in names


def test_cost_grows_with_work(run, small):
  def cost(seeds, parts, run=run):
    return runs.expected_seconds(run, small, seeds, MEASURE, parts)

  assert cost([], []) == 0
  assert 0 < cost([0], []) < cost([0, 1], [])
  assert cost([], [(0, "init")]) < cost([], [(0, "init"), (0, "trained")])
