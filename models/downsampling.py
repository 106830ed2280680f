"""Downsampling that respects shifts better than max pooling does.

Functions of maps (n, h, w, c) without parameters, differentiable in forward
and reverse mode:

* `blur_pool` smooths before it samples, so that a one-pixel shift changes the
  samples little;
* `adaptive_polyphase` lets the map itself say where to sample, so that a
  circular shift changes which samples are taken by nothing but a shift.

References:
  R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
  A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural
  networks", CVPR 2021.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

_BINOMIAL = {
  1: (1,),
  2: (1, 1),
  3: (1, 2, 1),
  4: (1, 3, 3, 1),
  5: (1, 4, 6, 4, 1),
}

# How `jnp.pad` calls them.
_PAD_MODES = {"reflect": "reflect", "circular": "wrap", "zero": "constant"}

Map = Float[Array, "n h w c"]


def blur_pool(
  x: Map, size: int, stride: int = 2, *, border: str = "reflect"
) -> Float[Array, "n p q c"]:
  """Smooths each channel with a binomial filter, then takes every second place.

  The filter is separable, its weights sum to 1: a constant map stays as it is
  (but for its edges under a zero border). Output position j is centred on
  input position `stride * j` for an odd size, half a position further for an
  even one.

  Args:
    x: input maps.
    size: taps of the filter along each axis, 1 (none: plain striding) to 5.
    stride: positions between samples; 1 only smooths.
    border: what lies outside the map: "reflect" (mirrored, edge not repeated,
      as published), "circular" or "zero".

  Returns:
    Maps of ceil(h / stride) x ceil(w / stride) positions.

  Raises:
    ValueError: a size, stride or border that does not exist.

  References:
    R. Zhang, ICML 2019; there max pooling is a maximum of stride 1 followed by
    this.
  """
  if size not in _BINOMIAL:
    raise ValueError(
      f"blur filter of size {size} does not exist: use 1 to {max(_BINOMIAL)}"
    )
  if border not in _PAD_MODES:
    known = ", ".join(map(repr, _PAD_MODES))
    raise ValueError(f"border={border!r} is not one of {known}")
  _check_stride(stride)
  # The extra place of an even filter is behind, as in the published layer.
  pads = ((size - 1) // 2, size // 2)
  weights = np.array(_BINOMIAL[size], np.float32)
  weights /= weights.sum()
  for axis in (1, 2):
    width = x.shape[axis]
    padding = [pads if a == axis else (0, 0) for a in range(4)]
    x = jnp.pad(x, padding, mode=_PAD_MODES[border])
    # Sums of slices: faster than a convolution that keeps channels apart.
    slices = [
      weight.astype(x.dtype)
      * lax.slice_in_dim(x, i, i + width, stride=stride, axis=axis)
      for i, weight in enumerate(weights)
    ]
    x = functools.reduce(jnp.add, slices)
  return x


def adaptive_polyphase(x: Map, stride: int = 2) -> Float[Array, "n p q c"]:
  """Takes, image by image, the polyphase component of largest norm (APS).

  Striding can start at stride**2 places. Starting where the samples are
  largest makes the choice move along with the image: a circularly shifted
  input gives a circularly shifted output. With circular convolutions before
  and a global average after it, the network is invariant to such shifts.

  Exact unless two components' norms agree to rounding: which of them is taken
  may then change with the shift. Where a position lies in the image depends on
  the image, so the layer has no `LayerGeometry`.

  Args:
    x: input maps, their sides multiples of the stride.
    stride: positions between samples.

  Returns:
    Maps of h / stride x w / stride positions.

  Raises:
    ValueError: a side that is not a multiple of the stride, or a stride below
      1.

  References:
    A. Chaman and I. Dokmanic, CVPR 2021.
  """
  index = polyphase_index(x, stride)[:, None, None, None]
  chosen, *others = _polyphase_components(x, stride)
  # Selecting by `where` costs a pass, a gather and its gradient cost many.
  for k, component in enumerate(others, start=1):
    chosen = jnp.where(index == k, component, chosen)
  return chosen


def polyphase_index(x: Map, stride: int = 2) -> Int[Array, " n"]:
  """Which polyphase component `adaptive_polyphase` takes of each image.

  Args:
    x: input maps, their sides multiples of the stride.
    stride: positions between samples.

  Returns:
    For each image `stride * i + j` if the component that starts at row i and
    column j has the largest l2 norm over positions and channels; of equal
    norms the first, so 0 for a constant map.

  Raises:
    ValueError: a side that is not a multiple of the stride, or a stride below
      1.
  """
  squares = [
    (component.astype(jnp.float32) ** 2).sum(axis=(1, 2, 3))
    for component in _polyphase_components(x, stride)
  ]
  return jnp.argmax(jnp.stack(squares, axis=1), axis=1)


def _polyphase_components(x: Array, stride: int) -> list[Array]:
  _check_stride(stride)
  height, width = x.shape[1:3]
  if height % stride or width % stride:
    raise ValueError(
      f"a {height}x{width} map does not split into components of stride"
      f" {stride}: make both sides multiples of {stride}, by padding or a"
      " larger canvas"
    )
  return [
    x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)
  ]


def _check_stride(stride: int) -> None:
  if stride < 1:
    raise ValueError(f"stride={stride} is not positive: use 1 or more")
