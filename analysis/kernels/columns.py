"""Spread and pair differences of units, a vector of units at a time.

What is read of a vector of units, over all elements and images, stays in the
first-level cache while both spreads and both pair sums are taken of it.
"""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE
from analysis.kernels.blocks import floats
from analysis.kernels.vectors import (
  LANES,
  add,
  at_least,
  largest,
  least,
  load,
  multiply_add,
  number_at_least,
  root,
  splat,
  store,
  total,
)

# So many values are compared each with each; more are sorted.
FEW = 40


@numba.njit(**INLINE)
def _sort(rows, comparators):
  for k in range(comparators.shape[0]):
    one, other = comparators[k, 0] * LANES, comparators[k, 1] * LANES
    a, b = load(rows, one), load(rows, other)
    store(rows, one, least(a, b))
    store(rows, other, largest(a, b))


@numba.njit(**INLINE)
def _sorted_pair_sum(rows, count, comparators):
  """Sum of |a - b| over all pairs of rows, which are then sorted.

  Sorted, the k-th of n values is on the high side of k pairs and on the low
  side of the others: the sum is that of (2 k - n + 1) times it, k from 0.
  """
  _sort(rows, comparators)
  result = splat(np.float32(0))
  for k in range(count):
    factor = splat(np.float32(2 * k - count + 1))
    result = multiply_add(factor, load(rows, k * LANES), result)
  return result


@numba.njit(**INLINE)
def _sum_of_largest(rows, count):
  """Sum over all pairs of rows of the larger one."""
  result = splat(np.float32(0))
  i = 0
  while i + 4 <= count:
    place = i * LANES
    a, b = load(rows, place), load(rows, place + LANES)
    c, d = load(rows, place + 2 * LANES), load(rows, place + 3 * LANES)
    result = result + (
      (largest(a, b) + largest(c, d)) + (largest(a, c) + largest(b, d))
    )
    result = result + (largest(a, d) + largest(b, c))
    # One sum, of sums: with four there would not be registers for all.
    for j in range(i + 4, count):
      e = load(rows, j * LANES)
      result = result + (
        (largest(a, e) + largest(b, e)) + (largest(c, e) + largest(d, e))
      )
    i += 4
  while i < count:
    a = load(rows, i * LANES)
    for j in range(i + 1, count):
      result = result + largest(a, load(rows, j * LANES))
    i += 1
  return result


@numba.njit(**INLINE)
def _pair_sum(rows, count, summed, comparators):
  """Sum of |a - b| over all pairs of rows, whose sum is known.

  |a - b| is twice the larger one less a and b.
  """
  if comparators.shape[0] > 0:
    return _sorted_pair_sum(rows, count, comparators)
  higher = _sum_of_largest(rows, count)
  return higher + higher - summed * splat(np.float32(count - 1))


@numba.njit(**FAST)
def copy_tile(x, shape, low, high, floor, tile, finite):
  """Copies units to a tile, and adds what is not finite if a value is not.

  In the tile rows lie close together. In x they may be a power of two apart:
  then all rows of a unit would compete for the same few lines of the cache.

  Args:
    x: (t,) addresses of (b, u).
    shape: t, b, u.
    low: first unit.
    high: last unit, excluded.
    floor: what lesser values become.
    tile: (t, b, w), w at least as many units as fill whole vectors; the rest of
      the last vector becomes 0.
    finite: (t,).
  """
  elements, images, units = shape
  copies = tile.reshape(-1)
  whole, lowest = (high - low) // LANES * LANES, splat(floor)
  for t in range(elements):
    values = floats(x[t], images * units)
    # A number less itself is 0; infinity and NaN are NaN.
    rest = splat(np.float32(0))
    for i in range(images):
      place = i * units + low
      own = (t * images + i) * tile.shape[2]
      for k in range(0, whole, LANES):
        value = at_least(load(values, place + k), lowest)
        rest = rest + (value - value)
        store(copies, own + k, value)
      if whole < high - low:
        store(copies, own + whole, splat(np.float32(0)))
        for k in range(whole, high - low):
          copies[own + k] = number_at_least(values[place + k], floor)
        value = load(copies, own + whole)
        rest = rest + (value - value)
    finite[t] += total(rest)


@numba.njit(**INLINE)
def variance(summed, squares, count):
  """Of so many values, unbiased, by their sum and that of their squares."""
  share = splat(np.float32(1) / np.float32(count))
  free = splat(np.float32(1) / np.float32(count - 1))
  whole = largest(squares - summed * summed * share, splat(np.float32(0)))
  return whole * free


@numba.njit(**INLINE)
def _add_double(sums, at, value, line):
  store(line, 0, value)
  for j in range(LANES):
    sums[at + j] += line[j]


@numba.njit(**INLINE)
def _over_orbit(x, first, shape, at, spread, pairs, comparators, rows, line):
  """Adds the spread and the pairs of elements, image by image."""
  elements, images, units = shape
  zero = splat(np.float32(0))
  deviations, within, distance = zero, zero, zero
  for i in range(images):
    place = first + i * units
    origin = load(x, place)
    summed, squares = zero, zero
    for t in range(elements):
      value = load(x, place + t * images * units) - origin
      summed = summed + value
      squares = multiply_add(value, value, squares)
      if pairs.size > 0:
        store(rows, t * LANES, value)
    own = variance(summed, squares, elements)
    deviations, within = deviations + root(own), within + own
    if pairs.size > 0:
      distance = distance + _pair_sum(rows, elements, summed, comparators)
  if spread.size > 0:
    add(spread, at, deviations)
    add(spread, at + spread.size // 2, within)
  if pairs.size > 0:
    _add_double(pairs, at, distance, line)


@numba.njit(**INLINE)
def move_origin(moments, at, stride, summed, squares, count):
  """The sums from an origin become those from the mean, as it is rounded."""
  origin = load(moments, at)
  new = origin + summed * splat(np.float32(1) / count)
  step = new - origin
  whole = splat(count) * step
  squares = squares - step * (summed + summed - whole)
  store(moments, at, new)
  store(moments, at + stride, summed - whole)
  store(moments, at + 2 * stride, squares)


@numba.njit(**INLINE)
def _over_images(
  x, first, shape, at, stride, seen, moments, pairs, to, comparators, rows, line
):
  """Adds the moments and the pairs of images, element by element.

  Moments are added from a place on, a stride from origins to sums and on to
  squares; pairs are added to a place of their own.
  """
  elements, images, units = shape
  count = np.float32(seen + images)
  distance = splat(np.float32(0))
  for t in range(elements):
    place, own = first + t * images * units, at + 3 * t * stride
    if seen == 0:
      store(moments, own, load(x, place))
    origin = load(moments, own)
    mine = splat(np.float32(0))
    squares = load(moments, own + 2 * stride)
    for i in range(images):
      value = load(x, place + i * units) - origin
      mine = mine + value
      squares = multiply_add(value, value, squares)
      if pairs.size > 0:
        store(rows, i * LANES, value)
    summed = mine + load(moments, own + stride)
    move_origin(moments, own, stride, summed, squares, count)
    if pairs.size > 0:
      distance = distance + _pair_sum(rows, images, mine, comparators)
  if pairs.size > 0:
    _add_double(pairs, to, distance, line)


@numba.njit(**FAST)
def add_columns(x, low, high, at, seen, sums, networks, rows, line):
  """Adds spreads and pair differences of the units low to high.

  Args:
    x: (t, b, u), u a multiple of `LANES`.
    low: first unit.
    high: last unit, excluded, as many more as fill a vector.
    at: place of the first in the sums.
    seen: images of earlier steps.
    sums: (spread (2, v), moments (v / w, t, 3, w), pairs (2, v)): sums over
      images of standard deviation and variance over the orbit; origin, sum and
      sum of squares over images, w units after the other, w whole vectors;
      absolute differences of elements and of images. The last may be empty:
      then not wanted.
    networks: comparators that sort t, and b, values; empty for few.
    rows: (max(t, b), LANES) of the thread.
    line: (LANES,) of the thread.
  """
  spread, moments, pairs = sums
  over_orbit, over_images = networks
  values, scratch = x.reshape(-1), rows.reshape(-1)
  spreads, each = spread.reshape(-1), moments.reshape(-1)
  stride = moments.shape[3]
  block = 3 * x.shape[0] * stride
  for k in range(low, high, LANES):
    place = at + k - low
    _over_orbit(
      values, k, x.shape, place, spreads, pairs[0], over_orbit, scratch, line
    )
    _over_images(
      values,
      k,
      x.shape,
      place // stride * block + place % stride,
      stride,
      seen,
      each,
      pairs[1],
      place,
      over_images,
      scratch,
      line,
    )
