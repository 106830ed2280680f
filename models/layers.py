"""Convolution, pooling and dense layers.

Each layer is a function of arrays. `Conv` and `Dense` only add parameters to
theirs. Every function has two implementations of the same mathematics:

* the plain one, made of `jax.lax` primitives, is differentiable in forward and
  reverse mode and is what is measured;
* with `train=True`, a version with a hand-written gradient, reverse mode
  only. On a CPU it is several times faster, and convolutions are computed by
  loops of our own (`models.native`); elsewhere it is the plain one.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from models import native, platform
from models.geometry import output_size

_NHWC = ("NHWC", "HWIO", "NHWC")

# Channels are normalised in so many groups, or fewer where they do not divide.
_GROUPS = 8

Map = Float[Array, "n h w c"]


def pad_circular(x: Map, padding: int) -> Float[Array, "n p q c"]:
  """Wraps a map around, `padding` positions on each side.

  Raises:
    ValueError: the map is smaller than the padding.
  """
  if padding > min(x.shape[1:3]):
    raise ValueError(
      f"circular padding of {padding} needs a map of at least as many"
      f" positions, got {x.shape[1]}x{x.shape[2]}"
    )
  if padding == 0:
    return x
  x = jnp.concatenate([x[:, -padding:], x, x[:, :padding]], axis=1)
  return jnp.concatenate([x[:, :, -padding:], x, x[:, :, :padding]], axis=2)


def pad_map(
  x: Map, padding: int, extra: int = 0, *, border: str = "zero"
) -> Float[Array, "n p q c"]:
  """Adds positions around a map.

  Args:
    x: input maps.
    padding: positions on each side.
    extra: positions behind the last row and column, beyond `padding`.
    border: what they hold: "zero", "circular" (the other side's) or "reflect"
      (mirrored, the edge not repeated).

  Returns:
    Maps that are `2 * padding + extra` positions wider.

  Raises:
    ValueError: a map too small to be wrapped or mirrored so far.
  """
  if border == "circular" and not extra:
    return pad_circular(x, padding)
  behind = padding + extra
  least = {"zero": 0, "circular": behind, "reflect": behind + 1}[border]
  if min(x.shape[1:3]) < least and behind:
    raise ValueError(
      f"{border} padding of {behind} needs a map of at least {least} positions,"
      f" got {x.shape[1]}x{x.shape[2]}"
    )
  mode = {"zero": "constant", "circular": "wrap", "reflect": "reflect"}[border]
  sides = (padding, behind)
  return jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode=mode)


def convolution(
  x: Map,
  kernel: Float[Array, "k k c o"],
  bias: Float[Array, " o"],
  *,
  stride: int = 1,
  padding: int = 0,
  circular: bool = False,
  dilation: int = 1,
  rectify: bool = False,
  train: bool = False,
) -> Float[Array, "n p q o"]:
  """Slides a kernel over a map: a cross-correlation, the kernel not flipped.

  Args:
    x: input maps.
    kernel: weights shared by all positions, height, width, in, out.
    bias: one number an output channel.
    stride: positions the kernel moves at each step.
    padding: positions added on each side, zeros or wrapped around.
    circular: whether the padding wraps around.
    dilation: positions from one tap of the kernel to the next.
    rectify: whether to make negative outputs 0, as `relu` does.
    train: whether to use the hand-written gradient (reverse mode only).

  Returns:
    Maps of `output_size(h, dilation * (k - 1) + 1, padding, stride)`
    positions.

  Raises:
    ValueError: circular padding wider than the map.
  """
  if circular:
    x, padding = pad_circular(x, padding), 0
  if train and platform.on_cpu() and dilation == 1:
    if native.usable(x, kernel, stride, padding):
      return native.convolution(x, kernel, bias, stride, padding, rectify)
    maps = _conv_cpu(x, kernel, bias, stride, padding)
  else:
    maps = _conv(x, kernel, stride, padding, dilation)
    maps += bias[None, None, None]
  return relu(maps, train=train) if rectify else maps


def _conv(
  x: Array, kernel: Array, stride: int, padding: int, dilation: int = 1
) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=_NHWC,
  )


def _patches(x: Array, size: int, stride: int, padding: int) -> Array:
  """The patches of a one-channel map, as rows: (n, p, q, size * size)."""
  x = jnp.pad(x[..., 0], ((0, 0), (padding, padding), (padding, padding)))
  rows = range(0, x.shape[1] - size + 1, stride)
  columns = range(0, x.shape[2] - size + 1, stride)
  slices = [
    x[:, i : i + rows[-1] + 1 : stride, j : j + columns[-1] + 1 : stride]
    for i in range(size)
    for j in range(size)
  ]
  return jnp.stack(slices, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv_cpu(
  x: Array, kernel: Array, bias: Array, stride: int, padding: int
) -> Array:
  if kernel.shape[2] == 1:
    # One matrix product. XLA's own convolution of one channel is 3 times
    # slower: it has nothing to vectorise over.
    patches = _patches(x, kernel.shape[0], stride, padding)
    maps = patches @ kernel.reshape(-1, kernel.shape[3])
  else:
    maps = _conv(x, kernel, stride, padding)
  return maps + bias[None, None, None]


def _conv_cpu_forward(
  x: Array, kernel: Array, bias: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
  return _conv_cpu(x, kernel, bias, stride, padding), (x, kernel)


def _conv_cpu_backward(
  stride: int, padding: int, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array, Array]:
  x, kernel = saved
  flat = g.reshape(-1, g.shape[-1])
  d_bias = _sum_of_rows(flat)
  d_x = jax.linear_transpose(
    lambda x: _conv(x, kernel, stride, padding),
    jax.ShapeDtypeStruct(x.shape, x.dtype),
  )(g)[0]
  if kernel.shape[2] == 1:
    patches = _patches(x, kernel.shape[0], stride, padding)
    rows = patches.reshape(-1, patches.shape[-1])
    d_kernel = (rows.T @ flat).reshape(kernel.shape)
  else:
    d_kernel = jax.linear_transpose(
      lambda k: _conv(x, k, stride, padding),
      jax.ShapeDtypeStruct(kernel.shape, kernel.dtype),
    )(g)[0]
  return d_x, d_kernel, d_bias


_conv_cpu.defvjp(_conv_cpu_forward, _conv_cpu_backward)


def window_slices(x: Array, window: int, stride: int) -> list[Array]:
  """What each place of the pooling window sees: window**2 strided maps."""
  height, width = (output_size(n, window, 0, stride) for n in x.shape[1:3])
  return [
    x[:, i : i + stride * height : stride, j : j + stride * width : stride][
      :, :height, :width
    ]
    for i in range(window)
    for j in range(window)
  ]


def max_pool(
  x: Map, *, window: int = 2, stride: int = 2, train: bool = False
) -> Float[Array, "n p q c"]:
  """The largest value of each window, channel by channel. No parameters.

  Rows and columns that do not fill a window are left out.

  Args:
    x: input maps.
    window: width of the window.
    stride: step of the window.
    train: whether to use the hand-written gradient (reverse mode only), which
      exists for windows that do not overlap. Like XLA's own it gives the whole
      gradient to the first of equal maxima, in reading order.

  Returns:
    Maps of `output_size(h, window, 0, stride)` positions.
  """
  if train and window == stride and platform.on_cpu():
    height, width = (output_size(n, window, 0, stride) for n in x.shape[1:3])
    return _max_pool_cpu(x[:, : height * stride, : width * stride], window)
  return functools.reduce(jnp.maximum, window_slices(x, window, stride))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_cpu(x: Array, window: int) -> Array:
  return functools.reduce(jnp.maximum, window_slices(x, window, window))


def _max_pool_cpu_forward(
  x: Array, window: int
) -> tuple[Array, tuple[Array, Array]]:
  y = _max_pool_cpu(x, window)
  return y, (x, y)


def _max_pool_cpu_backward(
  window: int, saved: tuple[Array, Array], g: Array
) -> tuple[Array]:
  x, y = saved
  taken = jnp.zeros(y.shape, bool)
  parts = []
  for part in window_slices(x, window, window):
    is_max = (part == y) & ~taken
    parts.append(jnp.where(is_max, g, jnp.zeros_like(g)))
    taken |= is_max
  rows = [
    jnp.stack(parts[i : i + window], axis=3)
    for i in range(0, window**2, window)
  ]
  return (jnp.stack(rows, axis=2).reshape(x.shape),)


_max_pool_cpu.defvjp(_max_pool_cpu_forward, _max_pool_cpu_backward)


def avg_pool(
  x: Map, *, window: int = 2, stride: int = 2
) -> Float[Array, "n p q c"]:
  """The mean of each window, channel by channel. No parameters.

  Rows and columns that do not fill a window are left out.

  Args:
    x: input maps.
    window: width of the window.
    stride: step of the window.

  Returns:
    Maps of `output_size(h, window, 0, stride)` positions.
  """
  total = functools.reduce(jnp.add, window_slices(x, window, stride))
  return total / window**2


def relu(x: Float[Array, "..."], *, train: bool = False) -> Array:
  """max(x, 0), whose derivative at 0 is 0.

  Args:
    x: any array.
    train: whether to use the hand-written gradient (reverse mode only), which
      remembers the output alone: the input need not be kept in memory.

  Returns:
    An array like `x`.
  """
  return _relu_cpu(x) if train and platform.on_cpu() else nn.relu(x)


@jax.custom_vjp
def _relu_cpu(x: Array) -> Array:
  return nn.relu(x)


def _relu_cpu_forward(x: Array) -> tuple[Array, Array]:
  y = nn.relu(x)
  return y, y


def _relu_cpu_backward(y: Array, g: Array) -> tuple[Array]:
  return (jnp.where(y > 0, g, jnp.zeros_like(g)),)


_relu_cpu.defvjp(_relu_cpu_forward, _relu_cpu_backward)


def dense(
  x: Float[Array, "n i"],
  kernel: Float[Array, "i o"],
  bias: Float[Array, " o"],
  *,
  train: bool = False,
) -> Float[Array, "n o"]:
  """Weighted sums of all inputs: a fully connected layer.

  Args:
    x: inputs.
    kernel: a weight for each input and output.
    bias: one number an output.
    train: whether to use the hand-written gradient (reverse mode only).

  Returns:
    The outputs.
  """
  if train and platform.on_cpu():
    return _dense_cpu(x, kernel, bias)
  return x @ kernel + bias[None]


@jax.custom_vjp
def _dense_cpu(x: Array, kernel: Array, bias: Array) -> Array:
  return x @ kernel + bias[None]


def _dense_cpu_forward(
  x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _dense_cpu(x, kernel, bias), (x, kernel)


def _dense_cpu_backward(
  saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array, Array]:
  x, kernel = saved
  # For few outputs g^T x is three times faster than x^T g. The barrier keeps
  # XLA from turning the one into the other.
  d_kernel = lax.optimization_barrier(g.T @ x).T
  return g @ kernel.T, d_kernel, _sum_of_rows(g)


_dense_cpu.defvjp(_dense_cpu_forward, _dense_cpu_backward)


def _sum_of_rows(x: Array) -> Array:
  """A product with ones: a sum over the leading axis is slow on a CPU."""
  return (jnp.ones((1, x.shape[0]), x.dtype) @ x)[0]


def normalise(
  kind: str, x: Float[Array, "..."], dtype: Any, name: str, *, train: bool
) -> Array:
  """Normalises each channel; call it inside a module, as it has parameters.

  Args:
    kind: "batch_norm", over the batch and all positions (in training; then by
      running statistics), or "group_norm", over positions and a group of
      channels of each image.
    x: activations, channels last.
    dtype: of the result.
    name: the layer's.
    train: whether the batch's own statistics are used, and kept.

  Returns:
    An array like `x`.
  """
  if kind == "batch_norm":
    return nn.BatchNorm(
      use_running_average=not train, momentum=0.9, dtype=dtype, name=name
    )(x)
  return nn.GroupNorm(math.gcd(_GROUPS, x.shape[-1]), dtype=dtype, name=name)(x)


class Dense(nn.Module):
  """`dense` with a kernel and a bias of its own (LeCun initialisation)."""

  features: int

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """`features` numbers an image; see `dense`."""
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    return dense(x, kernel, bias, train=train)


class Conv(nn.Module):
  """`convolution` with a kernel and a bias of its own (He initialisation).

  `border` says what the padding holds; see `pad_map`.
  """

  features: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  border: str = "zero"
  dilation: int = 1
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, *, rectify: bool = False, train: bool = False
  ) -> Array:
    """Maps of `features` channels; see `convolution`."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    bias = jnp.zeros(self.features)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
    padding = self.padding
    if self.border != "zero":
      x, padding = pad_map(x, padding, border=self.border), 0
    return convolution(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      bias.astype(self.dtype),
      stride=self.stride,
      padding=padding,
      dilation=self.dilation,
      rectify=rectify,
      train=train,
    )
