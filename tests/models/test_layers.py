import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models import layers


def _random(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _stock(x, kernel, bias, stride, padding):
  maps = lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return maps + bias[None, None, None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  ("kernel", "padding", "stride", "images"),
  [(3, 1, 1, 5), (3, 1, 2, 5), (5, 2, 1, 5), (4, 0, 2, 5), (1, 0, 1, 5)],
)
def test_the_fast_gradient_is_the_stock_gradient(
  channels, kernel, padding, stride, images
):
  x = _random(images, 9, 9, channels)
  k = _random(kernel, kernel, channels, 4, seed=1)
  b = _random(4, seed=2)

  def loss(convolve):
    return lambda *args: (jnp.sin(convolve(*args))).sum()

  def fast(x, k, b):
    return layers.convolution(
      x, k, b, stride=stride, padding=padding, train=True
    )

  def stock(x, k, b):
    return _stock(x, k, b, stride, padding)

  np.testing.assert_allclose(fast(x, k, b), stock(x, k, b), atol=2e-5)
  ours = jax.grad(loss(fast), argnums=(0, 1, 2))(x, k, b)
  theirs = jax.grad(loss(stock), argnums=(0, 1, 2))(x, k, b)
  for one, other in zip(ours, theirs, strict=True):
    scale = np.abs(other).max()
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-5)


def test_the_fast_gradients_of_dense_layers_and_relu_are_stock():
  x, kernel, bias = _random(7, 12), _random(12, 5, seed=1), _random(5, seed=2)
  x = x.at[0, :3].set(0.0)  # where the derivative of a ReLU is a convention

  def fast(x, kernel, bias):
    hidden = layers.relu(x, train=True)
    return jnp.sin(layers.dense(hidden, kernel, bias, train=True)).sum()

  def stock(x, kernel, bias):
    return jnp.sin(nn.relu(x) @ kernel + bias[None]).sum()

  np.testing.assert_allclose(fast(x, kernel, bias), stock(x, kernel, bias))
  ours = jax.grad(fast, argnums=(0, 1, 2))(x, kernel, bias)
  theirs = jax.grad(stock, argnums=(0, 1, 2))(x, kernel, bias)
  for one, other in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_initial_weights_are_those_of_flax():
  x = _random(2, 6)
  for ours, theirs in (
    (layers.Dense(4), nn.Dense(4)),
    (
      layers.Conv(4, 3),
      nn.Conv(4, (3, 3), kernel_init=nn.initializers.he_normal()),
    ),
  ):
    example = x if isinstance(theirs, nn.Dense) else _random(1, 5, 5, 2)
    one, other = (m.init(jax.random.key(0), example) for m in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_convolution_does_not_flip_its_kernel():
  """The weighted sum of the patch, weights = kernel: a cross-correlation."""
  x, kernel = _random(1, 6, 6, 1), _random(3, 3, 1, 1, seed=1)
  maps = layers.convolution(x, kernel, jnp.zeros(1))
  patch = x[0, 2:5, 1:4, 0]
  assert maps[0, 2, 1, 0] == pytest.approx(
    float((patch * kernel[..., 0, 0]).sum()), abs=1e-6
  )


def test_circular_padding_wraps_around():
  x = _random(2, 6, 6, 3)
  expected = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="wrap")
  np.testing.assert_array_equal(layers.pad_circular(x, 2), expected)
  with pytest.raises(ValueError, match=r"padding of 7 .* got 6x6"):
    layers.pad_circular(x, 7)


@pytest.mark.parametrize(("size", "window"), [(8, 2), (9, 2), (9, 3), (11, 3)])
def test_max_pooling_and_its_gradient_are_flax_s(size, window):
  # Rounded, so that windows hold equal maxima and ties are tested too.
  x = jnp.round(_random(3, size, size, 4))

  def fast(x):
    return layers.max_pool(x, window=window, stride=window, train=True)

  def plain(x):
    return layers.max_pool(x, window=window, stride=window)

  def stock(x):
    return nn.max_pool(x, (window, window), (window, window))

  np.testing.assert_array_equal(fast(x), stock(x))
  np.testing.assert_array_equal(plain(x), stock(x))
  g = _random(*stock(x).shape, seed=3)
  ours = jax.grad(lambda x: (fast(x) * g).sum())(x)
  theirs = jax.grad(lambda x: (stock(x) * g).sum())(x)
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 3), (3, 2), (3, 1)])
def test_pooling_windows_and_strides(window, stride):
  x = _random(2, 10, 10, 3)
  shape, strides = (window, window), (stride, stride)
  np.testing.assert_array_equal(
    layers.max_pool(x, window=window, stride=stride),
    nn.max_pool(x, shape, strides),
  )
  # Flax's own avg_pool mixes integers and floats, which strict promotion bars.
  total = nn.pool(x, np.float32(0), lax.add, shape, strides, "VALID")
  np.testing.assert_allclose(
    layers.avg_pool(x, window=window, stride=stride),
    total / window**2,
    atol=1e-6,
  )


def test_the_lectures_pooling_example():
  """Control 7: a maximum anywhere in its 3x3 window gives the same output."""
  image = np.ones((1, 9, 9, 1), np.float32)
  outputs = []
  for row in range(3, 6):
    for column in range(3, 6):
      moved = image.copy()
      moved[0, row, column, 0] = 8
      outputs.append(
        np.asarray(layers.max_pool(jnp.asarray(moved), window=3, stride=3))
      )
  for output in outputs:
    np.testing.assert_array_equal(output, outputs[0])
  assert outputs[0][0, 1, 1, 0] == 8
  across = image.copy()
  across[0, 3, 6, 0] = 8  # one pixel further: the next window
  other = np.asarray(layers.max_pool(jnp.asarray(across), window=3, stride=3))
  assert other[0, 1, 1, 0] == 1
  assert other[0, 1, 2, 0] == 8


@pytest.mark.parametrize("train", [False, True])
def test_dilation_spreads_the_kernel(train):
  """A kernel with zeros between its weights, and the same gradient."""
  x, kernel, bias = _random(2, 9, 9, 3), _random(3, 3, 3, 4), _random(4)
  spread = jnp.zeros((5, 5, 3, 4)).at[::2, ::2].set(kernel)

  def value(kernel, dilation):
    maps = layers.convolution(
      x, kernel, bias, padding=2, dilation=dilation, train=train
    )
    return jnp.sin(maps).sum(), maps

  ours, gradient = jax.value_and_grad(value, has_aux=True)(kernel, 2)
  expected, full = jax.value_and_grad(value, has_aux=True)(spread, 1)
  np.testing.assert_allclose(ours[1], expected[1], atol=1e-5)
  np.testing.assert_allclose(gradient, full[::2, ::2], atol=1e-4)
