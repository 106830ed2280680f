"""Our own convolutions against XLA's."""

import os
import platform as machine
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from models import layers, native, platform
from models.cnn import CNN

ROOT = Path(__file__).parents[2]

# images, height, width, channels in and out, size of the kernel, padding,
# stride: tiles that are whole, that are not, and that go beyond the map.
SHAPES = [
  (5, 16, 16, 32, 32, 3, 1, 1),
  (2, 9, 9, 1, 4, 3, 1, 1),
  (3, 9, 7, 3, 40, 3, 1, 2),
  (3, 11, 11, 17, 33, 5, 2, 1),
  (5, 8, 8, 32, 64, 4, 0, 2),
  (40, 4, 4, 33, 20, 3, 2, 1),
  (2, 6, 5, 16, 16, 1, 0, 1),
  (3, 5, 6, 7, 8, 3, 1, 3),
  (1, 1, 1, 1, 1, 1, 0, 1),
]


def _arrays(shape, seed=0):
  n, h, w, c, o, k, _, _ = shape
  rng = np.random.default_rng(seed)
  return [
    jnp.asarray(rng.normal(size=size), jnp.float32)
    for size in ((n, h, w, c), (k, k, c, o), (o,))
  ]


def _stock(x, kernel, bias, stride, padding, rectify):
  maps = lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  maps += bias[None, None, None]
  return jax.nn.relu(maps) if rectify else maps


def _assert_close(ours, theirs):
  """To 1e-5 of the largest value."""
  for one, other in zip(ours, theirs, strict=True):
    assert one.shape == other.shape
    scale = float(jnp.abs(other).max()) or 1.0
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-5)


@pytest.fixture(autouse=True)
def _loops():
  if not native.loads():
    pytest.skip("llvmlite is not installed for this Python")


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_xla(shape):
  arrays = _arrays(shape)
  *_, padding, stride = shape
  rectify = stride == 1
  assert native.usable(arrays[0], arrays[1], stride, padding)

  @jax.jit
  def ours(*arrays):
    return layers.convolution(
      *arrays, stride=stride, padding=padding, rectify=rectify, train=True
    )

  @jax.jit
  def stock(x, kernel, bias):
    return _stock(x, kernel, bias, stride, padding, rectify)

  (y, pull), (expected, pull_stock) = (
    jax.vjp(f, *arrays) for f in (ours, stock)
  )
  _assert_close([y], [expected])
  rng = np.random.default_rng(1)
  g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
  _assert_close(pull(g), pull_stock(g))


def test_seeds_side_by_side_are_those_in_turn():
  """Under `vmap`, as the scan strategy trains."""
  seeds = [_arrays(SHAPES[1], seed) for seed in range(3)]

  def loss(*arrays):
    maps = layers.convolution(*arrays, padding=1, rectify=True, train=True)
    return (maps**2).sum()

  gradient = jax.grad(loss, argnums=(0, 1, 2))
  stacked = [jnp.stack(arrays) for arrays in zip(*seeds, strict=True)]
  together = jax.jit(jax.vmap(gradient))(*stacked)
  for i, arrays in enumerate(seeds):
    for one, all_seeds in zip(gradient(*arrays), together, strict=True):
      np.testing.assert_array_equal(all_seeds[i], one)


def test_infinities_and_nan_go_through():
  x, kernel, bias = _arrays(SHAPES[0])
  x = x.at[0, 3, 3, 0].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf)

  def both(rectify):
    ours = native.convolution(x, kernel, bias, 1, 1, rectify)
    return ours, _stock(x, kernel, bias, 1, 1, rectify)

  for ours, stock in (both(False), both(True)):
    assert not np.isfinite(stock).all()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(stock))
    np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=1e-4)


def test_where_the_loops_are_not_used():
  x, kernel, _ = _arrays(SHAPES[0])
  assert native.usable(x, kernel, 1, 1)
  assert not native.usable(x[:0], kernel, 1, 1)
  assert not native.usable(x, kernel, 1, 3)  # a gradient would need cropping
  assert not native.usable(x, kernel, 9, 1)
  assert not native.usable(x[:, :2], kernel, 1, 0)  # no position fits
  half = jnp.bfloat16
  assert not native.usable(x.astype(half), kernel.astype(half), 1, 1)
  seen = []

  def look(x):
    seen.append(native.usable(x, kernel, 1, 1))
    return x

  mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("batch")
  divided = jax.shard_map(look, mesh=mesh, in_specs=spec, out_specs=spec)
  jax.jit(divided).lower(x[:4])
  assert seen == [False]


def test_training_without_the_loops_is_the_same(monkeypatch):
  x = _arrays((4, 12, 12, 1, 8, 3, 1, 1))[0]
  model = CNN(depth=2, width=8)
  params = platform.jit(model.init, once=True)(jax.random.key(0), x)

  def gradient():
    def loss(params):
      logits, activations = model.apply(params, x, train=True)
      return (logits**2).sum(), activations

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  ours, activations = gradient()
  monkeypatch.setattr(native, "usable", lambda *arguments: False)
  theirs, expected = gradient()
  _assert_close(*(jax.tree.leaves(tree) for tree in (ours, theirs)))
  # Rectified at once or not, all activations are there.
  plain = jax.jit(model.apply)(params, x)[1]
  assert sorted(activations) == sorted(plain)
  for name in plain:
    _assert_close([activations[name]], [plain[name]])
    _assert_close([expected[name]], [plain[name]])


_PROCESS = """
import hashlib, sys
from llvmlite import binding
if len(sys.argv) > 1:  # an older CPU
  old = binding.get_host_cpu_features()
  for name in list(old):
    old[name] = old[name] and not name.startswith(tuple(sys.argv[2:]))
  binding.get_host_cpu_features = lambda: old
  binding.get_host_cpu_name = lambda: sys.argv[1]
import jax, jax.numpy as jnp, numpy as np
from jax import monitoring
from models import native
hits = []
monitoring.register_event_listener(
  lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
assert native.loads()
rng = np.random.default_rng(0)
x, k, b = (
  jnp.asarray(rng.normal(size=s), jnp.float32)
  for s in ((20, 12, 12, 20), (3, 3, 20, 24), (24,))
)
f = lambda *a: (native.convolution(*a, 1, 1, True) ** 2).sum()
found = jax.jit(jax.grad(f, argnums=(0, 1, 2)))(x, k, b)
digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in found))
print(digest.hexdigest(), len(hits), *(float(abs(a).sum()) for a in found))
"""


def _run(folder, threads, *cpu):
  environment = os.environ | {
    "NPROC": str(threads),
    "JAX_COMPILATION_CACHE_DIR": str(folder),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_FLAGS": "",
  }
  output = subprocess.run(
    [sys.executable, "-c", _PROCESS, *cpu],
    cwd=ROOT,
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.split()
  return output[0], int(output[1]), np.array(output[2:], float)


def test_stored_programs_find_the_loops_and_threads_do_not_matter(tmp_path):
  first, hits, _ = _run(tmp_path, 1)
  assert hits == 0
  # The second process compiles nothing, and has other threads.
  again, hits, _ = _run(tmp_path, 2)
  assert hits > 0
  assert first == again  # to the last bit


@pytest.mark.slow
@pytest.mark.skipif(
  machine.machine() != "x86_64", reason="names CPUs of another kind"
)
@pytest.mark.parametrize(
  "cpu", [("haswell", "avx512"), ("x86-64", "avx", "fma", "f16c", "v")]
)
def test_cpus_with_narrower_registers(tmp_path, cpu):
  expected = _run(tmp_path / "this", 2)[2]
  np.testing.assert_allclose(
    _run(tmp_path / "other", 2, *cpu)[2], expected, rtol=1e-5
  )
