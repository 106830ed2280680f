"""Affine maps of images and feature maps, whatever family they are of.

A matrix acts on centred coordinates (x, y, 1) and says where content goes; a
warp reads the input at its inverse. See `analysis.transforms` for conventions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from analysis import sampling

Images = Float[Array | np.ndarray, "n h w c"]


def centred_grid(shape: tuple[int, ...]) -> Float[np.ndarray, "3 p"]:
  """Centred coordinates (x, y, 1) of all pixels, in reading order."""
  height, width = shape
  y, x = np.mgrid[:height, :width].reshape(2, -1)
  ones = np.ones(height * width)
  return np.stack([x - (width - 1) / 2, y - (height - 1) / 2, ones])


def product(first: Any, second: Any) -> Any:
  """Matrix product in full precision.

  An accelerator would else round coordinates to some ten bits, which is a
  hundredth of a pixel at the edge of a small image.

  Args:
    first: (..., p, q) matrices.
    second: (..., q, r) matrices.

  Returns:
    (..., p, r) matrices, on the host if both are.
  """
  if sampling.namespace(first, second) is np:
    return first @ second
  return jnp.matmul(first, second, precision="highest")


def invert(matrix: Any) -> Any:
  """Inverse of affine matrices (..., 3, 3), exact for exact rotations."""
  xp = sampling.namespace(matrix)
  a, b, c = (matrix[..., 0, i] for i in range(3))
  d, e, f = (matrix[..., 1, i] for i in range(3))
  scale = 1 / (a * e - b * d)
  zero, one = xp.zeros_like(a), xp.ones_like(a)
  rows = (
    (e * scale, -b * scale, (b * f - c * e) * scale),
    (-d * scale, a * scale, (c * d - a * f) * scale),
    (zero, zero, one),
  )
  return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def singular(matrix: Float[np.ndarray, "*t 3 3"]) -> Bool[np.ndarray, "*t"]:
  """Whether matrices squash the plane to a line or a point.

  Relative to their size, so that shrinking is not taken for squashing.
  """
  linear = matrix[..., :2, :2]
  size = np.square(linear).sum(axis=(-2, -1))
  a, b, c, d = (linear[..., i, j] for i in range(2) for j in range(2))
  return np.asarray(~(np.abs(a * d - b * c) > 1e-12 * size))


def wraps(
  matrix: Float[np.ndarray, "*t 3 3"], shape: tuple[int, int]
) -> Bool[np.ndarray, "*t"]:
  """Whether matrices map a circular canvas onto itself.

  Translations, reflections, quarter turns and whole shears of a square canvas
  do; whatever turns or scales otherwise tears it where its edges meet.

  Args:
    matrix: the matrices.
    shape: (height, width) of the canvas.

  Returns:
    One value a matrix.
  """
  linear = matrix[..., :2, :2]
  whole = (linear == np.round(linear)).all(axis=(-2, -1))
  onto = np.abs(np.linalg.det(linear)).round(9) == 1
  mixes = (linear[..., 0, 1] != 0) | (linear[..., 1, 0] != 0)
  return np.asarray(whole & onto & ~(mixes & (shape[0] != shape[1])))


def source_coordinates(
  pull: Any,
  shape: tuple[int, int],
  *,
  stride: int = 1,
  offset: float = 0.0,
  image_shape: tuple[int, int] | None = None,
) -> tuple[Any, Any]:
  """Where each position of a map reads from, in positions of the same map.

  A map's position j lies at `offset + stride * j` in the image, and the
  transformation acts there, about the image's centre: a map turned about its
  own centre would be turned about the wrong point.

  Args:
    pull: (..., 3, 3) matrix from output to input, centred image coordinates.
    shape: (height, width) of the map.
    stride: image pixels between positions.
    offset: image coordinate of position 0.
    image_shape: (height, width) of the image; the map's own by default.

  Returns:
    Row and column coordinates, each (..., height * width).
  """
  xp = sampling.namespace(pull)
  height, width = image_shape or shape
  centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
  y, x = np.mgrid[: shape[0], : shape[1]].reshape(2, -1) * stride + offset
  points = np.stack([x - centre_x, y - centre_y, np.ones_like(x)])
  moved = product(pull, xp.asarray(points, pull.dtype))
  return (
    (moved[..., 1, :] + (centre_y - offset)) / stride,
    (moved[..., 0, :] + (centre_x - offset)) / stride,
  )


def affine_warp(
  images: Images,
  matrix: Any,
  *,
  order: int = 1,
  border: str = "zero",
) -> Float[Array, "n h w c"]:
  """Transforms images by a matrix that says where content goes.

  Args:
    images: floating-point images.
    matrix: (3, 3), or (n, 3, 3) for a transformation of its own for each
      image, acting on centred coordinates (x, y, 1).
    order: 1 (bilinear) or 3 (interpolating cubic B-spline).
    border: what lies outside: "zero", "circular" or "reflect".

  Returns:
    The transformed images.

  Raises:
    ValueError: images of the wrong rank or type, an unknown order or border.
  """
  images = jnp.asarray(images)
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      "images must be floating point (n, height, width, channels), got"
      f" {images.dtype} {images.shape}"
    )
  shape = (images.shape[1], images.shape[2])
  y, x = source_coordinates(invert(matrix), shape)
  if order == 3 and _on_grid(y) and _on_grid(x):
    order = 1  # samples at pixels are the pixels
  sampler = sampling.taps(y, x, shape, order=order, border=border)
  if order == 3:
    images = sampling.spline_coefficients(images, border)
  if matrix.ndim == 2:
    samples = sampling.resample(images, sampler)
  else:
    one = jax.vmap(lambda image, t: sampling.resample(image[None], t)[0])
    samples = one(images, jax.tree.map(jnp.asarray, sampler))
  return samples.reshape(-1, *shape, images.shape[-1])


def _on_grid(coordinates: Any) -> bool:
  """Whether host coordinates are all whole numbers; never for traced ones."""
  if isinstance(coordinates, jax.Array):
    return False
  return bool((coordinates == np.round(coordinates)).all())
