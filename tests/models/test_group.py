import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import group, layers
from models.group_cnn import GroupCNN


def _random(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _turned(images, k):
  return jnp.asarray(np.rot90(images, k, axes=(1, 2)))


def test_orientation_g_is_a_convolution_with_the_kernel_turned_g_times():
  x, kernel = _random(2, 5, 7, 3), _random(3, 3, 3, 4, seed=1)
  bias = _random(4, seed=2)
  lifted = group.lifting_convolution(x, kernel, bias)
  assert lifted.shape == (2, 5, 7, 4, 4)
  for g in range(4):
    expected = layers.convolution(x, jnp.rot90(kernel, g), bias, padding=1)
    np.testing.assert_allclose(lifted[..., g, :], expected, atol=1e-5)


def test_group_convolution_is_its_definition():
  """f(g) = sum over h of x(h) k(g^-1 h), Cohen and Welling's equation 11."""
  x, kernel = _random(2, 5, 5, 4, 3), np.asarray(_random(3, 3, 4, 3, 2, seed=1))
  bias = _random(2, seed=2)
  maps = group.group_convolution(x, jnp.asarray(kernel), bias)
  assert maps.shape == (2, 5, 5, 4, 2)
  none = jnp.zeros(2)
  for g in range(4):
    parts = [
      layers.convolution(
        x[..., h, :],
        jnp.asarray(np.rot90(kernel[:, :, (h - g) % 4], g)),
        none,
        padding=1,
      )
      for h in range(4)
    ]
    expected = np.sum(parts, axis=0) + np.asarray(bias)
    np.testing.assert_allclose(maps[..., g, :], expected, atol=1e-5)


@pytest.mark.parametrize(
  ("shape", "width", "circular"),
  [((7, 7), 5, True), ((6, 8), 3, False)],
)
def test_layers_turn_with_the_image(shape, width, circular):
  images = _random(2, *shape, 2)
  first, second = (
    _random(width, width, 2, 3, seed=1) / 5,
    _random(width, width, 4, 3, 2, seed=2) / 5,
  )
  bias = _random(3, seed=3), _random(2, seed=4)

  @jax.jit
  def network(x):
    lifted = group.lifting_convolution(x, first, bias[0], circular=circular)
    hidden = layers.relu(lifted)
    last = group.group_convolution(hidden, second, bias[1], circular=circular)
    pooled = [
      group.global_group_pool(last, positions=p) for p in ("mean", "max")
    ]
    return lifted, last, group.group_pool(last), jnp.concatenate(pooled)

  lifted, last, maps, pooled = network(images)
  assert np.abs(lifted - lifted[..., :1, :]).max() > 0.1  # they do differ
  for k in (1, 2, -1):
    turned = network(_turned(images, k))
    for before, after in ((lifted, turned[0]), (last, turned[1])):
      np.testing.assert_allclose(group.turn(before, k), after, atol=2e-5)
    np.testing.assert_allclose(_turned(maps, k), turned[2], atol=2e-5)
    np.testing.assert_allclose(pooled, turned[3], atol=2e-5)


def test_turns_compose():
  x = _random(1, 3, 3, 4, 2)
  once = group.turn(x)
  np.testing.assert_array_equal(group.turn(once), group.turn(x, 2))
  np.testing.assert_array_equal(group.turn(once, -1), x)
  np.testing.assert_array_equal(group.turn(x, 4), x)


def _oriented(array, orientation, axes=(0, 1)):
  if orientation >= 4:
    array = np.flip(array, axes[1])
  return np.rot90(array, orientation % 4, axes)


def test_orientations_compose_as_arrays_do():
  array = np.arange(9).reshape(3, 3)
  for one in range(8):
    for other in range(8):
      np.testing.assert_array_equal(
        _oriented(_oriented(array, other), one),
        _oriented(array, group.product(one, other)),
      )


def test_p4m_is_its_definition():
  """As p4: f(g) = sum over h of x(h) k(g^-1 h), now with mirrors."""
  x, kernel = _random(1, 5, 5, 8, 2), np.asarray(_random(3, 3, 8, 2, 3, seed=1))
  maps = group.group_convolution(x, jnp.asarray(kernel), jnp.zeros(3))
  for g in range(8):
    parts = [
      layers.convolution(
        x[..., group.product(g, r), :],
        jnp.asarray(_oriented(kernel[:, :, r], g).copy()),
        jnp.zeros(3),
        padding=1,
      )
      for r in range(8)
    ]
    np.testing.assert_allclose(maps[..., g, :], np.sum(parts, 0), atol=3e-5)


def test_maps_of_p4m_turn_and_mirror_with_the_image():
  images = _random(2, 6, 8, 2)
  first, second = (
    _random(3, 3, 2, 3, seed=1) / 5,
    _random(3, 3, 8, 3, 2, seed=2) / 5,
  )

  @jax.jit
  def network(x):
    x = group.lifting_convolution(x, first, jnp.ones(3), group="p4m")
    return group.group_convolution(layers.relu(x), second, jnp.zeros(2))

  maps = network(images)
  np.testing.assert_allclose(
    network(_turned(images, 1)), group.turn(maps), atol=2e-5
  )
  np.testing.assert_allclose(
    network(images[:, :, ::-1]), group.mirror(maps), atol=2e-5
  )
  # Upside down is a mirroring and half a turn.
  np.testing.assert_allclose(
    network(images[:, ::-1]), group.turn(group.mirror(maps), 2), atol=2e-5
  )


def test_group_pooling_is_a_maximum_then_one_number_a_channel():
  x = _random(2, 3, 3, 4, 5)
  maps = np.asarray(x).max(axis=3)
  np.testing.assert_array_equal(group.group_pool(x), maps)
  np.testing.assert_allclose(
    group.global_group_pool(x), maps.mean(axis=(1, 2)), rtol=1e-6
  )
  np.testing.assert_array_equal(
    group.global_group_pool(x, positions="max"), maps.max(axis=(1, 2))
  )


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda x: group.lifting_convolution(
        x[..., 0, :], jnp.zeros((4, 4, 2, 1)), jnp.zeros(1)
      ),
      "kernel of width 4 is even",
    ),
    (
      lambda x: group.group_convolution(
        x, jnp.zeros((2, 2, 4, 2, 1)), jnp.zeros(1)
      ),
      "kernel of width 2 is even",
    ),
    (
      lambda x: group.group_convolution(
        x, jnp.zeros((11, 11, 4, 2, 1)), jnp.zeros(1), circular=True
      ),
      "circular padding of 5 needs a map",
    ),
    (
      lambda x: group.lifting_convolution(
        x[..., 0, :], jnp.zeros((3, 3, 2, 1)), jnp.zeros(1), group="p6"
      ),
      "group='p6' is not 'p4' or 'p4m'",
    ),
    (
      lambda x: group.group_convolution(
        x[..., :3, :], jnp.zeros((3, 3, 3, 2, 1)), jnp.zeros(1)
      ),
      "maps of 3 and a kernel of 3 orientations",
    ),
    (
      lambda x: group.global_group_pool(x, positions="sum"),
      "positions='sum' is not 'mean' or 'max'",
    ),
  ],
)
def test_wrong_values_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.zeros((1, 4, 4, 4, 2)))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"group": "p6"}, "group='p6' is not one of 'p4', 'p4m' for a group"),
    ({"pooling": "stride"}, "pooling='stride' is not one of 'max', 'avg'"),
    ({"head": "dense"}, "head='dense' is not one of 'gap', 'gmp'"),
    ({"padding": "valid"}, "padding='valid' is not one of 'same', 'circ"),
    ({"depth": 9}, "depth=9 is not between 1 and 8"),
    ({"width": 0}, "width=0 is not positive"),
    ({"kernel_size": 2}, "kernel_size=2 is not odd"),
  ],
)
def test_impossible_group_networks_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    GroupCNN(**fields)


def test_a_canvas_that_is_halved_unevenly_is_refused():
  with pytest.raises(ValueError, match="3 poolings halve a 28 px canvas unev"):
    GroupCNN(depth=3).geometry(28)
  assert GroupCNN(depth=3, pooling="none").geometry(27)
