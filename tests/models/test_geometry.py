import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers
from models.cnn import CNN
from models.geometry import LayerSpec, layer_geometries, output_size
from models.zoo import MODELS


@pytest.mark.parametrize("width", [7, 8, 28, 32])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_size_is_that_of_a_real_convolution(
  width, kernel, padding, stride
):
  out = jax.eval_shape(
    lambda x, k, b: layers.convolution(x, k, b, stride=stride, padding=padding),
    jax.ShapeDtypeStruct((1, width, width, 1), jnp.float32),
    jax.ShapeDtypeStruct((kernel, kernel, 1, 2), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.float32),
  )
  size = output_size(width, kernel, padding, stride)
  assert out.shape == (1, size, size, 2)


def test_the_lectures_arithmetic():
  assert output_size(32, 5) == 28
  first = MODELS["lecture"]().parameter_counts(28)
  assert first["conv1"] == 8 * 1 * 5 * 5 + 8 == 208
  dense = [LayerSpec("dense", "dense", 10)]
  counts = layer_geometries(dense, 28)
  assert counts["dense"].spatial is None
  kernel = MODELS["mlp"](depth=1, width=10).init(
    jax.random.key(0), jnp.zeros((1, 28, 28, 1))
  )["params"]["dense1"]["kernel"]
  assert kernel.size == 784 * 10 == 7840


@pytest.mark.parametrize(
  ("pooling", "padding", "kernel_size"),
  [
    *itertools.product(
      ("max", "none", "avg", "stride"), ("same", "valid", "circular"), (3, 5)
    ),
    *itertools.product(
      (
        *("dilate", "max:3/2", "max:3/1", "max:3/3", "avg:3/2", "mixed"),
        *("blur:2", "blur:3", "blur:4", "blur:5", "max_blur", "avg_blur:4"),
      ),
      ("same", "valid"),
      (3,),
    ),
    *itertools.product(
      ("dilate", "max:3/1", "blur:4", "max_blur", "avg_blur:2"),
      ("circular", "reflect"),
      (3,),
    ),
    *itertools.product(("max", "stride", "none"), ("full", "reflect"), (3, 5)),
    ("none", "full", 4),
  ],
)
def test_geometry_is_where_an_impulse_arrives(pooling, padding, kernel_size):
  """Stride, offset and receptive field against the network's own response."""
  size = 32
  model = CNN(
    depth=2, width=1, kernel_size=kernel_size, pooling=pooling, padding=padding
  )
  blank = jnp.zeros((1, size, size, 1))
  variables = jax.eval_shape(model.init, jax.random.key(0), blank)
  # All weights 1: every position that sees the impulse responds.
  variables = jax.tree.map(
    lambda a: np.full(a.shape, a.ndim == 4, a.dtype), variables
  )
  geometry = model.geometry(size)
  pixels = np.arange(size)
  images = np.zeros((size, size, size, 1), np.float32)
  images[pixels, pixels, 16] = 1  # one impulse a row
  _, activations = jax.jit(model.apply)(variables, images)
  for name, where in geometry.items():
    if where.spatial is None:
      continue
    assert activations[name].shape[1:3] == where.spatial
    responds: Any = np.asarray(activations[name]).any(axis=(2, 3))
    centres = where.offset + where.stride * np.arange(where.spatial[0])
    distance = np.abs(pixels[:, None] - centres)
    if padding == "circular":
      distance = np.minimum(distance, size - distance)
    reach = (where.receptive_field - 1) / 2
    sees = np.asarray(distance <= reach)
    if pooling not in ("max", "none", "avg", "stride"):
      # A filter with an even number of taps mirrors asymmetrically at the edge,
      # and windows may leave the last rows out.
      from_centre = np.abs(np.asarray(centres) - (size - 1) / 2)
      inside = np.flatnonzero(from_centre <= (size - 1) / 2 - reach)
      assert inside.size or reach > size / 4
      responds, sees = responds[:, inside], sees[:, inside]
    np.testing.assert_array_equal(responds, sees, err_msg=name)


@pytest.mark.parametrize(
  "model",
  [
    CNN(),
    CNN(depth=2, pooling="none", head="gap", kernel_size=5),
    CNN(depth=3, pooling="stride", padding="circular", width=7),
    CNN(depth=3, pooling="avg", padding="valid", num_classes=26),
    CNN(depth=3, width=4, residual=True, norm="batch", pooling="stride"),
    CNN(depth=3, width=12, residual=True, norm="group", pooling="none"),
    CNN(depth=4, width=4, width_schedule="double", pool_after="2/4"),
    CNN(depth=3, width_schedule="8/4/6", residual=True, head="gmp"),
    CNN(depth=2, bias=False, padding="full", kernel_size=4),
    CNN(depth=2, width=5, pooling="max_lps"),
    CNN(depth=2, width=3, weight_sharing=False, padding="valid", bias=False),
    CNN(depth=2, width=3, pooling="mixed:3/2", activation="tanh"),
    *(make() for make in MODELS.values()),
  ],
)
def test_parameter_counts_are_those_of_the_arrays(model):
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32),
  )
  real = {
    name: sum(leaf.size for leaf in jax.tree.leaves(part))
    for name, part in shapes["params"].items()
  }
  counts = {k: n for k, n in model.parameter_counts(32).items() if n}
  assert counts == real


def test_pooling_has_no_parameters():
  counts = CNN(depth=3).parameter_counts(32)
  assert [counts[f"pool{i}"] for i in (1, 2, 3)] == [0, 0, 0]
  assert counts["conv1"] == 9 * 32 + 32
  assert counts["conv2"] == counts["conv3"] == 9 * 32 * 32 + 32
  assert counts["logits"] == 4 * 4 * 32 * 10 + 10


@pytest.mark.parametrize(
  ("fields", "canvas", "message"),
  [
    ({"depth": 6}, 32, "layer pool6 would shrink a 1x1 map to 0x0"),
    ({"depth": 4, "padding": "valid"}, 32, "layer conv4 .* 2x2 map to 0x0"),
    (
      {"depth": 2, "padding": "valid", "kernel_size": 5, "pooling": "none"},
      8,
      "layer conv2 .* 4x4 map to 0x0",
    ),
  ],
)
def test_a_depth_that_shrinks_a_map_away_is_refused(fields, canvas, message):
  model = CNN(**fields)
  with pytest.raises(ValueError, match=message):
    model.geometry(canvas)
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), jnp.zeros((1, canvas, canvas, 1)))
