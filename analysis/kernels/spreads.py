"""Spreads over the orbit and over images, where no pairs are compared.

Rows of activations are read once, in the order in which they lie in memory, and
are not copied to tiles: what stays in the cache is what is added to.
"""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE, vectors
from analysis.kernels.blocks import floats
from analysis.kernels.columns import move_origin, variance
from analysis.kernels.products import squared_distance, three_products
from analysis.kernels.vectors import (
  LANES,
  NO_FLOOR,
  add,
  at_least,
  load,
  multiply_add,
  number_at_least,
  root,
  splat,
  store,
  total,
)

# Units at a time: what is kept of them fits the first-level cache.
WIDTH = 512

# Images whose rows are read together: of more, registers would not hold all.
_TOGETHER = 4

# From row to row of a thread's sums: were it a power of two, they would compete
# for the same few lines of the cache.
_APART = WIDTH + LANES


def scratch() -> np.ndarray:
  """A thread's sums of some images: first value, sum and sum of squares."""
  return vectors.scratch("orbits", _TOGETHER, 3, _APART)


@numba.njit(**INLINE)
def _add_rows(x, first, apart, count, floor, moments, at, stride, sums, width):
  """Adds rows of some images under one transformation.

  Args:
    x: activations, flat.
    first: place of the first row.
    apart: from row to row.
    count: of rows.
    floor: what lesser values become.
    moments: origin, sum and sum of squares of each unit over images, flat.
    at: place of the first origin.
    stride: from origins to sums, and on to squares.
    sums: as `scratch`, flat.
    width: of a row, whole vectors.
  """
  lowest = splat(floor)
  for k in range(0, width, LANES):
    own = at + k
    origin, summed = load(moments, own), load(moments, own + stride)
    squares = load(moments, own + 2 * stride)
    for j in range(count):
      mine = 3 * j * _APART + k
      value = at_least(load(x, first + j * apart + k), lowest)
      change = value - load(sums, mine)
      add(sums, mine + _APART, change)
      so_far = load(sums, mine + 2 * _APART)
      store(sums, mine + 2 * _APART, multiply_add(change, change, so_far))
      change = value - origin
      summed = summed + change
      squares = multiply_add(change, change, squares)
    store(moments, own + stride, summed)
    store(moments, own + 2 * stride, squares)


@numba.njit(**INLINE)
def _close_images(sums, count, elements, spread, at, width):
  """Adds standard deviation and variance over the orbit of some images."""
  for k in range(0, width, LANES):
    own = at + k
    deviations, within = load(spread, own), load(spread, own + spread.size // 2)
    for j in range(count):
      mine = (3 * j + 1) * _APART + k
      of_image = variance(load(sums, mine), load(sums, mine + _APART), elements)
      deviations, within = deviations + root(of_image), within + of_image
    store(spread, own, deviations)
    store(spread, own + spread.size // 2, within)


@numba.njit(**INLINE)
def _close_element(moments, at, stride, count, width):
  """Takes origins to the means over images.

  Returns:
    The sum of all sums, which is not finite if a value is not.
  """
  every = splat(np.float32(0))
  for k in range(0, width, LANES):
    summed = load(moments, at + k + stride)
    squares = load(moments, at + k + 2 * stride)
    every = every + summed
    move_origin(moments, at + k, stride, summed, squares, count)
  return total(every)


@numba.njit(**FAST)
def _not_finite(x):
  """0, or NaN if a value is not finite."""
  for i in range(x.shape[0]):
    for k in range(x.shape[1]):
      if not np.isfinite(x[i, k]):
        return np.float32(np.nan)
  return np.float32(0)


@numba.njit(**INLINE)
def _copy_row(row, floor, target):
  for k in range(row.size):
    target[k] = number_at_least(row[k], floor)


@numba.njit(**FAST)
def add_spreads(x, r, mean, low, high, floor, seen, by_unit, by_image, sums):
  """Adds spreads and, where wanted, distances and products of some units.

  Args:
    x: (t,) addresses of (b, u).
    r: (b, u).
    mean: (u,) as in `products.add_products`.
    low: first unit.
    high: last unit, excluded: whole vectors further, `WIDTH` at most.
    floor: what lesser values of x become.
    seen: images of earlier steps.
    by_unit: (spread (2, v), moments (1, t, 3, v)) as in `columns.add_columns`.
    by_image: (squares (t, b), products (2, t, b), own (b,), finite (t,)) as in
      `units.add_units`; all but the last may be empty.
    sums: `scratch` of the thread.
  """
  spread, moments = by_unit
  squares, products, own, finite = by_image
  elements, (images, units) = x.size, r.shape
  size = images * units
  width, stride, centre = high - low, moments.shape[3], mean[low:high]
  mine = sums.reshape(-1)
  spreads, each = spread.reshape(-1), moments.reshape(-1)
  if seen == 0:
    for t in range(elements):
      first = floats(x[t], size)[low:high]
      _copy_row(first, floor, moments[0, t, 0, low:high])
  seen_now = np.float32(seen + images)
  i = 0
  while i < images:
    count = _TOGETHER if i + _TOGETHER <= images else 1
    values = floats(x[0], size)
    for j in range(count):
      begin = (i + j) * units
      row = values[begin + low : begin + high]
      _copy_row(row, floor, sums[j, 0, :width])
      sums[j, 1:, :width] = 0
    for t in range(elements):
      values = floats(x[t], size)
      first, at = i * units + low, 3 * t * stride + low
      # A number that the compiler knows lets it unroll the loop over rows.
      if count == _TOGETHER:
        _add_rows(
          values,
          first,
          units,
          _TOGETHER,
          floor,
          each,
          at,
          stride,
          mine,
          width,
        )
      else:
        _add_rows(values, first, units, 1, floor, each, at, stride, mine, width)
      # Their rows are still in the cache.
      for j in range(i, i + count):
        row = values[j * units + low : j * units + high]
        image = r[j, low:high]
        if products.size > 0:
          distance, product, square = three_products(row, image, centre, floor)
          squares[t, j] += distance
          products[0, t, j] += product
          products[1, t, j] += square
        elif squares.size > 0:
          squares[t, j] += squared_distance(row, image, floor)
    _close_images(mine, count, elements, spreads, low, width)
    i += count
  for j in range(own.size):
    own[j] += squared_distance(r[j, low:high], centre, NO_FLOOR)
  for t in range(elements):
    at = 3 * t * stride + low
    every = _close_element(each, at, stride, seen_now, width)
    if not np.isfinite(every):  # which a sum of finite values may not be either
      finite[t] += _not_finite(floats(x[t], size).reshape(r.shape)[:, low:high])
