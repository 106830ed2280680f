"""What a family of transformations is, and what each can do."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis import affine, sampling
from analysis.affine import Images

Theta = Any  # a number, a sequence of numbers or an array of them


@dataclasses.dataclass(frozen=True)
class Family:
  """A family of transformations with one or more real parameters.

  Attributes:
    name: the family's name in tables.
    unit: unit of a transformation's magnitude.
    parameters: names of its parameters.
    entries: the first two rows of the matrix, from the array namespace to
      compute in and the parameters. May refuse values on the host.
    generator: for each parameter the 2x3 matrix that takes a centred point
      (x, y, 1) to its velocity at the identity, per radian for rotation, per
      unit of natural log for scaling. Empty where parameters are discrete.
    identity: parameters of the identity; empty for zeros.
  """

  name: str
  unit: str
  parameters: tuple[str, ...]
  entries: Callable[..., Sequence[Sequence[Any]]]
  generator: tuple[tuple[tuple[float, ...], ...], ...] = ()
  identity: tuple[float, ...] = ()

  def matrix(self, theta: Theta) -> Any:
    """Where content goes, in centred coordinates (x, y, 1).

    Args:
      theta: the parameters: shape (...) for one parameter, (..., p) for
        several. Numbers are computed in float64 on the host, jax arrays in
        float32.

    Returns:
      Matrices of shape (..., 3, 3).

    Raises:
      ValueError: the wrong number of parameters or, on the host, one that is
        not finite or that the family does not have, or a matrix without an
        inverse.
    """
    xp = sampling.namespace(theta)
    theta = self._parameters(theta, xp)
    rows = self.entries(xp, *(theta[..., i] for i in range(theta.shape[-1])))
    one, zero = xp.ones_like(theta[..., 0]), xp.zeros_like(theta[..., 0])
    rows = [[value + zero for value in row] for row in (*rows, (0, 0, one))]
    result = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
    if xp is np:
      self._check_invertible(result, theta)
    return result

  def _check_invertible(self, matrices: np.ndarray, theta: np.ndarray) -> None:
    found = np.flatnonzero(affine.singular(matrices))
    if not found.size:
      return
    row = found[0]
    values = theta.reshape(-1, theta.shape[-1])[row]
    place = f" in row {row + 1}" if theta.ndim > 1 else ""
    raise ValueError(
      f"{self.name} by {', '.join(f'{v:g}' for v in values)}{place} has no"
      " inverse: it squashes the image to a line or a point"
    )

  def _parameters(self, theta: Theta, xp: Any) -> Any:
    theta = theta if xp is jnp else np.asarray(theta, np.float64)
    theta = theta[..., None] if len(self.parameters) == 1 else theta
    if theta.ndim < 1 or theta.shape[-1] != len(self.parameters):
      raise ValueError(
        f"{self.name} takes {len(self.parameters)} parameters"
        f" ({', '.join(self.parameters)}), got {theta}"
      )
    if xp is np and not np.isfinite(theta).all():
      raise ValueError(f"{self.name} parameter is not finite: {theta}")
    return theta

  def magnitude(self, theta: Theta) -> float:
    """Size of a transformation: its parameters' distance from the identity's.

    Args:
      theta: the parameters of one transformation.

    Returns:
      The Euclidean distance, in `unit`; 0 for the identity.
    """
    moved = self._parameters(theta, np) - (self.identity or 0)
    return float(np.linalg.norm(moved, axis=-1))

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
      theta: the parameters. Numbers may be Python or numpy values
        (coordinates in float64) or jax arrays, traced or not (float32). A
        leading axis of length n gives each image its own.
      order: 1 (bilinear) or 3 (interpolating cubic B-spline).
      border: what lies outside: "zero", "circular" or "reflect".

    Returns:
      The transformed images.

    Raises:
      ValueError: images of the wrong rank or type, wrong parameters, an
        unknown order or border.
    """
    return affine.affine_warp(
      images, self.matrix(theta), order=order, border=border
    )

  def valid(
    self, theta: Theta, shape: tuple[int, int]
  ) -> Float[np.ndarray, "h w"]:
    """1 where an output pixel reads inside the input canvas, else 0."""
    y, x = affine.source_coordinates(affine.invert(self.matrix(theta)), shape)
    inside = (y >= 0) & (y <= shape[0] - 1) & (x >= 0) & (x <= shape[1] - 1)
    return inside.reshape(shape).astype(np.float32)

  def velocity(
    self, shape: tuple[int, int]
  ) -> Float[np.ndarray, "parameters h w 2"]:
    """How fast each pixel moves at the identity: (dx, dy) per unit parameter.

    The unit is a pixel for translation, a radian for rotation, a unit of
    natural log for scaling and the parameter's own for the others. Nothing, (0,
    h, w, 2), for a discrete family.
    """
    points = affine.centred_grid(shape)
    fields = np.asarray(self.generator, float).reshape(-1, 2, 3) @ points
    return np.moveaxis(fields, 1, -1).reshape(len(fields), *shape, 2)

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
    before = affine.centred_grid(intensity.shape)
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
      border: nothing leaves a circular canvas that is mapped onto itself.

    Returns:
      Between 0 and 1; NaN if there is no intensity at all.
    """
    matrix, (height, width) = self.matrix(theta), intensity.shape
    if border == "circular" and affine.wraps(matrix, (height, width)):
      return 0.0
    moved = (matrix @ affine.centred_grid((height, width)))[:2]
    limits = np.array([[width], [height]]) / 2
    # The tolerance keeps a pixel that a 90-degree turn puts on the edge.
    out = (np.abs(moved) > limits + 1e-9).any(axis=0)
    weight = np.asarray(intensity, np.float64).reshape(-1)
    if weight.sum() == 0:
      return float("nan")
    return float(np.average(out, weights=weight))
