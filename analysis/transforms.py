"""Translation, rotation and scaling of images and feature maps.

Conventions, the same everywhere:

* rows `y` grow down, columns `x` grow right, pixel centres are integers and
  the centre is ((H - 1) / 2, (W - 1) / 2);
* a matrix acts on centred coordinates (x, y, 1) and says where content goes;
* a warp reads the input at the inverse of that (output-to-input resampling),
  so that every output pixel gets a value;
* whole-pixel translations and multiples of 90 degrees are exact: they copy
  pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis import sampling

Theta = Any  # a number, a sequence of numbers or an array of them
Images = Float[Array | np.ndarray, "n h w c"]


@dataclasses.dataclass(frozen=True)
class Family:
  """A family of transformations with one or more real parameters.

  Attributes:
    name: the family's name in tables.
    unit: unit of its parameters.
    parameters: their names.
    entries: the first two rows of the matrix, from the parameters and the
      array namespace to compute in.
    generator: for each parameter the 2x3 matrix that takes a centred point
      (x, y, 1) to its velocity at the identity, per radian for rotation, per
      unit of natural log for scaling.
  """

  name: str
  unit: str
  parameters: tuple[str, ...]
  entries: Callable[..., Sequence[Sequence[Any]]]
  generator: tuple[tuple[tuple[float, ...], ...], ...]

  def matrix(self, theta: Theta) -> Any:
    """Where content goes, in centred coordinates (x, y, 1).

    Args:
      theta: the parameters, in the family's unit: shape (...) for one
        parameter, (..., p) for several. Numbers are computed in float64 on the
        host, jax arrays in float32.

    Returns:
      Matrices of shape (..., 3, 3).

    Raises:
      ValueError: the wrong number of parameters, or one that is not finite.
    """
    xp = sampling.namespace(theta)
    theta = self._parameters(theta, xp)
    rows = self.entries(xp, *(theta[..., i] for i in range(theta.shape[-1])))
    one, zero = xp.ones_like(theta[..., 0]), xp.zeros_like(theta[..., 0])
    rows = [[value + zero for value in row] for row in (*rows, (0, 0, one))]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)

  def _parameters(self, theta: Theta, xp: Any) -> Any:
    theta = theta if xp is jnp else np.asarray(theta, np.float64)
    theta = theta[..., None] if len(self.parameters) == 1 else theta
    if theta.ndim < 1 or theta.shape[-1] != len(self.parameters):
      raise ValueError(
        f"{self.name} takes {len(self.parameters)} parameters"
        f" ({', '.join(self.parameters)}, {self.unit}), got {theta}"
      )
    if xp is np and not np.isfinite(theta).all():
      raise ValueError(f"{self.name} parameter is not finite: {theta}")
    return theta

  def magnitude(self, theta: Theta) -> float:
    """Size of a transformation: the parameters' Euclidean norm, in `unit`."""
    return float(np.linalg.norm(self._parameters(theta, np), axis=-1))

  def is_identity(self, theta: Theta) -> bool:
    """Whether the transformation leaves every pixel where it is."""
    return bool((self.matrix(theta) == np.eye(3)).all())

  def warp(
    self,
    images: Images,
    theta: Theta,
    *,
    order: int = 1,
    border: str = "zero",
  ) -> Float[Array, "n h w c"]:
    """Transforms images.

    Args:
      images: floating-point images.
      theta: the parameters in the family's unit. Numbers may be Python or
        numpy values (coordinates in float64) or jax arrays, traced or not
        (float32). A leading axis of length n gives each image its own.
      order: 1 (bilinear) or 3 (interpolating cubic B-spline).
      border: what lies outside: "zero", "circular" or "reflect".

    Returns:
      The transformed images.

    Raises:
      ValueError: images of the wrong rank or type, wrong parameters, an
        unknown order or border.
    """
    return affine_warp(images, self.matrix(theta), order=order, border=border)

  def valid(
    self, theta: Theta, shape: tuple[int, int]
  ) -> Float[np.ndarray, "h w"]:
    """1 where an output pixel reads inside the input canvas, else 0."""
    y, x = source_coordinates(invert(self.matrix(theta)), shape)
    inside = (y >= 0) & (y <= shape[0] - 1) & (x >= 0) & (x <= shape[1] - 1)
    return inside.reshape(shape).astype(np.float32)

  def velocity(
    self, shape: tuple[int, int]
  ) -> Float[np.ndarray, "parameters h w 2"]:
    """How fast each pixel moves at the identity: (dx, dy) per unit parameter.

    The unit is a pixel for translation, a radian for rotation and a unit of
    natural log for scaling.
    """
    points = _centred_grid(shape)
    fields = np.asarray(self.generator) @ points
    return np.moveaxis(fields, 1, -1).reshape(-1, *shape, 2)

  def displacement(
    self, theta: Theta, intensity: Float[np.ndarray, "h w"]
  ) -> float:
    """Root mean square distance that pixels move, weighted by intensity.

    The common abscissa of all families.

    Args:
      theta: the parameters.
      intensity: summed intensity of the images at each pixel.

    Returns:
      Pixels; 0 for the identity, NaN if there is no intensity at all.
    """
    before = _centred_grid(intensity.shape)
    moved = (self.matrix(theta) @ before - before)[:2]
    weight = np.asarray(intensity, np.float64).reshape(-1)
    if weight.sum() == 0:
      return float("nan")
    return float(np.sqrt(np.average((moved**2).sum(axis=0), weights=weight)))

  def lost_intensity(
    self,
    theta: Theta,
    intensity: Float[np.ndarray, "h w"],
    *,
    border: str = "zero",
  ) -> float:
    """Fraction of the images' intensity that leaves the canvas.

    Args:
      theta: the parameters.
      intensity: summed intensity of the images at each pixel.
      border: nothing leaves a circular canvas.

    Returns:
      Between 0 and 1; NaN if there is no intensity at all.
    """
    if border == "circular":
      return 0.0
    moved = (self.matrix(theta) @ _centred_grid(intensity.shape))[:2]
    limits = np.array([[intensity.shape[1]], [intensity.shape[0]]]) / 2
    # The tolerance keeps a pixel that a 90-degree turn puts on the edge.
    out = (np.abs(moved) > limits + 1e-9).any(axis=0)
    weight = np.asarray(intensity, np.float64).reshape(-1)
    if weight.sum() == 0:
      return float("nan")
    return float(np.average(out, weights=weight))


def _centred_grid(shape: tuple[int, ...]) -> Float[np.ndarray, "3 p"]:
  """Centred coordinates (x, y, 1) of all pixels, in reading order."""
  height, width = shape
  y, x = np.mgrid[:height, :width].reshape(2, -1)
  ones = np.ones(height * width)
  return np.stack([x - (width - 1) / 2, y - (height - 1) / 2, ones])


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
  moved = pull @ xp.asarray(points, pull.dtype)
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


def cos_sin_degrees(angle_deg: Any, xp: Any) -> tuple[Any, Any]:
  """Cosine and sine of an angle in degrees, exact at multiples of 90."""
  quarter = xp.round(angle_deg / 90)
  rest = (angle_deg - 90 * quarter) * (np.pi / 180)
  c, s = xp.cos(rest), xp.sin(rest)
  quarter = quarter % 4
  cos = xp.where(quarter == 0, c, xp.where(quarter == 1, -s, s))
  sin = xp.where(quarter == 0, s, xp.where(quarter == 1, c, -c))
  half = quarter == 2
  return xp.where(half, -c, cos), xp.where(half, -s, sin)


def _translation(xp: Any, dx: Any, dy: Any) -> Sequence[Sequence[Any]]:
  del xp
  return (1, 0, dx), (0, 1, dy)


def _rotation(xp: Any, angle_deg: Any) -> Sequence[Sequence[Any]]:
  cos, sin = cos_sin_degrees(angle_deg, xp)
  return (cos, sin, 0), (-sin, cos, 0)


def _scaling(xp: Any, log2_factor: Any) -> Sequence[Sequence[Any]]:
  factor = xp.exp2(log2_factor)
  return (factor, 0, 0), (0, factor, 0)


translation = Family(
  name="translation",
  unit="px",
  parameters=("dx", "dy"),  # + is right, + is down
  entries=_translation,
  generator=(((0, 0, 1), (0, 0, 0)), ((0, 0, 0), (0, 0, 1))),
)

rotation = Family(
  name="rotation",
  unit="degrees",
  parameters=("angle_deg",),  # + is counter-clockwise as displayed
  entries=_rotation,
  generator=(((0, 1, 0), (-1, 0, 0)),),
)

scaling = Family(
  name="scaling",
  unit="log2 factor",
  parameters=("log2_factor",),  # + magnifies
  entries=_scaling,
  generator=(((1, 0, 0), (0, 1, 0)),),
)


def log2_factor(factor: float) -> float:
  """The scaling parameter of a magnification factor: 2.0 gives 1.0.

  Raises:
    ValueError: a factor that is not positive.
  """
  if not factor > 0:
    raise ValueError(f"scaling factor {factor} is not positive")
  return float(np.log2(factor))


FAMILIES = {f.name: f for f in (translation, rotation, scaling)}
