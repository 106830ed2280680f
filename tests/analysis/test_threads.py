"""What threads share of measuring on a CPU, and in which order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import threadpoolctl

from analysis import layer_sums, native
from analysis.kernels import blocks, vectors
from analysis.measures import Elements, Shapes, Statistics
from analysis.orbits import measure
from models.geometry import LayerGeometry


@pytest.mark.parametrize("threads", [1, 4])
def test_tasks_are_done_once_each_and_what_they_return_next(threads):
  done = []

  def task(name, further=0):
    done.append(name)
    return [functools.partial(task, f"{name}.{k}") for k in range(further)]

  native.run(
    [functools.partial(task, str(n), n % 3) for n in range(50)], threads
  )
  expected = {str(n) for n in range(50)}
  expected |= {f"{n}.{k}" for n in range(50) for k in range(n % 3)}
  assert len(done) == len(expected)
  assert set(done) == expected
  if threads == 1:
    assert done[:4] == ["0", "1", "1.0", "2"]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_task_that_fails_is_not_hidden(threads):
  def fail():
    raise ValueError("of no use")

  with pytest.raises(ValueError, match="of no use"):
    native.run([lambda: None, fail, lambda: None], threads)


def _measured(monkeypatch, order, progress=None):
  """All measures, the tasks of three threads done by one in some order."""
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(9, 16, 16, 1)).astype(np.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 16)), jnp.float32)

  def network(kernel, x):
    maps = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    features = jax.nn.relu(maps).mean(axis=(1, 2))
    return features, {"maps": maps, "features": features}

  where = LayerGeometry(
    stride=1, offset=0.0, receptive_field=3, spatial=(16, 16)
  )

  def run(tasks, threads):
    assert threads == 3
    for task in order(list(tasks)):
      run(task() or (), threads)

  monkeypatch.setattr(native, "run", run)
  monkeypatch.setattr(native, "threads", lambda: 3)
  monkeypatch.setattr(layer_sums, "_TILE_BYTES", 20_000)
  monkeypatch.setattr(layer_sums, "_TILES", 1)
  return measure(
    jax.tree_util.Partial(network, kernel),
    images,
    {"rotation": [0, 20, 90]},
    "all",
    geometry={"maps": where},
    labels=np.arange(9) % 3,
    progress=progress,
  )


def test_who_does_what_when_changes_no_bit(monkeypatch):
  one = _measured(monkeypatch, lambda tasks: tasks)
  other = _measured(monkeypatch, lambda tasks: tasks[::-1])
  assert np.isfinite(one["value"]).sum() > 90
  pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_sums_by_image_are_added_up_in_one_order(monkeypatch):
  """Products of 1e18, their negatives and 1: rounding shows the order."""
  monkeypatch.setattr(layer_sums, "_TILE_BYTES", 1)
  r = np.repeat(np.array([1e9, 1e9, 1], "f4"), vectors.LANES)[None]
  x = np.repeat(np.array([1e9, -1e9, 1], "f4"), vectors.LANES)[None, None]
  x.flags.writeable = r.flags.writeable = False
  units = r.shape[1]
  found = []
  for order in (0, 1, 2), (2, 1, 0):
    sums = layer_sums.LayerSums(
      frozenset({"cosines"}),
      Shapes(1, units, None, 1, 1, 1, None),
      Elements(*np.zeros((3, 1), np.float32)),
      Statistics(np.zeros(units, np.float32), np.zeros((2, units), np.float32)),
      threads=3,
    )
    assert sums.shares == 3
    sums.open(1)
    for share in order:
      sums.add(share, blocks.addresses([x]), r)
    sums.close([x], r, np.arange(1))
    found.append(sums.total().cosines.total)
  np.testing.assert_allclose(found, [[5e-19]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("images", "shares"), [(8, 16), (200, 4)])
def test_large_sums_by_image_are_kept_no_oftener_than_threads(images, shares):
  sums = layer_sums.LayerSums(
    frozenset({"hsic"}),
    Shapes(16, 100_000, None, 1, 1000, images, None),
    Elements(*np.zeros((3, 16), np.float32)),
    None,
    threads=4,
  )
  assert sums.shares == shares


def test_numpy_multiplies_by_one_thread_while_measuring(monkeypatch):
  def threads():
    libraries = threadpoolctl.threadpool_info()
    return [a["num_threads"] for a in libraries if a["user_api"] == "blas"]

  seen = []
  with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
    _measured(monkeypatch, list, progress=lambda _: seen.append(threads()))
    assert set(threads()) == {2}
  assert seen
  assert {count for counts in seen for count in counts} == {1}
