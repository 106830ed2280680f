"""Feature maps with the transformation undone."""

import numba
import numpy as np

from analysis.kernels import FAST, ORDERED
from analysis.kernels.blocks import floats
from analysis.kernels.columns import add_columns
from analysis.kernels.vectors import (
  LANES,
  at_least,
  load,
  multiply_add,
  number_at_least,
  splat,
  store,
  total,
)


@numba.njit(**ORDERED)
def _undo(x, indices, weights, floor, first, out):
  """Bilinear samples of a map (p, c) at positions from the first on, to out.

  What is less in x becomes the floor.
  """
  for p in range(out.shape[0]):
    at = first + p
    target = out[p]
    a, b = x[indices[0, at]], x[indices[1, at]]
    c, d = x[indices[2, at]], x[indices[3, at]]
    u, v = weights[0, at], weights[1, at]
    w, z = weights[2, at], weights[3, at]
    for k in range(target.size):
      one, two = number_at_least(a[k], floor), number_at_least(b[k], floor)
      three, four = number_at_least(c[k], floor), number_at_least(d[k], floor)
      target[k] = u * one + v * two + w * three + z * four


@numba.njit(**ORDERED)
def _undo_few(
  x, r, channels, indices, weights, floor, first, last, tile, errors
):
  """`_undo_many` for any number of channels."""
  images, units = r.shape
  for t in range(x.size):
    maps = floats(x[t], r.size).reshape(images, units // channels, channels)
    for i in range(images):
      values = tile[t, i, : (last - first) * channels]
      _undo(
        maps[i],
        indices[t],
        weights[t],
        floor,
        first,
        values.reshape(-1, channels),
      )
      for p in range(first, last):
        error = np.float32(0)
        for k in range(p * channels, (p + 1) * channels):
          d = values[k - first * channels] - r[i, k]
          error += d * d
        errors[t, p] += error


@numba.njit(**FAST)
def _undo_many(
  x, r, channels, indices, weights, floor, first, last, tile, errors
):
  """t^-1 f(t x) at positions, to a tile, and its squared errors.

  For channels that fill whole vectors.
  """
  images, size = r.shape
  width = tile.shape[2]
  own, copies = r.reshape(-1), tile.reshape(-1)
  lowest = splat(floor)
  for t in range(x.size):
    values = floats(x[t], r.size)
    for p in range(first, last):
      u, v = splat(weights[t, 0, p]), splat(weights[t, 1, p])
      w, z = splat(weights[t, 2, p]), splat(weights[t, 3, p])
      a, b = indices[t, 0, p] * channels, indices[t, 1, p] * channels
      c, d = indices[t, 2, p] * channels, indices[t, 3, p] * channels
      squares = splat(np.float32(0))
      for i in range(images):
        row = i * size
        to = (t * images + i) * width + (p - first) * channels
        for k in range(0, channels, LANES):
          value = u * at_least(load(values, row + a + k), lowest)
          other = at_least(load(values, row + b + k), lowest)
          value = multiply_add(v, other, value)
          other = at_least(load(values, row + c + k), lowest)
          value = multiply_add(w, other, value)
          other = at_least(load(values, row + d + k), lowest)
          value = multiply_add(z, other, value)
          store(copies, to + k, value)
          error = value - load(own, i * size + p * channels + k)
          squares = multiply_add(error, error, squares)
      errors[t, p] += total(squares)


@numba.njit(**FAST)
def add_undone(
  x,
  r,
  channels,
  indices,
  weights,
  floor,
  share,
  seen,
  errors,
  spread,
  moments,
  tile,
  rows,
  line,
):
  """Adds errors and spreads of t^-1 f(t x), a block of positions at a time.

  Args:
    x: (t,) addresses of (b, p, c).
    r: (b, u), u = p c.
    channels: c.
    indices: (t, 4, p) positions that t^-1 reads.
    weights: (t, 4, p).
    floor: what lesser values of x become.
    share: first position, last (excluded), positions at a time.
    seen: images of earlier steps.
    errors: (t, p) sum over images and channels of the squared error.
    spread: (2, v) sums over images of the standard deviation and the variance
      over the orbit, v at least u and whole vectors; empty if not wanted.
    moments: (t, 3, v) of each element over images; empty if not wanted.
    tile: (t, b, w) of the thread, w at least the units of a block.
    rows: of the thread, as `columns.add_columns` takes it.
    line: of the thread, likewise.
  """
  begin, end, block = share
  sums = (spread, moments, np.zeros((2, 0)))
  none = np.zeros((0, 2), np.int64)
  for first in range(begin, end, block):
    last = min(first + block, end)
    if channels % LANES == 0:
      _undo_many(
        x, r, channels, indices, weights, floor, first, last, tile, errors
      )
    else:
      _undo_few(
        x, r, channels, indices, weights, floor, first, last, tile, errors
      )
    if spread.size > 0:
      width, low = (last - first) * channels, first * channels
      if width % LANES > 0:
        tile[:, :, width : width + LANES - width % LANES] = 0
      add_columns(tile, 0, width, low, seen, sums, (none, none), rows, line)


@numba.njit(**FAST)
def sample(x, shape, indices, weights, floor, at, first, last, moved, aligned):
  """f(t x) and t^-1 f(t x) at some positions, elements first to last.

  Args:
    x: (t,) addresses of (b, p, c).
    shape: b, p, c.
    indices: (t, 4, p) positions that t^-1 reads.
    weights: (t, 4, p).
    floor: what lesser values of x become.
    at: (s,) positions.
    first: first element.
    last: last element, excluded.
    moved: (t, >= b, s, c) for f(t x).
    aligned: (t, >= b, s, c) for t^-1 f(t x).
  """
  for t in range(first, last):
    maps = floats(x[t], shape[0] * shape[1] * shape[2]).reshape(shape)
    for i in range(shape[0]):
      for k in range(at.size):
        for c in range(shape[2]):
          moved[t, i, k, c] = number_at_least(maps[i, at[k], c], floor)
        target = aligned[t, i, k : k + 1]
        _undo(maps[i], indices[t], weights[t], floor, at[k], target)
