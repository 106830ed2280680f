"""Distances, inner products and firing."""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE
from analysis.kernels.vectors import (
  LANES,
  NO_FLOOR,
  above,
  any_above,
  load,
  multiply_add,
  number_at_least,
  splat,
  store,
  total,
)


@numba.njit(**INLINE)
def _subtract(values, own, origin, width, out, to):
  """Differences of two rows of flat values, to out; 0 fills the last vector."""
  whole = width // LANES * LANES
  for k in range(0, whole, LANES):
    store(out, to + k, load(values, own + k) - load(values, origin + k))
  if whole < width:
    store(out, to + whole, splat(np.float32(0)))
    for k in range(whole, width):
      out[to + k] = values[own + k] - values[origin + k]


@numba.njit(**FAST)
def squared_distance(x, y, floor):
  """||x - y||^2 of two rows; what is less in x becomes the floor."""
  result = np.float32(0)
  for k in range(x.size):
    d = number_at_least(x[k], floor) - y[k]
    result += d * d
  return result


@numba.njit(**FAST)
def three_products(x, r, mean, floor):
  """||x - r||^2, (x - mean).(r - mean) and ||x - mean||^2 of rows.

  What is less in x becomes the floor.
  """
  distance = np.float32(0)
  product = np.float32(0)
  squares = np.float32(0)
  for k in range(x.size):
    value = number_at_least(x[k], floor)
    d = value - r[k]
    e = value - mean[k]
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
      squares[t, i] += squared_distance(
        x[t, i, :width], r[i, low:high], NO_FLOOR
      )


@numba.njit(**FAST)
def add_products(x, r, mean, low, high, squares, products, own):
  """`add_distances`, and what cosines about a mean (u,) are made of.

  That is (x - mean).(r - mean) and ||x - mean||^2, to products (2, t, b), and
  ||r - mean||^2, to own (b,).
  """
  width, centre = high - low, mean[low:high]
  for t in range(x.shape[0]):
    for i in range(x.shape[1]):
      distance, product, square = three_products(
        x[t, i, :width], r[i, low:high], centre, NO_FLOOR
      )
      squares[t, i] += distance
      products[0, t, i] += product
      products[1, t, i] += square
  for i in range(r.shape[0]):
    own[i] += squared_distance(r[i, low:high], centre, NO_FLOOR)


@numba.njit(**INLINE)
def _four_dots(rows, one, other, apart, width):
  zero = splat(np.float32(0))
  a, b, c, d = zero, zero, zero, zero
  for k in range(0, width, LANES):
    value, at = load(rows, one + k), other + k
    a = multiply_add(value, load(rows, at), a)
    b = multiply_add(value, load(rows, at + apart), b)
    c = multiply_add(value, load(rows, at + 2 * apart), c)
    d = multiply_add(value, load(rows, at + 3 * apart), d)
  return a, b, c, d


@numba.njit(**FAST)
def _add_products(rows, width, gram):
  """Adds the inner products of rows, but the first, to gram (b, b)."""
  values, apart = rows.reshape(-1), rows.shape[1]
  for i in range(1, gram.shape[0]):
    # Four at a time keep the processor busy, even where not all are wanted.
    for j in range(1, i + 1, 4):
      a, b, c, d = _four_dots(values, i * apart, j * apart, apart, width)
      gram[i, j] += total(a)
      if j + 1 <= i:
        gram[i, j + 1] += total(b)
      if j + 2 <= i:
        gram[i, j + 2] += total(c)
      if j + 3 <= i:
        gram[i, j + 3] += total(d)


@numba.njit(**FAST)
def add_grams(x, low, high, grams, rows):
  """Adds inner products of images less the first one, of each element.

  Args:
    x: (t, b, u).
    low: first unit.
    high: last unit, excluded.
    grams: (t, b, b), of which the lower triangle is added to.
    rows: (b + 3, w) of the thread, w at least the units filled up to vectors.
  """
  elements, images, units = x.shape
  width = high - low
  filled = -(-width // LANES) * LANES
  rows[images:, :filled] = 0  # what lies there may be slow to multiply
  values, out, apart = x.reshape(-1), rows.reshape(-1), rows.shape[1]
  for t in range(elements):
    first = t * images * units + low
    for i in range(1, images):
      _subtract(values, first + i * units, first, width, out, i * apart)
    _add_products(rows, filled, grams[t])


@numba.njit(**INLINE)
def _add_fired(x, first, apart, counted, sign, threshold, fired):
  """How many elements, of those counted, fire where the image itself does."""
  count = splat(np.float32(0))
  for t in range(counted.size):
    if counted[t] != 0:
      value = sign * load(x, first + t * apart)
      count = count + above(value, threshold)
  return count * fired


@numba.njit(**FAST)
def add_firing(x, r, low, high, thresholds, counted, fires, local):
  """Adds how often units fire, and how often they go on firing."""
  _, images, width = x.shape
  units = r.shape[1]
  whole = low + (high - low) // LANES * LANES
  values, own, limits = x.reshape(-1), r.reshape(-1), thresholds.reshape(-1)
  for s in range(2):
    number = np.float32(1 - 2 * s)
    sign = splat(number)
    # Few units fire at a time: most vectors are done after one comparison.
    for k in range(low, whole, LANES):
      limit = load(limits, s * units + k)
      for i in range(images):
        value = sign * load(own, i * units + k)
        if any_above(value, limit):
          fired = above(value, limit)
          go_on = _add_fired(
            values,
            i * width + k - low,
            images * width,
            counted,
            sign,
            limit,
            fired,
          )
          store(fires[s], k, load(fires[s], k) + fired)
          store(local[s], k, load(local[s], k) + go_on)
    for k in range(whole, high):
      for i in range(images):
        if number * r[i, k] > thresholds[s, k]:
          fires[s, k] += 1
          for t in range(counted.size):
            if counted[t] != 0 and number * x[t, i, k - low] > thresholds[s, k]:
              local[s, k] += 1
