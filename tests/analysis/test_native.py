import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import gradients, kernels, native
from analysis.actions import elements_of, map_action, orbit
from analysis.kernels import blocks
from analysis.kernels import tangents as loops
from analysis.layer_sums import LayerSums
from analysis.measures import (
  MEASURES,
  OrbitBatch,
  Shapes,
  Statistics,
  maps,
  reductions,
  sums,
)
from models.geometry import LayerGeometry

ROOT = Path(__file__).parents[2]
MAP = (6, 5, 3)
COUNTS = (7, 7, 4)  # images of each step: the last is filled up


@pytest.fixture(scope="module")
def layer():
  """Orbit, action, activations: some units dead, constant, far from 0."""
  o = orbit("rotation", [0, 20, 90, -45, 180])
  where = LayerGeometry(
    stride=2, offset=0.5, receptive_field=4, spatial=MAP[:2]
  )
  action = map_action(o, where, MAP[:2], (12, 10))
  rng = np.random.default_rng(0)
  size = len(o.thetas), sum(COUNTS), int(np.prod(MAP))
  after = rng.normal(size=size).astype(np.float32)
  after[:, :, 0] = 0
  after[:, :, 1] = 3.7
  after[:, :, 2] += 50
  after[1:, :, 3] = 0
  after[:, 5, 4] = 2
  before = after[0] + np.float32(0.1) * rng.normal(size=size[1:]).astype("f4")
  before[:, :2] = after[0, :, :2]
  return o, action, before, after


def _batches(layer):
  """Each step as JAX gets it, padded."""
  o, action, before, after = layer
  start = 0
  for count in COUNTS:
    at = np.minimum(np.arange(start, start + 7), len(before) - 1)
    weight = (np.arange(7) < count).astype(np.float32)
    known = Statistics(before.mean(0), np.quantile(after[0], [0.9, 0.8], 0))
    moved = jnp.asarray(after[:, at])
    yield OrbitBatch(
      reference=jnp.asarray(before[at]),
      transformed=moved,
      aligned=maps.align(moved.reshape(*moved.shape[:2], *MAP), action),
      action=action,
      images=None,
      tangents=None,
      aligned_tangents=None,
      elements=elements_of(o, None),
      statistics=Statistics(*(jnp.asarray(a, jnp.float32) for a in known)),
      labels=None,
      weight=jnp.asarray(weight),
      index=jnp.asarray(at, jnp.int32),
    )
    start += count


def _in_float64(batch):
  return batch._replace(
    reference=jnp.asarray(batch.reference, jnp.float64),
    transformed=jnp.asarray(batch.transformed, jnp.float64),
    weight=jnp.asarray(batch.weight, jnp.float64),
  )


def _shapes(layer, batch=7):
  _, action, before, after = layer
  return Shapes(
    len(after), before.shape[1], MAP[:2], 1, len(before), batch, action
  )


def _native(layer, wanted, threads):
  first = next(_batches(layer))
  loops = LayerSums(
    frozenset(wanted), _shapes(layer), first.elements, first.statistics, threads
  )
  for batch, count in zip(_batches(layer), COUNTS, strict=True):
    x = np.ascontiguousarray(np.asarray(batch.transformed)[:, :count])
    r = np.ascontiguousarray(np.asarray(batch.reference)[:count])
    # As jax gives them: for others, loops would be compiled anew.
    x.flags.writeable = r.flags.writeable = False
    loops.open(count)
    for share in range(loops.shares):
      loops.add(share, blocks.addresses([x]), r)
    loops.close([x], r, np.asarray(batch.index)[:count])
  return loops.total()


def _close(found, expected):
  # Some are small differences of large sums: to rounding of the largest.
  largest = float(np.abs(np.asarray(expected)).max())
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * largest)


@pytest.mark.parametrize("threads", [1, 3])
def test_loops_compute_what_the_reductions_define(layer, threads):
  known = _native(layer, native.COMPUTED, threads)
  for name in ("over_orbit", "moved", "cosines", "hsic", "firing", "undone"):
    define = getattr(reductions, name)
    if name == "hsic":  # as written, it loses more in float32 than the loops
      with jax.enable_x64(True):
        parts = [
          jax.device_get(define(_in_float64(batch)))
          for batch in _batches(layer)
        ]
    else:
      parts = [define(batch) for batch in _batches(layer)]
    found = getattr(known, name)
    if not isinstance(found, tuple):
      found, parts = (found,), [(part,) for part in parts]
    for value, *expected in zip(found, *parts, strict=True):
      _close(value, sum(expected))
  for name in ("pairs", "undone_over_orbit"):
    define = getattr(reductions, name)
    parts = [define(batch) for batch in _batches(layer)]
    for value, *expected in zip(getattr(known, name), *parts, strict=True):
      _close(value, sum(expected))
  assert known.images == sum(COUNTS)
  assert np.isfinite(known.finite).all()


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    ("reference", (90,)),
    ("over_images", (5, 90)),
    ("undone_over_images", (5, 90)),
  ],
)
def test_running_moments_are_those_of_all_images(layer, name, shape):
  # Spreads over the orbit and over images come together.
  wanted = {name, name.replace("images", "orbit")} & native.COMPUTED
  moments = getattr(_native(layer, wanted, 2), name)
  expected = sums.init_moments(*shape)
  for batch in _batches(layer):
    expected = getattr(reductions, f"add_{name}")(expected, batch)
  assert moments.count == expected.count == sum(COUNTS)
  _close(moments.mean, expected.mean)
  _close(moments.variance, expected.variance)
  still = np.asarray(expected.variance) == 0
  assert still.any()
  np.testing.assert_array_equal(moments.variance == 0, still)


def test_what_does_not_move_has_exactly_no_spread(layer):
  known = _native(layer, native.COMPUTED, 2)
  assert (known.over_orbit.deviations[:2] == 0).all()
  assert (known.pairs.over_orbit[:2] == 0).all()
  assert (known.pairs.over_images[:2] == 0).all()
  assert known.over_orbit.deviations[2] > 0
  alone = _native(layer, {"over_orbit"}, 2).over_orbit
  assert (alone.deviations[:2] == 0).all()
  assert (alone.within[:2] == 0).all()
  assert alone.deviations[2] > 0


def test_linear_maps_are_summed_alike(layer):
  measure = MEASURES["equivariant_map"]
  shapes = _shapes(layer)
  state = measure.init(shapes)
  for batch in _batches(layer):
    state = measure.update(state, batch)
  found = _native(layer, {"linear"}, 2).linear
  for value, expected in zip(found, state[:-1], strict=True):
    _close(value, expected)


def test_only_what_is_wanted_is_computed(layer):
  known = _native(layer, {"moved"}, 2)
  assert known.moved is not None
  assert all(
    getattr(known, name) is None
    for name in ("over_orbit", "over_images", "pairs", "firing", "undone")
  )


@pytest.mark.parametrize("spread", [set(), {"over_orbit"}])
def test_a_value_that_is_not_finite_shows_in_its_element(layer, spread):
  o, action, before, after = layer
  after = after.copy()
  after[3, 8, 70] = np.inf
  after[1, :, 71] = 3e38  # whose sum is infinite
  known = _native((o, action, before, after), {"finite"} | spread, 2)
  assert list(np.isfinite(known.finite)) == [True, True, True, False, True]


@settings(max_examples=25)
@given(
  elements=st.integers(2, 20),
  steps=st.lists(st.integers(1, 11), min_size=1, max_size=3),
  units=st.integers(1, 1200),
  threads=st.integers(1, 3),
  cosines=st.booleans(),
  seed=st.integers(0, 2**16),
)
def test_spreads_without_pairs_are_those_of_float64(
  elements, steps, units, threads, cosines, seed
):
  rng = np.random.default_rng(seed)
  size = elements, sum(steps), units
  x = rng.normal(rng.normal(0, 5, units), 1, size).astype(np.float32)
  r = rng.normal(size=size[1:]).astype(np.float32)
  shapes = Shapes(elements, units, None, 0, sum(steps), max(steps), None)
  wanted = {"over_orbit", "over_images", "moved", "reference"}
  if cosines:
    wanted |= {"cosines"}
  mean = r.mean(0)
  loops = LayerSums(
    frozenset(wanted),
    shapes,
    elements_like(np.zeros(elements, np.float32)),
    Statistics(mean, np.zeros((2, units), np.float32)),
    threads,
  )
  start = 0
  for count in steps:
    part = slice(start, start + count)
    after, before = np.ascontiguousarray(x[:, part]), r[part].copy()
    after.flags.writeable = before.flags.writeable = False
    loops.open(count)
    for share in range(loops.shares):
      loops.add(share, blocks.addresses([after]), before)
    loops.close([after], before, np.arange(start, start + count))
    start += count
  found = loops.total()
  x, r = x.astype(np.float64), r.astype(np.float64)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4)
  close(found.over_orbit.deviations, x.std(0, ddof=1).sum(0))
  close(found.over_orbit.within, x.var(0, ddof=1).sum(0))
  close(found.over_images.mean, x.mean(1))
  close(found.reference.mean, r.mean(0))
  if sum(steps) > 1:
    close(found.over_images.variance, x.var(1, ddof=1))
  distances = np.square(x - r).sum(-1)
  close(found.moved.distances, np.sqrt(distances).sum(-1))
  if cosines:
    a, b = x - mean, r - mean
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(-1)
    zeros = np.zeros_like(norms)
    close(
      found.cosines.total,
      np.divide(dots, norms, out=zeros, where=norms > 0).sum(-1),
    )


@settings(max_examples=25)
@given(
  elements=st.integers(2, 70),
  images=st.integers(1, 40),
  seed=st.integers(0, 2**16),
)
def test_pairs_are_all_pairs_of_any_number(elements, images, seed):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(elements, images, 9)).astype(np.float32)
  x[:, :, 4] = np.round(x[:, :, 4])  # ties
  shapes = Shapes(elements, 9, None, 0, images, images, None)
  zeros = np.zeros(elements, np.float32)
  loops = LayerSums(frozenset({"pairs"}), shapes, elements_like(zeros), None, 1)
  x.flags.writeable = False
  loops.open(images)
  loops.add(0, blocks.addresses([x]), x[0])
  loops.close([x], x[0], np.arange(images))
  pairs = loops.total().pairs
  exact = x.astype(np.float64)
  by_element = np.abs(exact[:, None] - exact[None]).sum((0, 1, 2)) / 2
  by_image = np.abs(exact[:, :, None] - exact[:, None]).sum((0, 1, 2)) / 2
  np.testing.assert_allclose(pairs.over_orbit, by_element, rtol=1e-5)
  np.testing.assert_allclose(pairs.over_images, by_image, rtol=1e-5, atol=1e-6)


def elements_like(zeros):
  """Elements of which nothing matters."""
  from analysis.measures import Elements

  return Elements(zeros, zeros, zeros)


def test_compiled_code_that_is_older_than_a_source_goes(tmp_path):
  (tmp_path / "__pycache__").mkdir()
  old = tmp_path / "__pycache__" / "maps.undo.py311.nbi"
  new = tmp_path / "__pycache__" / "maps.undo.py311.1.nbc"
  source = tmp_path / "maps.py"
  for path, time in ((old, 1000), (source, 2000), (new, 3000)):
    path.touch()
    os.utime(path, (time, time))
  kernels.drop_stale(tmp_path)
  assert not old.exists()
  assert new.exists()


def test_loops_are_used_where_no_folder_can_be_written(tmp_path):
  """The numbers are the loops' wherever the source lies."""
  (tmp_path / "file").write_text("in the way")
  result = subprocess.run(
    [
      *(sys.executable, "-c"),
      "from analysis import kernels, native\n"
      "assert native.usable()\n"
      "from analysis.kernels import units\n"
      "print(type(units.add_units._cache).__name__, kernels.FAST['cache'])\n",
    ],
    cwd=ROOT,
    env=os.environ
    | {
      "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache"),
      "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    },
    check=True,
    capture_output=True,
    text=True,
  )
  assert result.stdout.split() == ["NullCache", "False"]


def test_without_numba_xla_computes_the_same():
  code = (
    "import sys, numpy as np\n"
    "if sys.argv[1] == 'hidden': sys.modules['numba'] = None\n"
    "from analysis import native\n"
    "from analysis.orbits import measure\n"
    "assert native.usable() == (sys.argv[1] != 'hidden')\n"
    "x = np.random.default_rng(0).uniform(size=(9, 8, 8, 1)).astype('f4')\n"
    "t = measure(lambda x: (x, {'x': x}), x, {'rotation': [0, 9]},\n"
    "            ['invariance_error', 'normalized_distance', 'cosine'])\n"
    "print(*t['value'])\n"
  )
  values = [
    subprocess.run(
      [sys.executable, "-c", code, mode],
      cwd=ROOT,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.split()
    for mode in ("hidden", "there")
  ]
  one, other = np.array(values, np.float64)
  assert len(one) == 8
  np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 9, 6, 16), (2, 5, 8, 32), (2, 6, 5, 3)])
@pytest.mark.parametrize("gradient", ["spectral", "cubic"])
def test_rates_of_change_are_summed_as_they_are_defined(shape, gradient):
  """Channels that fill vectors and others, sizes that are no fours."""
  b, h, w, _ = shape
  rng = np.random.default_rng(0)
  maps, *changes = rng.normal(size=(3, *shape)).astype(np.float32)
  velocity = rng.normal(size=(2, h, w, 2)).astype(np.float32)
  inside = (rng.random(h * w) < 0.7).astype(np.float32)
  rows, columns = (
    gradients.derivative_matrix(n, gradient).astype(np.float32) for n in (h, w)
  )
  moved = gradients.advect(jnp.asarray(maps), velocity, gradient)
  rates = np.stack(changes) - np.asarray(moved, np.float64)
  inner = rates[:, 1:] ** 2 * inside.reshape(h, w, 1)
  found = np.ones(2)
  loops.aligned_squares(
    blocks.addresses([change[None] for change in changes]),
    maps,
    rows,
    columns,
    velocity,
    inside,
    1,
    b,
    found,
  )
  expected = 1 + inner.sum(axis=(1, 2, 3, 4))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  change = changes[0]
  found = loops.sum_of_squares(change.reshape(b, -1), 1, b)
  expected = (change[1:].astype(np.float64) ** 2).sum()
  np.testing.assert_allclose(found, expected, rtol=1e-5)
