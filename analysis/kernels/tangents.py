"""How fast maps change, less what moving them by hand would change."""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE
from analysis.kernels.blocks import floats
from analysis.kernels.vectors import (
  LANES,
  load,
  multiply_add,
  splat,
  store,
  total,
)

# Columns of a map at a time, of which all rows fit the first-level cache.
_PANEL = 64


@numba.njit(**FAST)
def _square(values):
  result = np.float32(0)
  for k in range(values.size):
    result += values[k] * values[k]
  return result


@numba.njit(**FAST)
def sum_of_squares(values, first, last):
  """Of rows (b, u) first to last: float32 in pieces, float64 across them."""
  result = 0.0
  for i in range(first, last):
    for k in range(0, values.shape[1], 1024):
      result += _square(values[i, k : k + 1024])
  return result


@numba.njit(**INLINE)
def _four_sums(values, place, step, weights, row):
  """Four rows of a matrix times the vectors at place, place + step, ..."""
  zero = splat(np.float32(0))
  one, two, three, four = zero, zero, zero, zero
  for j in range(weights.shape[1]):
    value = load(values, place + j * step)
    one = multiply_add(splat(weights[row, j]), value, one)
    two = multiply_add(splat(weights[row + 1, j]), value, two)
    three = multiply_add(splat(weights[row + 2, j]), value, three)
    four = multiply_add(splat(weights[row + 3, j]), value, four)
  return one, two, three, four


@numba.njit(**INLINE)
def _multiply(values, place, step, weights, out, to, apart):
  """A matrix times the vectors at place, place + step, ..., to out."""
  size = weights.shape[0]
  whole = size // 4 * 4
  for i in range(0, whole, 4):
    one, two, three, four = _four_sums(values, place, step, weights, i)
    at = to + i * apart
    store(out, at, one)
    store(out, at + apart, two)
    store(out, at + 2 * apart, three)
    store(out, at + 3 * apart, four)
  for i in range(whole, size):
    result = splat(np.float32(0))
    for j in range(size):
      value = load(values, place + j * step)
      result = multiply_add(splat(weights[i, j]), value, result)
    store(out, to + i * apart, result)


@numba.njit(**FAST)
def _differentiate(maps, image, rows, columns, right, down, panel):
  """Derivatives (h w c,) of the map of an image along both axes."""
  _, height, width, channels = maps.shape
  across = width * channels
  values, start = maps.reshape(-1), image * height * across
  for h in range(height):
    for k in range(0, channels, LANES):
      at = h * across + k
      _multiply(values, start + at, channels, columns, right, at, channels)
  # Rows may be a power of two apart, and would compete for the same few lines
  # of the cache: in the panel they lie close together.
  lines, most = panel.reshape(-1), panel.shape[1]
  for low in range(0, across, most):
    size = min(most, across - low)
    for j in range(height):
      for k in range(0, size, LANES):
        value = load(values, start + j * across + low + k)
        store(lines, j * most + k, value)
    for k in range(0, size, LANES):
      _multiply(lines, k, most, rows, down, low + k, across)


@numba.njit(**FAST)
def _squares(change, start, right, down, velocity, inside, width, channels):
  """Sum of squares of rates of change, less -(right, down) . velocity."""
  result = 0.0
  for row in range(0, inside.size, width):
    squares = splat(np.float32(0))
    for p in range(row, row + width):
      if inside[p] == 0:
        continue
      x, y = splat(velocity[p, 0]), splat(velocity[p, 1])
      for k in range(p * channels, (p + 1) * channels, LANES):
        rate = multiply_add(load(right, k), x, load(change, start + k))
        rate = multiply_add(load(down, k), y, rate)
        squares = multiply_add(rate, rate, squares)
    result += total(squares)
  return result


@numba.njit(**FAST)
def _many(changes, maps, rows, columns, velocity, inside, first, last, sums):
  """`aligned_squares` for channels that fill whole vectors."""
  _, height, width, channels = maps.shape
  size = height * width * channels
  right, down = np.empty(size, np.float32), np.empty(size, np.float32)
  panel = np.empty((height, _PANEL), np.float32)
  for i in range(first, last):
    _differentiate(maps, i, rows, columns, right, down, panel)
    for g in range(changes.size):
      sums[g] += _squares(
        floats(changes[g], maps.size),
        i * size,
        right,
        down,
        velocity[g].reshape(-1, 2),
        inside,
        width,
        channels,
      )


@numba.njit(**FAST)
def _few(change, maps, rows, columns, velocity, inside, first, last):
  """`aligned_squares` for any number of channels, and one generator."""
  _, height, width, channels = maps.shape
  size = height * width * channels
  result = 0.0
  for i in range(first, last):
    for h in range(height):
      for w in range(width):
        p = h * width + w
        if inside[p] == 0:
          continue
        x, y = velocity[h, w]
        for k in range(channels):
          right = np.float32(0)
          for j in range(width):
            right += columns[w, j] * maps[i, h, j, k]
          down = np.float32(0)
          for j in range(height):
            down += rows[h, j] * maps[i, j, w, k]
          rate = change[i * size + p * channels + k] + right * x + down * y
          result += rate * rate
  return result


@numba.njit(**FAST)
def aligned_squares(
  changes, maps, rows, columns, velocity, inside, first, last, sums
):
  """Adds sums of squares of d/ds T_-s f(T_s x), over some images.

  T_-s takes back the rate at which the content of maps moves, which is
  -(gradient . velocity): see `analysis.gradients.advect`.

  Args:
    changes: (g,) addresses of (b, u) d/ds f(T_s x) along each generator.
    maps: (b, h, w, c) f(x), u = h w c.
    rows: (h, h) matrix that differentiates along a column of the map.
    columns: (w, w) along a row.
    velocity: (g, h, w, 2) of positions, (dx, dy).
    inside: (h w,) 1 for positions that count, else 0.
    first: first image.
    last: last image, excluded.
    sums: (g,) to add to, float64.
  """
  if maps.shape[3] % LANES == 0:
    _many(changes, maps, rows, columns, velocity, inside, first, last, sums)
  else:
    for g in range(changes.size):
      change = floats(changes[g], maps.size)
      sums[g] += _few(
        change, maps, rows, columns, velocity[g], inside, first, last
      )
