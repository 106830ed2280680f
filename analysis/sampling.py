"""Reading an image between its pixels: weights and indices of each sample.

A warp with fixed coordinates is a sparse matrix: every output pixel is a
weighted sum of a few input pixels. `taps` computes that matrix once, in float64
when the coordinates are numbers known on the host; `resample` applies it.

References:
  M. Unser, "Splines: a perfect fit for signal and image processing", IEEE
  Signal Processing Magazine 16(6), 1999 (order 3).
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

BORDERS = ("zero", "circular", "reflect")
ORDERS = (1, 3)

# The spline prefilter decays by 0.27 a pixel: 12 pixels are 1e-7.
_MARGIN = 12


class Taps(NamedTuple):
  """A sparse resampling matrix.

  Attributes:
    indices: (..., k, p) flat index of the k input pixels of each of the p
      outputs.
    weights: (..., k, p) their weights; 0 for pixels outside under a zero
      border.
  """

  indices: Any
  weights: Any


def namespace(*values: Any) -> ModuleType:
  """jax.numpy if any value is a jax array, else numpy (host, float64)."""
  on_device = any(isinstance(v, jax.Array) for v in values)
  return jnp if on_device else np


def check_kind(order: int, border: str) -> None:
  """Refuses an interpolation order or border that does not exist.

  Raises:
    ValueError: naming the value and what there is.
  """
  if order not in ORDERS:
    raise ValueError(f"order={order} is not one of {ORDERS}")
  if border not in BORDERS:
    raise ValueError(f"border={border!r} is not one of {BORDERS}")


def taps(
  y: Any, x: Any, shape: tuple[int, int], *, order: int = 1, border: str
) -> Taps:
  """The input pixels and weights that interpolate at given coordinates.

  Args:
    y: (...) row coordinates, in pixels of the input, pixel centres at integers.
    x: (...) column coordinates.
    shape: (height, width) of the input.
    order: 1, bilinear, or 3, the interpolating cubic B-spline.
    border: "zero" (the image is 0 outside, and blends into it within a pixel
      of the edge), "circular" or "reflect" (mirrored, edge not repeated).

  Returns:
    Taps over the last axis of `y` and `x`. For order 3 they index the padded
    coefficients that `resample` computes.

  Raises:
    ValueError: an unknown order or border.
  """
  check_kind(order, border)
  xp = namespace(y, x)
  rows = _axis_taps(y, shape[0], order, border, xp)
  columns = _axis_taps(x, shape[1], order, border, xp)
  margin = 0 if order == 1 else _MARGIN
  width = shape[1] + 2 * margin
  indices = [i * width + j for i, _ in rows for j, _ in columns]
  weights = [u * v for _, u in rows for _, v in columns]
  return Taps(
    xp.stack(indices, axis=-2).astype(xp.int32),
    xp.stack(weights, axis=-2).astype(xp.float32),
  )


def _axis_taps(
  position: Any, size: int, order: int, border: str, xp: ModuleType
) -> list[tuple[Any, Any]]:
  """Index and weight of each tap along one axis."""
  low = xp.floor(position)
  fraction = position - low
  if order == 1:
    offsets, weights = (0, 1), (1 - fraction, fraction)
  else:
    offsets = (-1, 0, 1, 2)
    weights = _cubic_weights(fraction)
  result = []
  for offset, weight in zip(offsets, weights, strict=True):
    index = low.astype(xp.int32) + offset
    if border == "circular":
      index = index % size
    elif border == "reflect":
      index = _mirror(index, size, xp)
    margin = _MARGIN if order == 3 else 0
    inside = (index >= -margin) & (index < size + margin)
    index = xp.clip(index + margin, 0, size + 2 * margin - 1)
    result.append((index, xp.where(inside, weight, xp.zeros_like(weight))))
  return result


def _mirror(index: Any, size: int, xp: ModuleType) -> Any:
  if size == 1:
    return xp.zeros_like(index)
  index = index % (2 * size - 2)
  return xp.minimum(index, 2 * size - 2 - index)


def _cubic_weights(t: Any) -> tuple[Any, Any, Any, Any]:
  """The cubic B-spline at distances 1 + t, t, 1 - t and 2 - t."""
  s = 1 - t
  return (
    s**3 / 6,
    (4 - 6 * t**2 + 3 * t**3) / 6,
    (4 - 6 * s**2 + 3 * s**3) / 6,
    t**3 / 6,
  )


def spline_coefficients(
  maps: Float[Array, "n h w c"], border: str
) -> Float[Array, "n p q c"]:
  """Coefficients of the interpolating cubic B-spline, with a margin.

  The maps are continued beyond their edges as `border` says, by 12 pixels, and
  both axes are filtered by the inverse of the spline's own samples
  (1/6, 4/6, 1/6).

  Args:
    maps: values at the pixels.
    border: how the maps continue outside: "zero", "circular" or "reflect".

  Returns:
    Coefficients for h + 24 rows and w + 24 columns.
  """
  for axis in (1, 2):
    matrix = jnp.asarray(spline_matrix(maps.shape[axis], border), maps.dtype)
    maps = jnp.moveaxis(jnp.tensordot(matrix, maps, axes=(1, axis)), 0, axis)
  return maps


def spline_matrix(size: int, border: str) -> np.ndarray:
  """Matrix from samples to the coefficients of their cubic B-spline.

  Args:
    size: number of samples along the axis.
    border: how they continue outside: "zero", "circular" or "reflect".

  Returns:
    (size + 24, size): 12 coefficients beyond either end.
  """
  total = size + 2 * _MARGIN
  outside = np.arange(-_MARGIN, size + _MARGIN)
  extension = np.zeros((total, size))
  if border == "zero":
    extension[_MARGIN : _MARGIN + size] = np.eye(size)
  else:
    source = outside % size if border == "circular" else None
    source = _mirror(outside, size, np) if source is None else source
    extension[np.arange(total), source] = 1
  band = np.repeat([[1 / 6], [4 / 6], [1 / 6]], total, axis=1)
  return np.asarray(scipy.linalg.solve_banded((1, 1), band, extension))


def resample(
  maps: Float[Array, "n h w c"], sampling: Taps
) -> Float[Array, "n ... p c"]:
  """Weighted sums of map positions: the taps applied to every map.

  A tap of weight 0 reads a position too, so a NaN there spreads.

  Args:
    maps: maps, or for order 3 their `spline_coefficients`.
    sampling: taps of shape (..., k, p), the same for all maps.

  Returns:
    The p samples of every map and channel, one set for each leading index of
    the taps.
  """
  n, height, width, channels = maps.shape
  flat = maps.reshape(n, height * width, channels)
  total = jnp.zeros((), maps.dtype)
  for k in range(sampling.indices.shape[-2]):
    weight = sampling.weights[..., k, :][None, ..., None]
    values = flat[:, sampling.indices[..., k, :]]
    total = total + values * weight.astype(maps.dtype)
  return total


def area_average(
  size: int, positions: int, stride: int, offset: float, *, circular: bool
) -> Float[np.ndarray, "positions size"]:
  """Matrix that averages pixels over each position's own stretch of an axis.

  Position j owns the `stride` pixels around `offset + stride * j`; pixels that
  it owns in part count in part, and what lies outside the canvas is 0 or, on a
  circular canvas, wraps around.

  Args:
    size: pixels of the axis.
    positions: positions of the map.
    stride: pixels between positions.
    offset: coordinate of position 0.
    circular: whether the axis wraps around.

  Returns:
    The averaging matrix; rows away from the edges sum to 1.
  """
  centres = offset + stride * np.arange(positions)
  pixels = np.arange(-size, 2 * size)
  left = np.maximum(centres[:, None] - stride / 2, pixels - 0.5)
  right = np.minimum(centres[:, None] + stride / 2, pixels + 0.5)
  overlap = np.maximum(right - left, 0) / stride
  if circular:
    return overlap.reshape(positions, 3, size).sum(axis=1)
  return overlap[:, size : 2 * size]
