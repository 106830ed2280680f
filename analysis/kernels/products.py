"""Distances, inner products and firing."""

import numba
import numpy as np

from analysis.kernels import FAST


@numba.njit(**FAST)
def _subtract(x, origin, out):
  for k in range(out.size):
    out[k] = x[k] - origin[k]


@numba.njit(**FAST)
def _squared_distance(x, y):
  result = np.float32(0)
  for k in range(x.size):
    d = x[k] - y[k]
    result += d * d
  return result


@numba.njit(**FAST)
def _three_products(x, r, mean):
  distance = np.float32(0)
  product = np.float32(0)
  squares = np.float32(0)
  for k in range(x.size):
    d = x[k] - r[k]
    e = x[k] - mean[k]
    distance += d * d
    product += e * (r[k] - mean[k])
    squares += e * e
  return distance, product, squares


@numba.njit(**FAST)
def add_distances(x, r, low, high, squares):
  """Adds ||x - r||^2 to squares (t, b).

  Args:
    x: (t, b, w), which begins with the units low to high.
    r: (b, u).
    low: first unit.
    high: last unit, excluded.
    squares: (t, b).
  """
  width = high - low
  for t in range(x.shape[0]):
    for i in range(x.shape[1]):
      squares[t, i] += _squared_distance(x[t, i, :width], r[i, low:high])


@numba.njit(**FAST)
def add_products(x, r, mean, low, high, squares, products, own):
  """`add_distances`, and what cosines about a mean (u,) are made of.

  That is (x - mean).(r - mean) and ||x - mean||^2, to products (2, t, b), and
  ||r - mean||^2, to own (b,).
  """
  width, centre = high - low, mean[low:high]
  for t in range(x.shape[0]):
    for i in range(x.shape[1]):
      distance, product, square = _three_products(
        x[t, i, :width], r[i, low:high], centre
      )
      squares[t, i] += distance
      products[0, t, i] += product
      products[1, t, i] += square
  for i in range(r.shape[0]):
    own[i] += _squared_distance(r[i, low:high], centre)


@numba.njit(**FAST)
def _dot(a, b):
  result = np.float32(0)
  for k in range(a.size):
    result += a[k] * b[k]
  return result


@numba.njit(**FAST)
def _four_dots(a, b, c, d, e):
  one = np.float32(0)
  two = np.float32(0)
  three = np.float32(0)
  four = np.float32(0)
  for k in range(a.size):
    value = a[k]
    one += value * b[k]
    two += value * c[k]
    three += value * d[k]
    four += value * e[k]
  return one, two, three, four


@numba.njit(**FAST)
def add_grams(x, low, high, grams, rows):
  """Adds inner products of images less the first one, of each element.

  Args:
    x: (t, b, u).
    low: first unit.
    high: last unit, excluded.
    grams: (t, b, b), of which the lower triangle is added to.
    rows: (b, >= units) of the thread.
  """
  width = high - low
  for t in range(x.shape[0]):
    for i in range(1, x.shape[1]):
      a = rows[i, :width]
      _subtract(x[t, i, low:high], x[t, 0, low:high], a)
      j = 1
      while j + 4 <= i + 1:
        sums = _four_dots(
          a,
          rows[j, :width],
          rows[j + 1, :width],
          rows[j + 2, :width],
          rows[j + 3, :width],
        )
        for k in range(4):
          grams[t, i, j + k] += sums[k]
        j += 4
      while j <= i:
        grams[t, i, j] += _dot(a, rows[j, :width])
        j += 1


@numba.njit(**FAST)
def add_firing(x, r, low, high, thresholds, counted, fires, local):
  """Adds how often units fire, and how often they go on firing."""
  for s in range(2):
    sign = np.float32(1 - 2 * s)
    for i in range(r.shape[0]):
      for k in range(low, high):
        if sign * r[i, k] > thresholds[s, k]:
          fires[s, k] += 1
          for t in range(x.shape[0]):
            if counted[t] != 0 and sign * x[t, i, k - low] > thresholds[s, k]:
              local[s, k] += 1
