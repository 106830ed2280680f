"""Training and measuring on many devices give the numbers of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import devices, training
from experiments.config import TrainConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
  ("count", "seeds", "batch_size", "shape"),
  [
    (8, 8, 128, (8, 1, 1)),
    (8, 16, 128, (8, 1, 1)),
    (8, 4, 128, (4, 2, 1)),
    (8, 3, 128, (1, 8, 1)),
    (8, 3, 60, (1, 4, 2)),
    (6, 4, 7, (2, 1, 3)),
  ],
)
def test_seeds_come_first_then_the_batch(count, seeds, batch_size, shape):
  layout = devices.lay_out(list(range(count)), seeds, batch_size)
  assert layout.mesh is not None
  assert tuple(layout.mesh.shape.values()) == shape
  assert (layout.seeds, layout.batch) == shape[:2]
  # Neighbours share a seed: they exchange gradients.
  assert layout.mesh.devices.ravel().tolist() == list(range(count))


@pytest.mark.parametrize("some", [None, [], [0]])
def test_one_device_needs_no_mesh(some):
  assert devices.lay_out(some, 4, 128) == devices.ALONE


def test_arrays_are_divided_and_come_back_whole():
  layout = devices.lay_out(jax.devices(), len(jax.devices()), 4)
  array = np.arange(6 * layout.seeds, dtype=np.float32)
  parts = layout.seeded(array).addressable_shards
  assert [len(part.data) for part in parts] == [6] * layout.seeds
  copies = layout.copied(array).addressable_shards
  assert [len(part.data) for part in copies] == [len(array)] * len(copies)
  np.testing.assert_array_equal(layout.fetch(layout.seeded(array)), array)


def test_seeds_of_devices_are_trained_at_the_same_time(mlp, small):
  """Two at once on two devices, the others after them."""
  count = len(jax.devices())
  seeds = list(range(2 * count))
  done = []
  results = training.train(
    mlp,
    small,
    TrainConfig(epochs=1, batch_size=60, strategy="loop"),
    seeds,
    devices=jax.devices(),
    progress=done.append,
  )
  assert next(iter(results)).seed == 0
  assert done == [count]
  assert [result.seed for result in results] == seeds[1:]
  assert done == [count, count]


def on_eight(*names):
  """What tests/experiments/eight_devices.py says."""
  flags = "--xla_force_host_platform_device_count=8"
  result = subprocess.run(
    [sys.executable, "-m", "tests.experiments.eight_devices", *names],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": flags},
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(result.stdout.splitlines()[-1])


def check_trained(found, mesh):
  assert found["mesh"] == mesh
  assert found["off"] <= 1e-5
  assert found["learned"] > 1e-3


def test_eight_devices_give_the_numbers_of_one():
  """Seeds over devices; batches too, with their statistics; a ragged table."""
  found = on_eight("seeds in turn", "batch norm", "measured")
  check_trained(found["seeds in turn"], [8, 1, 1])
  # A batch of 60 can be cut into 4 of the 8.
  check_trained(found["batch norm"], [1, 4, 2])
  assert found["measured"]["rows"] > 50
  assert found["measured"]["measures"] > 5
  assert found["measured"]["off"] <= 1e-5


@pytest.mark.slow
def test_eight_devices_side_by_side_and_by_all_measures():
  """Minutes of compiling."""
  names = ("side by side", "side by side, batch norm", "measured by all")
  found = on_eight(*names)
  check_trained(found[names[0]], [4, 2, 1])
  check_trained(found[names[1]], [1, 4, 2])
  assert found[names[2]]["measures"] > 25
  assert found[names[2]]["off"] <= 1e-5
