"""Convolutions over the group p4: translations and quarter turns.

A map of the group has an axis of four orientations, (n, h, w, 4, c). The
kernels are shared by all orientations, as an ordinary convolution shares them
by all positions, so that a quarter turn of the image turns the maps and moves
the orientations on by one: `turn`. It is exact, up to the rounding of sums in
another order, for any canvas and either padding, and for any pointwise layer
in between. A pooling window of stride s keeps it exact on sides that are
multiples of s.

  x = lifting_convolution(images, kernel1, bias1)
  x = group_convolution(relu(x), kernel2, bias2)
  features = global_group_pool(relu(x))  # does not change with quarter turns

References:
  T. Cohen and M. Welling, "Group equivariant convolutional networks", ICML
  2016, arXiv:1602.07576.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from models import layers

ORIENTATIONS = 4

GroupMap = Float[Array, "n h w 4 c"]


def turn(x: GroupMap, quarter_turns: int = 1) -> Float[Array, "n p q 4 c"]:
  """What quarter turns of the image do to a map of the group.

  Args:
    x: maps of the group.
    quarter_turns: how many, + is counter-clockwise as displayed.

  Returns:
    The maps turned, their orientations moved on: that of index g is now at
    g + `quarter_turns`, modulo 4.
  """
  turned = jnp.rot90(x, quarter_turns, axes=(1, 2))
  return jnp.roll(turned, quarter_turns, axis=3)


def lifting_convolution(
  x: Float[Array, "n h w c"],
  kernel: Float[Array, "k k c o"],
  bias: Float[Array, " o"],
  *,
  circular: bool = False,
) -> Float[Array, "n h w 4 o"]:
  """Convolves images with a kernel in each of its four orientations.

  Args:
    x: images, or maps without orientations.
    kernel: height, width, in, out; of odd width.
    bias: one number an output channel, shared by the orientations.
    circular: whether the padding wraps around; zeros otherwise.

  Returns:
    Maps of the group, as high and wide as `x`. Orientation g is the
    convolution with the kernel turned g times, counter-clockwise.

  Raises:
    ValueError: an even kernel, or circular padding wider than the map.
  """
  turned = [jnp.rot90(kernel, g) for g in range(ORIENTATIONS)]
  return _convolution(x, jnp.stack(turned, axis=3), bias, circular)


def group_convolution(
  x: GroupMap,
  kernel: Float[Array, "k k 4 c o"],
  bias: Float[Array, " o"],
  *,
  circular: bool = False,
) -> Float[Array, "n h w 4 o"]:
  """Convolves over positions and orientations.

  Args:
    x: maps of the group.
    kernel: height, width, orientation relative to the output's, in, out; of
      odd width.
    bias: one number an output channel, shared by the orientations.
    circular: whether the padding wraps around; zeros otherwise.

  Returns:
    Maps of the group, as high and wide as `x`. Orientation g weighs the
    input's orientation g + r with the kernel's r, turned g times.

  Raises:
    ValueError: an even kernel, or circular padding wider than the map.
  """
  turned = [
    jnp.roll(jnp.rot90(kernel, g), g, axis=2) for g in range(ORIENTATIONS)
  ]
  stacked = jnp.stack(turned, axis=4)  # (k, k, 4, c, 4, o)
  size, channels = kernel.shape[0], ORIENTATIONS * x.shape[-1]
  return _convolution(
    x.reshape(*x.shape[:3], channels),
    stacked.reshape(size, size, channels, ORIENTATIONS, -1),
    bias,
    circular,
  )


def _convolution(x: Array, kernel: Array, bias: Array, circular: bool) -> Array:
  """One ordinary convolution for all orientations; kernel (k, k, c, 4, o)."""
  size, outputs = kernel.shape[0], kernel.shape[-1]
  if size % 2 == 0:
    raise ValueError(
      f"kernel of width {size} is even: it has no centre to turn about; use an"
      " odd one"
    )
  maps = layers.convolution(
    x,
    kernel.reshape(*kernel.shape[:3], ORIENTATIONS * outputs),
    jnp.tile(bias, ORIENTATIONS),
    padding=size // 2,
    circular=circular,
  )
  return maps.reshape(*maps.shape[:3], ORIENTATIONS, outputs)


def group_pool(x: GroupMap) -> Float[Array, "n h w c"]:
  """The largest of the four orientations: maps that turn with the image.

  Args:
    x: maps of the group.

  Returns:
    Maps without orientations, equivariant to quarter turns.
  """
  return x.max(axis=3)


def global_group_pool(
  x: GroupMap, *, positions: str = "mean"
) -> Float[Array, "n c"]:
  """Pools orientations (maximum) and then positions: invariant to the group.

  Args:
    x: maps of the group.
    positions: what of all positions: "mean" or "max".

  Returns:
    A number a channel, invariant to quarter turns; after circular padding also
    to circular shifts.

  Raises:
    ValueError: another kind of pooling.
  """
  if positions not in ("mean", "max"):
    raise ValueError(f"positions={positions!r} is not 'mean' or 'max'")
  reduce = jnp.mean if positions == "mean" else jnp.max
  return reduce(group_pool(x), axis=(1, 2))
