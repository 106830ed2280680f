"""Layers that are the ReLU of another are found, and measured as any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from analysis import activations, memory, native, network
from analysis.kernels import blocks
from analysis.layer_sums import LayerSums
from analysis.measures import Elements, Shapes
from analysis.orbits import measure, orbit
from models import platform
from models.cnn import CNN

SHAPE = (8, 8, 1)


def _layers(x):
  a = 2 * x - 1
  b = jax.nn.relu(a)
  return {
    "b": b,  # before what it is made of
    "a": a,
    "again": jax.nn.relu(b),
    "maximum": jnp.maximum(0, a),
    "of zeros": jnp.maximum(a, jnp.zeros_like(a)),
    "of a sum": jax.nn.relu(a + x),
    "above 1": jnp.maximum(a, 1),
    "not negative": jnp.maximum(a, -a),
    "leaky": jax.nn.leaky_relu(a),
    "up to 6": jax.nn.relu6(a),
    "flat": b.reshape(len(b), -1),
  }


@pytest.mark.parametrize("lift", [lambda f: f, jax.jit, jax.checkpoint])
def test_those_that_are_rectified_are_found_and_no_others(lift):
  fn = lift(lambda x: (x.sum((1, 2)), _layers(x)))
  found = network.rectified(fn, SHAPE)
  assert found == dict.fromkeys(["b", "again", "maximum", "of zeros"], "a")


def test_a_layer_that_is_not_returned_is_no_source():
  def fn(x):
    return x.sum((1, 2)), {"b": _layers(x)["b"]}

  assert network.rectified(fn, SHAPE) == {}


@pytest.mark.parametrize("pooling", ["max", "none"])
def test_the_networks_of_this_project_have_one_a_convolution(pooling):
  model = CNN(depth=2, width=4, pooling=pooling)
  variables = platform.jit(model.init, once=True)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  fn = jax.tree_util.Partial(model.apply, variables)
  assert network.rectified(fn, (32, 32, 1)) == {
    "relu1": "conv1",
    "relu2": "conv2",
  }


def test_all_measures_are_those_of_the_layer_in_memory(digits, monkeypatch):
  """With images that fill no step, and units that are read in pieces."""
  model = CNN(depth=2, width=16)
  variables = platform.jit(model.init, once=True)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  fn = jax.tree_util.Partial(model.apply, variables)
  given = {
    "transformations": [orbit("rotation", [0, 15, 90, -40, 7, 33, 180])],
    "measures": "all",
    "geometry": model.geometry(32),
    "labels": np.arange(11) % 10,
  }
  monkeypatch.setattr(memory, "_STEP_CPU", (1, 4, 4))
  monkeypatch.setattr(native, "_SHARED_BYTES", 100_000)
  left_out = []
  forward = activations.forward_in_parts

  def spied(*args, rectified, **options):
    left_out.append(set(rectified))
    return forward(*args, rectified=rectified, **options)

  monkeypatch.setattr(activations, "forward_in_parts", spied)
  known = measure(fn, digits[:11], **given)
  assert left_out == 3 * [{"relu1", "relu2"}]
  monkeypatch.setattr(network, "rectified", lambda *_: {})
  expected = measure(fn, digits[:11], **given)
  assert left_out[3:] == 3 * [set()]
  relu = expected["layer"].str.startswith("relu")
  assert np.isfinite(expected["value"][relu]).sum() > 100
  pd.testing.assert_frame_equal(known, expected, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_is_not_hidden():
  zeros = np.zeros(2, np.float32)
  bad = {"of NaN": np.nan, "of infinity": np.inf, "of its negative": -np.inf}
  found = {}
  for name, value in bad.items():
    x = np.ones((2, 3, 5), np.float32)
    x[1, 2, 4] = value
    shapes = Shapes(2, 5, None, 1, 3, 3, None)
    for wanted in ({"over_orbit", "moved"}, {"over_orbit", "pairs"}):
      elements = Elements(zeros, zeros, zeros)
      loops = LayerSums(
        frozenset(wanted), shapes, elements, None, 1, rectified=True
      )
      loops.open(3)
      loops.add(0, blocks.addresses([x]), x[0])
      loops.close([x], x[0], np.arange(3))
      found.setdefault(name, []).append(np.isfinite(loops.total().finite))
  np.testing.assert_array_equal(found["of NaN"], 2 * [[True, False]])
  np.testing.assert_array_equal(found["of infinity"], 2 * [[True, False]])
  # The ReLU of minus infinity is 0.
  np.testing.assert_array_equal(found["of its negative"], 2 * [[True, True]])
