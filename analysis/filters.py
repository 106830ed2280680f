"""Is a small filter an edge detector? The best derivative of a Gaussian.

An edge detector sums what lies on one side of a line and takes away what lies
on the other: the first derivative of a Gaussian, the optimal filter for a step
in noise (Canny 1986). Every filter of a few weights resembles one to some
degree, so its fit means something only beside that of random filters, fitted
the same way.

References:
  J. Canny, "A computational approach to edge detection", IEEE TPAMI 8, 1986.
  W. Freeman and E. Adelson, "The design and use of steerable filters", IEEE
  TPAMI 13, 1991.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

# Where the search starts: standard deviations and centres, in taps, of a filter
# of width 5; for others in proportion.
_SCALES = np.linspace(0.5, 2.5, 9)
_CENTRES = np.linspace(-1.0, 1.0, 9)

# The search stays inside: a narrower Gaussian falls between the taps, a much
# wider one is a plane, and a centre outside shows one flank only.
_LEAST, _MOST, _FARTHEST = 0.4, 4.0, 1.5

# What an edge detector must beat: the fit of 95 % of random filters.
RANDOM_FILTERS, PERCENTILE = 400, 95


class EdgeFit(NamedTuple):
  """The derivative of a Gaussian that is closest to a filter.

  Attributes:
    r_squared: share of the filter's variance that it explains, 0 to 1; NaN for
      a filter whose weights are all equal.
    orientation: direction in which the fitted filter rises from dark to bright,
      in degrees counter-clockwise from the right, -180 to 180.
    scale: standard deviation of the Gaussian, in taps.
    centre: (row, column) of its centre from the filter's, in taps.
    fitted: (k, k) the fit, with the filter's mean.
  """

  r_squared: float
  orientation: float
  scale: float
  centre: tuple[float, float]
  fitted: Any


def fit_edge(kernel: Float[np.ndarray, "k k"]) -> EdgeFit:
  """Fits offset + amplitude * (derivative of an isotropic Gaussian).

  Free are orientation, amplitude, offset, scale and centre: six numbers.
  Orientation and amplitude enter linearly, as the weights of the derivatives
  along rows and columns, so that only scale and centre are searched for: on a
  grid, and from its best point by Nelder and Mead.

  Args:
    kernel: weights, row by row; at least 3 x 3, of odd or even width.

  Returns:
    The fit.

  Raises:
    ValueError: a filter too small to fit, or weights that are not finite.
  """
  weights = np.asarray(kernel, np.float64)
  if weights.ndim != 2 or min(weights.shape) < 3:
    raise ValueError(f"a filter of shape {weights.shape} is not at least 3x3")
  if not np.isfinite(weights).all():
    raise ValueError("the filter has weights that are not finite")
  deviations = weights - weights.mean()
  total = float((deviations**2).sum())
  nan = float("nan")
  if total <= 1e-12 * float((weights**2).sum()):
    return EdgeFit(nan, nan, nan, (nan, nan), np.full(weights.shape, nan))
  unit = len(weights) / 5

  def unexplained(point: Any) -> float:
    scale, *centre = point
    inside = _LEAST * unit <= scale <= _MOST * unit
    if not inside or max(map(abs, centre)) > _FARTHEST * unit:
      return 1.0
    basis = _derivatives(weights.shape, scale, centre)
    _, fitted = _project(basis, deviations)
    return 1 - float((fitted**2).sum()) / total

  points, bases = _search_grid(weights.shape)
  explained = (np.einsum("gbk,k->gb", bases, deviations.ravel()) ** 2).sum(-1)
  start = points[int(explained.argmax())]
  found = optimize.minimize(
    unexplained,
    start,
    method="Nelder-Mead",
    options={"xatol": 1e-4, "fatol": 1e-8},
  )
  scale, row, column = (float(v) for v in found.x)
  basis = _derivatives(weights.shape, scale, (row, column))
  (down, right), fitted = _project(basis, deviations)
  return EdgeFit(
    1 - float(found.fun),
    # Rows count downwards, angles counter-clockwise.
    float(np.degrees(np.arctan2(-down, right))),
    scale,
    (row, column),
    fitted + weights.mean(),
  )


def random_filters(size: int) -> Float[np.ndarray, "n k k"]:
  """Filters of independent normal weights, always the same ones.

  Args:
    size: width.
  """
  shape = (RANDOM_FILTERS, size, size)
  return np.random.default_rng(0).normal(size=shape)


@functools.cache
def random_level(size: int) -> float:
  """The R-squared that 95 % of random filters do not exceed.

  Args:
    size: width of the filters.

  Returns:
    0 to 1; what a filter must exceed to count as an edge detector.
  """
  fits = [fit_edge(kernel).r_squared for kernel in random_filters(size)]
  return float(np.percentile(fits, PERCENTILE))


def derivative_of_gaussian(
  size: int,
  orientation: float,
  scale: float,
  centre: tuple[float, float] = (0.0, 0.0),
) -> Float[np.ndarray, "k k"]:
  """A filter that rises towards one direction, at unit slope in its centre.

  Args:
    size: width.
    orientation: degrees counter-clockwise from the right.
    scale: standard deviation of the Gaussian, in taps.
    centre: (row, column) of its centre from the filter's.
  """
  down, right = _derivatives((size, size), scale, centre)
  angle = np.radians(orientation)
  return np.cos(angle) * right - np.sin(angle) * down


@functools.cache
def _search_grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """(g, 3) scales and centres, and an orthonormal basis (g, 2, k k) at each."""
  unit = shape[0] / 5
  points = unit * np.array(list(itertools.product(_SCALES, _CENTRES, _CENTRES)))
  bases = []
  for scale, *centre in points:
    flat = _derivatives(shape, scale, centre).reshape(2, -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    bases.append(np.linalg.qr(flat.T)[0].T)
  return points, np.stack(bases)


def _derivatives(
  shape: tuple[int, ...], scale: float, centre: Any
) -> Float[np.ndarray, "2 k k"]:
  """Distance from the centre along rows and columns, times a Gaussian."""
  rows, columns = (
    np.arange(n) - (n - 1) / 2 - c for n, c in zip(shape, centre, strict=True)
  )
  y, x = np.meshgrid(rows, columns, indexing="ij")
  gaussian = np.exp(-(x**2 + y**2) / (2 * scale**2))
  return np.stack([y * gaussian, x * gaussian])


def _project(
  basis: np.ndarray, deviations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Weights of two filters, means apart, and the mean-free sum."""
  flat = basis.reshape(2, -1)
  flat = flat - flat.mean(axis=1, keepdims=True)
  coefficients, *_ = np.linalg.lstsq(flat.T, deviations.ravel(), rcond=None)
  return coefficients, (coefficients @ flat).reshape(deviations.shape)
