"""How fast maps change, less what moving them by hand would change."""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE
from analysis.kernels.vectors import LANES, load, multiply_add, splat, total


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
def _four_sums(values, place, step, across, weights, row, apart):
  """Four weighted sums of vectors side by side, as of a derivative's matrix.

  Sum j of q = 0 .. 3 of weights[row + q * apart, j] times the vector that lies
  at place + j * step + q * across.
  """
  zero = splat(np.float32(0))
  one, two, three, four = zero, zero, zero, zero
  for j in range(weights.shape[1]):
    at = place + j * step
    one = multiply_add(splat(weights[row, j]), load(values, at), one)
    two = multiply_add(
      splat(weights[row + apart, j]), load(values, at + across), two
    )
    three = multiply_add(
      splat(weights[row + 2 * apart, j]), load(values, at + 2 * across), three
    )
    four = multiply_add(
      splat(weights[row + 3 * apart, j]), load(values, at + 3 * across), four
    )
  return one, two, three, four


@numba.njit(**INLINE)
def _sum(values, place, step, weights, row):
  result = splat(np.float32(0))
  for j in range(weights.shape[1]):
    at = place + j * step
    result = multiply_add(splat(weights[row, j]), load(values, at), result)
  return result


@numba.njit(**INLINE)
def _squares(change, at, right, down, velocity):
  """Squares of a rate of change, less -(right, down) . velocity."""
  rate = multiply_add(right, splat(velocity[0]), load(change, at))
  rate = multiply_add(down, splat(velocity[1]), rate)
  return rate * rate


@numba.njit(**FAST)
def _many(change, maps, rows, columns, velocity, inside, first, last):
  """`aligned_squares` for channels that fill whole vectors."""
  _, height, width, channels = maps.shape
  values, rates = maps.reshape(-1), change.reshape(-1)
  across = width * channels
  result = 0.0
  for i in range(first, last):
    image = i * height * across
    for h in range(height):
      for w in range(0, width, 4):
        end = min(w + 4, width)
        here = inside[h * width + w : h * width + end]
        if not here.any():
          continue
        speed = velocity[h, w:end]
        squares = splat(np.float32(0))
        for k in range(0, channels, LANES):
          row, top = image + h * across + k, image + w * channels + k
          at = row + w * channels
          if end == w + 4:
            right = _four_sums(values, row, channels, 0, columns, w, 1)
            down = _four_sums(values, top, across, channels, rows, h, 0)
            one = _squares(rates, at, right[0], down[0], speed[0])
            at += channels
            two = _squares(rates, at, right[1], down[1], speed[1])
            at += channels
            three = _squares(rates, at, right[2], down[2], speed[2])
            at += channels
            four = _squares(rates, at, right[3], down[3], speed[3])
            squares = multiply_add(splat(here[0]), one, squares)
            squares = multiply_add(splat(here[1]), two, squares)
            squares = multiply_add(splat(here[2]), three, squares)
            squares = multiply_add(splat(here[3]), four, squares)
          else:
            for q in range(end - w):
              x = _sum(values, row, channels, columns, w + q)
              y = _sum(values, top + q * channels, across, rows, h)
              one = _squares(rates, at + q * channels, x, y, speed[q])
              squares = multiply_add(splat(here[q]), one, squares)
        result += total(squares)
  return result


@numba.njit(**FAST)
def _few(change, maps, rows, columns, velocity, inside, first, last):
  """`aligned_squares` for any number of channels."""
  _, height, width, channels = maps.shape
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
          rate = change[i, p * channels + k] + right * x + down * y
          result += rate * rate
  return result


@numba.njit(**FAST)
def aligned_squares(change, maps, rows, columns, velocity, inside, first, last):
  """Sum of squares of d/ds T_-s f(T_s x), over some images.

  T_-s takes back the rate at which the content of maps moves, which is
  -(gradient . velocity): see `analysis.gradients.advect`.

  Args:
    change: (b, u) d/ds f(T_s x) along one generator.
    maps: (b, h, w, c) f(x), u = h w c.
    rows: (h, h) matrix that differentiates along a column of the map.
    columns: (w, w) along a row.
    velocity: (h, w, 2) of positions, (dx, dy).
    inside: (h w,) 1 for positions that count, else 0.
    first: first image.
    last: last image, excluded.

  Returns:
    The sum, in float64.
  """
  if maps.shape[3] % LANES == 0:
    return _many(change, maps, rows, columns, velocity, inside, first, last)
  return _few(change, maps, rows, columns, velocity, inside, first, last)
