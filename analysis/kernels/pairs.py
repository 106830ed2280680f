"""Absolute differences of pairs of values of every unit."""

import numba
import numpy as np

from analysis.kernels import FAST


@numba.njit(**FAST)
def _order(a, b):
  for k in range(a.size):
    one, other = a[k], b[k]
    a[k] = one if one < other else other
    b[k] = other if one < other else one


@numba.njit(**FAST)
def subtract(x, origin, out):
  """X less an origin, to out."""
  for k in range(out.size):
    out[k] = x[k] - origin[k]


@numba.njit(**FAST)
def _add_scaled(out, factor, values):
  for k in range(out.size):
    out[k] += factor * values[k]


@numba.njit(**FAST)
def _pair_sums(rows, comparators, out, line):
  """Sum of |a - b| over all pairs of rows, added to out.

  Sorted, the k-th of n values is on the high side of k pairs and on the low
  side of the others: the sum is that of (2 k - n + 1) times it, k from 0.
  """
  for k in range(comparators.shape[0]):
    _order(rows[comparators[k, 0]], rows[comparators[k, 1]])
  count = rows.shape[0]
  line[:] = 0
  for k in range(count):
    _add_scaled(line, np.float32(2 * k - count + 1), rows[k])
  for k in range(out.size):
    out[k] += line[k]


@numba.njit(**FAST)
def add_pairs_over_orbit(x, low, high, comparators, out, rows, line):
  """Adds sum_i sum_(s<t) |x_s - x_t| of every unit to out (u,)."""
  lanes = rows.shape[1]
  for i in range(x.shape[1]):
    for start in range(low, high, lanes):
      end = min(start + lanes, high)
      width = end - start
      for t in range(x.shape[0]):
        subtract(x[t, i, start:end], x[0, i, start:end], rows[t, :width])
      _pair_sums(rows[: x.shape[0]], comparators, out[start:end], line[:width])


@numba.njit(**FAST)
def _add_one_to_four(a, b, c, d, e, out):
  for k in range(out.size):
    value = a[k]
    out[k] += (
      abs(value - b[k])
      + abs(value - c[k])
      + abs(value - d[k])
      + abs(value - e[k])
    )


@numba.njit(**FAST)
def _add_one_to_one(a, b, out):
  for k in range(out.size):
    out[k] += abs(a[k] - b[k])


@numba.njit(**FAST)
def add_few_pairs(x, low, high, out, line):
  """`add_many_pairs` for a few images: each with each."""
  width = high - low
  sums = line[:width]
  for t in range(x.shape[0]):
    sums[:] = 0
    for i in range(x.shape[1]):
      a = x[t, i, low:high]
      j = 0
      while j + 4 <= i:
        _add_one_to_four(
          a,
          x[t, j, low:high],
          x[t, j + 1, low:high],
          x[t, j + 2, low:high],
          x[t, j + 3, low:high],
          sums,
        )
        j += 4
      while j < i:
        _add_one_to_one(a, x[t, j, low:high], sums)
        j += 1
    for k in range(width):
      out[low + k] += sums[k]


@numba.njit(**FAST)
def add_many_pairs(x, low, high, comparators, out, rows, line):
  """Adds sum_t sum_(i<j) |x_i - x_j| of every unit to out (u,): sorts."""
  lanes = rows.shape[1]
  for t in range(x.shape[0]):
    for start in range(low, high, lanes):
      end = min(start + lanes, high)
      width = end - start
      for i in range(x.shape[1]):
        subtract(x[t, i, start:end], x[t, 0, start:end], rows[i, :width])
      _pair_sums(rows[: x.shape[1]], comparators, out[start:end], line[:width])
