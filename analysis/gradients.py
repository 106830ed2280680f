"""Derivatives of images and maps along a family of transformations.

An image that moves with velocity field xi changes at rate -grad(x) . xi. Three
gradients are offered, each a matrix that differentiates along one axis:

* "spectral": that of the periodic trigonometric interpolation, exact for images
  below the Nyquist frequency, whose own derivative is taken to be 0;
* "cubic": that of the interpolating cubic B-spline, zeros outside;
* "one_sided": the difference to the next pixel (in the last column to the one
  before, by mirroring), which is what differentiating bilinear interpolation at
  a grid point gives. Biased: only for comparison with published code.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis import sampling
from analysis.affine import source_coordinates
from analysis.family import Family

GRADIENTS = ("spectral", "cubic", "one_sided")

# The kind of tangent that published code computes: one-sided differences, and
# translation in units of half the width.
PUBLISHED = "published"


def derivative_matrix(size: int, gradient: str) -> Float[np.ndarray, "n n"]:
  """Matrix that differentiates samples along an axis, per pixel.

  Args:
    size: number of samples.
    gradient: "spectral", "cubic" or "one_sided".

  Returns:
    The matrix, in float64; row i gives the derivative at sample i.

  Raises:
    ValueError: an unknown gradient.
  """
  if gradient == "spectral":
    frequency = 2j * np.pi * np.fft.fftfreq(size)
    if size % 2 == 0:
      frequency[size // 2] = 0  # a real image has none there
    transformed = np.fft.fft(np.eye(size), axis=0)
    return np.fft.ifft(frequency[:, None] * transformed, axis=0).real
  if gradient == "cubic":
    coefficients = sampling.spline_matrix(size, "zero")
    margin = (len(coefficients) - size) // 2
    after = coefficients[margin + 1 : margin + 1 + size]
    return (after - coefficients[margin - 1 : margin - 1 + size]) / 2
  if gradient == "one_sided":
    matrix = np.eye(size, k=1) - np.eye(size)
    if size > 1:
      matrix[-1, -2:] = 1, -1
    return matrix
  raise ValueError(f"gradient={gradient!r} is not one of {GRADIENTS}")


def velocities(
  family: Family,
  shape: tuple[int, int],
  image_shape: tuple[int, int],
  *,
  stride: int = 1,
  offset: float = 0,
) -> Float[np.ndarray, "g h w 2"]:
  """Velocity (dx, dy) of each position of a map, in positions of the map.

  Args:
    family: whose generators move the image.
    shape: (height, width) of the map.
    image_shape: (height, width) of the image, about whose centre they act.
    stride: image pixels between positions.
    offset: image coordinate of position 0.

  Returns:
    One field a generator: per pixel of translation, radian, unit of natural
    log of scale.
  """
  fields = []
  for generator in family.generator:
    # The velocity is where the matrix I + G moves a position to, less itself.
    step = np.eye(3)
    step[:2] += np.asarray(generator)
    y, x = source_coordinates(
      step, shape, stride=stride, offset=offset, image_shape=image_shape
    )
    j, i = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
    fields.append(np.stack([x - i, y - j], axis=-1).reshape(*shape, 2))
  return np.asarray(fields).reshape(-1, *shape, 2)


def advect(
  maps: Float[Array, "b h w c"],
  velocity: Float[Array | np.ndarray, "g h w 2"],
  gradient: str = "spectral",
) -> Float[Array, "g b h w c"]:
  """Rate of change of maps whose content moves with a velocity field.

  Args:
    maps: images or feature maps.
    velocity: (dx, dy) of each position and generator, in positions per unit.
    gradient: "spectral", "cubic" or "one_sided".

  Returns:
    d/ds T_s m at s = 0 for each generator: -grad(m) . velocity.
  """
  rows, columns = (
    jnp.asarray(derivative_matrix(n, gradient), maps.dtype)
    for n in maps.shape[1:3]
  )
  down = jnp.einsum("ij,bjwc->biwc", rows, maps)
  right = jnp.einsum("ij,bhjc->bhic", columns, maps)
  velocity = jnp.asarray(velocity, maps.dtype)
  x, y = (velocity[:, None, ..., k, None] for k in (0, 1))
  return -(right[None] * x + down[None] * y)


def directions(
  images: Float[Array, "b H W c"], family: Family, kind: str
) -> Float[Array, "g b H W c"]:
  """Rates of change of images under a family, one a generator.

  Args:
    images: the images.
    family: whose generators move them.
    kind: a gradient, or "published": one-sided, and translation in units of
      half the width, as the code of Gruver et al. (2023) has it.

  Returns:
    d/ds T_s x at s = 0.
  """
  shape = images.shape[1], images.shape[2]
  field = velocities(family, shape, shape)
  if kind != PUBLISHED:
    return advect(images, field, kind)
  half = [(shape[1] - 1) / 2, (shape[0] - 1) / 2]
  uniform = np.ptp(field, axis=(1, 2)).max(axis=-1) == 0
  field = np.where(uniform[:, None, None, None], field * half, field)
  return advect(images, field, "one_sided")


def tangents(
  fn: Any,
  images: Float[Array, "b H W c"],
  directions: Float[Array, "g b H W c"],
) -> Any:
  """Derivative of everything a network returns, one forward-mode pass each.

  Args:
    fn: from images to a pytree of arrays.
    images: where to differentiate.
    directions: rates of change of the images, one a generator.

  Returns:
    The pytree with a leading axis of generators.
  """
  results = [jax.jvp(fn, (images,), (v,))[1] for v in directions]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def lie_derivative(
  fn: Any,
  images: Float[Array | np.ndarray, "b H W c"],
  family: Family,
  *,
  gradient: str = "spectral",
) -> Any:
  """d/ds f(T_s x) at s = 0 for each generator of a family.

  Args:
    fn: differentiable, from images to a pytree of arrays.
    images: floating-point images.
    family: of transformations, with generators.
    gradient: of the images: "spectral", "cubic", "one_sided", or "published"
      (see `directions`).

  Returns:
    The pytree of `fn` with a leading axis of generators: per pixel to the right
    and down for translation, per radian counter-clockwise, per unit of natural
    log of magnification.

  Raises:
    ValueError: a family without generators, or an unknown gradient.
  """
  if not family.generator:
    raise ValueError(f"{family.name} is discrete: it has no generator")
  images = jnp.asarray(images)
  return tangents(fn, images, directions(images, family, gradient))
