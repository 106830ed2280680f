"""Convolutions over the groups p4 and p4m: shifts, quarter turns, mirrors.

A map of the group has an axis of orientations, (n, h, w, g, c): the four turns
for p4, the four turns and the four turned mirror images for p4m. The kernels
are shared by all orientations, as an ordinary convolution shares them by all
positions, so that a quarter turn of the image turns the maps and moves the
orientations on: `turn`; for p4m a mirrored image does `mirror`. It is exact, up
to the rounding of sums in another order, for any canvas and either padding, and
for any pointwise layer in between. A pooling window of stride s keeps it exact
on sides that are multiples of s.

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

TURNS = 4

# Orientations of each group. Index g of p4m is g mod 4 turns, counter-clockwise
# as displayed, after a mirroring left to right if g is 4 or more.
ORIENTATIONS = {"p4": TURNS, "p4m": 2 * TURNS}

GroupMap = Float[Array, "n h w g c"]


def product(one: int, other: int) -> int:
  """Orientation that results from `other` followed by `one`."""
  mirrors = one // TURNS + other // TURNS
  # A mirror before turns is the opposite turns before a mirror.
  turns = one + (-other if one >= TURNS else other)
  return mirrors % 2 * TURNS + turns % TURNS


def oriented(x: Array, orientation: int, axes: tuple[int, int]) -> Array:
  """An array turned and mirrored about the centre of two axes."""
  if orientation >= TURNS:
    x = jnp.flip(x, axes[1])
  return jnp.rot90(x, orientation % TURNS, axes)


def turn(x: GroupMap, quarter_turns: int = 1) -> Float[Array, "n p q g c"]:
  """What quarter turns of the image do to a map of the group.

  Args:
    x: maps of the group.
    quarter_turns: how many, + is counter-clockwise as displayed.

  Returns:
    The maps turned, their orientations moved on: that of index g is now where
    `product` takes it.
  """
  return _act(x, quarter_turns % TURNS)


def mirror(x: Float[Array, "n h w 8 c"]) -> Float[Array, "n h w 8 c"]:
  """What mirroring the image left to right does to a map of p4m."""
  return _act(x, TURNS)


def _act(x: Array, orientation: int) -> Array:
  x = oriented(x, orientation, (1, 2))
  # Where each orientation's map comes from: the inverse permutation.
  moved = [product(orientation, g) for g in range(x.shape[3])]
  return jnp.stack([x[:, :, :, moved.index(g)] for g in range(x.shape[3])], 3)


def lifting_convolution(
  x: Float[Array, "n h w c"],
  kernel: Float[Array, "k k c o"],
  bias: Float[Array, " o"],
  *,
  group: str = "p4",
  circular: bool = False,
  train: bool = False,
) -> Float[Array, "n h w g o"]:
  """Convolves images with a kernel in each orientation of a group.

  Args:
    x: images, or maps without orientations.
    kernel: height, width, in, out; of odd width.
    bias: one number an output channel, shared by the orientations.
    group: "p4" or "p4m".
    circular: whether the padding wraps around; zeros otherwise.
    train: as for `layers.convolution`.

  Returns:
    Maps of the group, as high and wide as `x`. Orientation g is the
    convolution with the kernel in orientation g.

  Raises:
    ValueError: another group, an even kernel, or circular padding wider than
      the map.
  """
  if group not in ORIENTATIONS:
    raise ValueError(f"group={group!r} is not 'p4' or 'p4m'")
  turned = [oriented(kernel, g, (0, 1)) for g in range(ORIENTATIONS[group])]
  return _convolution(x, jnp.stack(turned, axis=3), bias, circular, train)


def group_convolution(
  x: GroupMap,
  kernel: Float[Array, "k k g c o"],
  bias: Float[Array, " o"],
  *,
  circular: bool = False,
  train: bool = False,
) -> Float[Array, "n h w g o"]:
  """Convolves over positions and orientations.

  Args:
    x: maps of the group.
    kernel: height, width, orientation relative to the output's, in, out; of
      odd width.
    bias: one number an output channel, shared by the orientations.
    circular: whether the padding wraps around; zeros otherwise.
    train: as for `layers.convolution`.

  Returns:
    Maps of the group, as high and wide as `x`. Orientation g weighs the
    input's orientation `product(g, r)` with the kernel's r, in orientation g.

  Raises:
    ValueError: a number of orientations that is no group's, an even kernel,
      or circular padding wider than the map.
  """
  count = x.shape[3]
  if count not in ORIENTATIONS.values() or kernel.shape[2] != count:
    raise ValueError(
      f"maps of {count} and a kernel of {kernel.shape[2]} orientations: both"
      " have 4 (p4) or 8 (p4m)"
    )
  turned = []
  for g in range(count):
    own = oriented(kernel, g, (0, 1))
    read = [product(g, r) for r in range(count)]
    turned.append(
      jnp.stack([own[:, :, read.index(h)] for h in range(count)], axis=2)
    )
  stacked = jnp.stack(turned, axis=4)  # (k, k, g, c, g, o)
  size, channels = kernel.shape[0], count * x.shape[-1]
  return _convolution(
    x.reshape(*x.shape[:3], channels),
    stacked.reshape(size, size, channels, count, -1),
    bias,
    circular,
    train,
  )


def _convolution(
  x: Array, kernel: Array, bias: Array, circular: bool, train: bool
) -> Array:
  """One ordinary convolution for all orientations; kernel (k, k, c, g, o)."""
  size, count, outputs = kernel.shape[0], *kernel.shape[-2:]
  if size % 2 == 0:
    raise ValueError(
      f"kernel of width {size} is even: it has no centre to turn about; use an"
      " odd one"
    )
  maps = layers.convolution(
    x,
    kernel.reshape(*kernel.shape[:3], count * outputs),
    jnp.tile(bias, count),
    padding=size // 2,
    circular=circular,
    train=train,
  )
  return maps.reshape(*maps.shape[:3], count, outputs)


def group_pool(x: GroupMap) -> Float[Array, "n h w c"]:
  """The largest of all orientations: maps that turn with the image.

  Args:
    x: maps of the group.

  Returns:
    Maps without orientations, equivariant to the group.
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
    A number a channel, invariant to quarter turns, for p4m to mirroring too;
    after circular padding also to circular shifts.

  Raises:
    ValueError: another kind of pooling.
  """
  if positions not in ("mean", "max"):
    raise ValueError(f"positions={positions!r} is not 'mean' or 'max'")
  reduce = jnp.mean if positions == "mean" else jnp.max
  return reduce(group_pool(x), axis=(1, 2))
