import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import layers, untied
from models.cnn import CNN


def _random(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
  ("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 0)]
)
def test_with_the_same_weights_everywhere_it_is_a_convolution(stride, padding):
  x, kernel, bias = _random(2, 7, 9, 3), _random(3, 3, 3, 4), _random(4)
  expected = layers.convolution(x, kernel, bias, stride=stride, padding=padding)
  height, width = expected.shape[1:3]
  patch = jnp.moveaxis(kernel, 2, 0).reshape(27, 4)  # channel, row, column
  maps = untied.locally_connected(
    x,
    jnp.broadcast_to(patch, (height, width, 27, 4)),
    jnp.broadcast_to(bias, (height, width, 4)),
    kernel_size=3,
    stride=stride,
    padding=padding,
  )
  np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize("border", ["zero", "circular", "reflect"])
def test_each_position_sees_what_a_convolution_sees_there(border):
  """The Jacobian is zero exactly where the convolution's is."""
  x = _random(1, 5, 5, 1)
  options = {"padding": 1, "border": border}
  reads = []
  for module in (
    untied.LocallyConnected(1, 3, **options),
    layers.Conv(1, 3, **options),
  ):
    variables = module.init(jax.random.key(0), x)
    jacobian = jax.jacobian(lambda x, m=module, v=variables: m.apply(v, x))(x)
    reads.append(np.asarray(jacobian) != 0)
  np.testing.assert_array_equal(*reads)


def test_a_layer_has_as_many_times_the_weights_as_positions():
  shared, local = (
    CNN(depth=1, width=4, pooling="none", weight_sharing=s).parameter_counts(32)
    for s in (True, False)
  )
  assert local["conv1"] == 32 * 32 * shared["conv1"]
  assert local["logits"] == shared["logits"]


def test_initial_weights_are_of_the_size_of_a_convolution_s():
  x = jnp.zeros((1, 16, 16, 8))
  kernels = [
    jax.tree.leaves(module.init(jax.random.key(0), x)["params"])[1]
    for module in (untied.LocallyConnected(16, 3), layers.Conv(64, 3))
  ]
  local, shared = (float(jnp.std(k)) for k in kernels)
  assert local == pytest.approx(shared, rel=0.02)
  one, other = kernels[0][0, 0].ravel(), kernels[0][1, 1].ravel()
  assert abs(float(jnp.corrcoef(one, other)[0, 1])) < 0.1
