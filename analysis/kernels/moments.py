"""Mean and spread of every unit of the untransformed images."""

import numba
import numpy as np

from analysis.kernels import FAST


@numba.njit(**FAST)
def _add_deviations(x, origin, total, squares):
  """Adds x less an origin, and its square, unit by unit."""
  for k in range(x.size):
    d = x[k] - origin[k]
    total[k] += d
    squares[k] += d * d


@numba.njit(**FAST)
def _move_origin(origin, total, squares, count):
  """The sums from an origin become those from the mean, as it is rounded."""
  for k in range(origin.size):
    step = total[k] / count
    new = origin[k] + step
    step = new - origin[k]
    squares[k] -= step * (np.float32(2) * total[k] - count * step)
    total[k] -= count * step
    origin[k] = new


@numba.njit(**FAST)
def add_moments(values, low, high, moments, seen):
  """Adds images to running moments of every unit."""
  origin, total = moments[0, low:high], moments[1, low:high]
  squares = moments[2, low:high]
  if seen == 0:
    origin[:] = values[0, low:high]
  for i in range(values.shape[0]):
    _add_deviations(values[i, low:high], origin, total, squares)
  _move_origin(origin, total, squares, np.float32(seen + values.shape[0]))


@numba.njit(**FAST)
def add_references(values, first, last, marks, moments, largest, seen):
  """Adds untransformed images to moments and largest values.

  Args:
    values: (b, u).
    first: first unit.
    last: last unit, excluded.
    marks: (b,) 1 for images whose values may be among the largest.
    moments: (3, u) as in `add_moments`.
    largest: (2, m, u) largest values of f and of -f, in falling order.
    seen: images before.
  """
  add_moments(values, first, last, moments, seen)
  end = largest.shape[1] - 1
  for s in range(2):
    sign = np.float32(1 - 2 * s)
    for i in range(values.shape[0]):
      if marks[i] == 0:
        continue
      for k in range(first, last):
        value = sign * values[i, k]
        if value > largest[s, end, k]:
          j = end
          while j > 0 and largest[s, j - 1, k] < value:
            largest[s, j, k] = largest[s, j - 1, k]
            j -= 1
          largest[s, j, k] = value
