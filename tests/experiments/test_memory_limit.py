"""--memory_limit: what it accepts, refuses and leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import building, measuring, presets, runs, specs, studies
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.errors import UsageError
from models import cost
from models.geometry import walk

FEW = MeasureConfig(
  transforms="rotation:15", shift_map="", diagonal=0, measure_examples=8
)


def limited(text):
  return dataclasses.replace(FEW, memory_limit=text)


@pytest.mark.parametrize(
  ("text", "size"),
  [
    ("", None),
    ("2GiB", 2 * 2**30),
    ("1.5 GiB", 1.5 * 2**30),
    ("700MiB", 700 * 2**20),
    ("500MB", 500e6),
    ("3TB", 3e12),
    ("4096B", 4096),
  ],
)
def test_sizes_have_a_unit(text, size):
  assert specs.parse_bytes(text, "memory_limit") == size


@pytest.mark.parametrize(
  "text",
  ["2", "GiB", "-1GiB", "0GiB", "2gib", "2Gib", "1e3MB", "nanGB", "2GB3"],
)
def test_what_is_no_size_is_refused(text, small):
  with pytest.raises(UsageError, match=f"--memory_limit={text} is not a posit"):
    measuring.check(limited(text), small)


@pytest.mark.parametrize("pooling", ["max", "none", "aps"])
@pytest.mark.parametrize("model", ["cnn", "p4cnn", "mlp", "pyramid"])
def test_the_size_is_known_before_the_network_is_run(model, pooling):
  config = ModelConfig(model=model, depth=2, width=4, pooling=pooling)
  if model != "cnn":
    config = ModelConfig(model=model, depth=2, width=4, head="gap")
  built = building.build_model(config, num_classes=10, canvas=32)
  images = jnp.zeros((1, 32, 32, 1))
  params = jax.eval_shape(built.init, jax.random.key(0), images)
  _, layers = jax.eval_shape(built.apply, params, images)
  real = sum(int(np.prod(a.shape)) for a in layers.values())
  assert sum(map(cost.units, walk(built.specs, 32, 1))) == real


def test_a_limit_too_small_for_one_image_is_a_usage_error(mlp):
  measuring.check_memory(limited("800MiB"), mlp, 32)
  with pytest.raises(
    UsageError,
    match=r"^--memory_limit=700MiB: rotation: 700 MiB of memory are too little"
    r": one image under 3 transformations, .* takes about 768 MiB",
  ):
    measuring.check_memory(limited("700MiB"), mlp, 32)


def test_pairs_that_do_not_fit_are_a_usage_error(mlp):
  config = dataclasses.replace(limited("769MiB"), measures="cka")
  measuring.check_memory(config, mlp, 32)
  many = dataclasses.replace(config, measure_examples=10_000)
  with pytest.raises(UsageError, match="measures of pairs, which compare"):
    measuring.check_memory(many, mlp, 32)


def test_nothing_is_trained_or_written_with_a_limit_too_small(small, tmp_path):
  study = presets.build(
    "quick", {"memory_limit": "200MiB", "measure_examples": 8}
  )
  with pytest.raises(UsageError, match="--memory_limit=200MiB: "):
    studies.run_study(study, small, tmp_path / "results")
  assert not list(tmp_path.rglob("config.json"))


def test_measurements_made_with_another_limit_are_kept(small, tmp_path):
  data = DataConfig(train_examples=256, test_examples=96)
  model = ModelConfig(model="mlp", depth=1, width=8)
  run = runs.make_run(tmp_path, data, model, TrainConfig(), small)
  runs.missing_parts(run, [0], limited("2GiB"))
  stored = tmp_path / "measurements" / "config.json"
  before = stored.read_bytes()
  runs.missing_parts(run, [0], FEW)
  assert stored.read_bytes() == before
  assert "memory_limit" not in before.decode()
  runs.missing_parts(run, [0], dataclasses.replace(FEW, order=3))
  assert stored.read_bytes() != before


def test_the_limit_reaches_the_pass(small, mlp):
  params = mlp.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
  units = sum(map(cost.units, walk(mlp.specs, 32, 1)))
  sums, image = 4 * units * 3 * 12, 4 * units * 4 * 3
  limit = f"{768 * 2**20 + sums + 2 * image}B"
  steps = []
  measuring.measure_network(
    mlp, params, small, limited(limit), progress=steps.append
  )
  # Of 3 transformed images, of the 2 images that fit.
  assert set(steps) == {3 * 2}
  with pytest.raises(UsageError, match="--memory_limit=64MiB: rotation: "):
    measuring.measure_network(mlp, params, small, limited("64MiB"))
