"""Geometry found by probing is the formula's, or none with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from analysis.probing import find_geometry
from models import platform
from models.cnn import CNN
from models.geometry import LayerGeometry
from tests.analysis import networks


def probed(fn, size=16, **options):
  return find_geometry(fn, (size, size, 1), **options)


def located(layer, size=16):
  """The geometry of one function of images."""
  found, reasons = probed(lambda x: (x, {"layer": layer(x)}), size)
  assert not reasons, reasons
  return found["layer"]


def reason(layer, size=16):
  found, reasons = probed(lambda x: (x, {"layer": layer(x)}), size)
  assert not found, found
  return reasons["layer"]


def weights(seed, *shape):
  return jnp.asarray(
    np.random.default_rng(seed).normal(size=shape), jnp.float32
  )


def conv(x, size=3, stride=1, padding="SAME", dilation=1, features=3, seed=0):
  return lax.conv_general_dilated(
    x,
    weights(seed, size, size, x.shape[-1], features),
    (stride, stride),
    padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


# --- against the formula -----------------------------------------------------


@pytest.mark.parametrize(
  "fields",
  [
    {"depth": 3, "pooling": "max"},
    {"depth": 2, "pooling": "avg", "padding": "circular"},
    {"depth": 2, "pooling": "stride", "padding": "valid", "kernel_size": 5},
    {"depth": 1, "pooling": "none", "head": "gap"},
  ],
)
def test_our_networks_lie_where_their_formula_says(fields):
  model = CNN(width=4, **fields)
  variables = platform.jit(model.init, once=True)(
    jax.random.key(1), jnp.zeros((1, 32, 32, 1))
  )
  fn = jax.tree_util.Partial(model.apply, variables)
  found, reasons = probed(fn, 32)
  expected = model.geometry(32)
  spatial = {k: g for k, g in expected.items() if g.spatial is not None}
  assert found == spatial
  assert reasons == dict.fromkeys(
    expected.keys() - spatial.keys(), "the layer has no positions"
  )


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid", "circular"])
@pytest.mark.parametrize("pooling", ["max", "avg", "stride", "none"])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_whatever_is_found_is_right(depth, kernel_size, pooling, padding):
  model = CNN(
    depth=depth,
    width=4,
    kernel_size=kernel_size,
    pooling=pooling,
    padding=padding,
  )
  try:
    expected = model.geometry(32)
  except ValueError:
    pytest.skip("no such network on this canvas")
  variables = platform.jit(model.init, once=True)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  found, reasons = probed(jax.tree_util.Partial(model.apply, variables), 32)
  assert all(expected[name] == geometry for name, geometry in found.items())
  assert set(found) | set(reasons) == set(expected)
  # What is left out sees nearly the whole canvas.
  for name in reasons:
    assert expected[name].receptive_field > 20


def test_plain_jax_is_located_too():
  found, reasons = probed(networks.plain)
  for name, where in networks.PLAIN_GEOMETRY.items():
    if where.spatial:
      assert found[name] == tuple(where)
  assert list(reasons) == ["logits"]


def test_layers_can_be_chosen_and_a_wrong_name_is_refused():
  found, reasons = probed(networks.plain, layers=["pool1"])
  assert list(found) == ["pool1"]
  assert not reasons
  with pytest.raises(ValueError, match="'pool9' is not one of conv1, relu1"):
    probed(networks.plain, layers=["pool9"])


# --- single layers -----------------------------------------------------------


@pytest.mark.parametrize(
  ("layer", "expected"),
  [
    (lambda x: x, (1, 0.0, 1)),
    # The field's SAME pads more after than before where the stride is even.
    (lambda x: conv(x, 3, stride=2), (2, 1.0, 3)),
    (lambda x: conv(x, 4, stride=2), (2, 0.5, 4)),
    (lambda x: conv(x, 2, stride=2), (2, 0.5, 2)),
    (lambda x: conv(x, 3, padding=((2, 0), (2, 0))), (1, -1.0, 3)),
    (lambda x: conv(x, 4, padding=((3, 0), (3, 0))), (1, -1.5, 4)),
    (lambda x: conv(x, 3, dilation=2), (1, 0.0, 5)),
    (lambda x: conv(x[:, 3:-2, 3:-2]), (1, 3.0, 3)),
    (lambda x: conv(jnp.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])), (1, -2, 3)),
    (
      lambda x: conv(jnp.pad(x, [(0, 0), *[(1, 1)] * 2, (0, 0)], mode="wrap")),
      (1, -1.0, 3),
    ),
  ],
)
def test_a_layer_is_located(layer, expected):
  assert located(layer)[:3] == expected


@pytest.mark.parametrize(
  "function",
  [
    jnp.tanh,
    jax.nn.relu,
    lambda x: jnp.sqrt(jax.nn.relu(x)),
    jnp.sign,
    jnp.round,
  ],
)
def test_what_follows_a_convolution_does_not_move_it(function):
  """Sign and round have no derivative but 0, the square root one too many."""
  assert located(lambda x: function(conv(x))) == (1, 0.0, 3, (16, 16))


def test_what_can_only_be_differentiated_in_reverse_is_located():
  @jax.custom_vjp
  def layer(x):
    return conv(x)

  layer.defvjp(lambda x: (conv(x), None), lambda _, g: (g,))
  assert located(layer) == (1, 0.0, 3, (16, 16))


def test_a_receptive_field_is_whole_however_faint_its_rim():
  """Ten averages: the rim weighs 3e-13 of the centre's row."""
  row = jnp.asarray([0.05, 0.9, 0.05])
  kernel = jnp.outer(row, row)[:, :, None, None]

  def layer(x):
    for _ in range(10):
      x = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    return x

  assert located(layer, 32) == (1, 0.0, 21, (32, 32))


def test_images_need_not_be_square():
  found, _ = find_geometry(
    lambda x: (x, {"conv": conv(x, 3, stride=2)}), (12, 18, 2)
  )
  assert found == {"conv": LayerGeometry(2, 1.0, 3, (6, 9))}


# --- what is left out --------------------------------------------------------


def _row_stride(x):
  return conv(x)[:, ::2]


@pytest.mark.parametrize(
  ("layer", "why"),
  [
    (lambda x: x.reshape(len(x), -1), "the layer has no positions"),
    (lambda x: x * 0, "the layer does not respond to the image"),
    (
      lambda x: x - x.mean(axis=(1, 2), keepdims=True),
      "its receptive field covers the canvas of 16 px",
    ),
    (
      lambda x: conv(x, 15),
      "see no border of the canvas, and 2 are needed: use larger images",
    ),
    (lambda x: x[:, 4:5, 4:5], "only 1 of 1 positions see no border"),
    (
      lambda x: jnp.repeat(jnp.repeat(conv(x), 2, axis=1), 2, axis=2),
      "the response does not move with the impulse: positions 4 and 5 see the",
    ),
    (
      lambda x: jnp.broadcast_to(x[:, 5:6, 5:6], x.shape),
      "does not move with the impulse: positions 0 and 1 see the same pixels",
    ),
    (lambda x: x[:, ::-1, ::-1], "positions do not follow each other"),
    (lambda x: x[:, :, jnp.array([0, 1, 5, 6, 9])], "centred on 1, 5, 6, 9 px"),
    (_row_stride, "rows and columns differ: stride 2 and 1 px"),
    (
      lambda x: x[:, :, 3:],
      "rows and columns differ: offset 0 and 3 px",
    ),
    (
      lambda x: jnp.concatenate([x[:, :8, :8], conv(x)[:, 8:, 8:, :1]], axis=1),
      "receptive fields differ from position to position, from 1 to 3 px",
    ),
    (
      # Turned about one pixel: positions see lines that are not their own.
      lambda x: x + jnp.pad(x[:, 15:], [(0, 0), (0, 15), (0, 0), (0, 0)]),
      "do not explain every response",
    ),
  ],
)
def test_what_cannot_be_located_is_left_out_with_the_reason(layer, why):
  assert why in reason(layer)
