"""Feature maps with the transformation undone."""

import numba
import numpy as np

from analysis.kernels import FAST, ORDERED
from analysis.kernels.columns import add_columns
from analysis.kernels.vectors import (
  LANES,
  load,
  multiply_add,
  splat,
  store,
  total,
)


@numba.njit(**ORDERED)
def _undo(x, indices, weights, first, out):
  """Bilinear samples of a map (p, c) at positions from the first on, to out."""
  for p in range(out.shape[0]):
    at = first + p
    target = out[p]
    a, b = x[indices[0, at]], x[indices[1, at]]
    c, d = x[indices[2, at]], x[indices[3, at]]
    u, v = weights[0, at], weights[1, at]
    w, z = weights[2, at], weights[3, at]
    for k in range(target.size):
      target[k] = u * a[k] + v * b[k] + w * c[k] + z * d[k]


@numba.njit(**ORDERED)
def _undo_few(x, r, indices, weights, first, last, tile, errors):
  """`_undo_many` for any number of channels."""
  elements, images, _, channels = x.shape
  for t in range(elements):
    for i in range(images):
      values = tile[t, i, : (last - first) * channels]
      _undo(
        x[t, i], indices[t], weights[t], first, values.reshape(-1, channels)
      )
      for p in range(first, last):
        error = np.float32(0)
        for k in range(p * channels, (p + 1) * channels):
          d = values[k - first * channels] - r[i, k]
          error += d * d
        errors[t, p] += error


@numba.njit(**FAST)
def _undo_many(x, r, indices, weights, first, last, tile, errors):
  """t^-1 f(t x) at positions, to a tile, and its squared errors.

  For channels that fill whole vectors.
  """
  elements, images, positions, channels = x.shape
  width = tile.shape[2]
  values, own, copies = x.reshape(-1), r.reshape(-1), tile.reshape(-1)
  size = positions * channels
  for t in range(elements):
    for p in range(first, last):
      u, v = splat(weights[t, 0, p]), splat(weights[t, 1, p])
      w, z = splat(weights[t, 2, p]), splat(weights[t, 3, p])
      a, b = indices[t, 0, p] * channels, indices[t, 1, p] * channels
      c, d = indices[t, 2, p] * channels, indices[t, 3, p] * channels
      squares = splat(np.float32(0))
      for i in range(images):
        row = (t * images + i) * size
        to = (t * images + i) * width + (p - first) * channels
        for k in range(0, channels, LANES):
          value = u * load(values, row + a + k)
          value = multiply_add(v, load(values, row + b + k), value)
          value = multiply_add(w, load(values, row + c + k), value)
          value = multiply_add(z, load(values, row + d + k), value)
          store(copies, to + k, value)
          error = value - load(own, i * size + p * channels + k)
          squares = multiply_add(error, error, squares)
      errors[t, p] += total(squares)


@numba.njit(**FAST)
def add_undone(
  x, r, indices, weights, share, seen, errors, spread, moments, tile, rows, line
):
  """Adds errors and spreads of t^-1 f(t x), a block of positions at a time.

  Args:
    x: (t, b, p, c).
    r: (b, u), u = p c.
    indices: (t, 4, p) positions that t^-1 reads.
    weights: (t, 4, p).
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
  channels = x.shape[3]
  sums = (spread, moments, np.zeros((2, 0)))
  none = np.zeros((0, 2), np.int64)
  for first in range(begin, end, block):
    last = min(first + block, end)
    if channels % LANES == 0:
      _undo_many(x, r, indices, weights, first, last, tile, errors)
    else:
      _undo_few(x, r, indices, weights, first, last, tile, errors)
    if spread.size > 0:
      width, low = (last - first) * channels, first * channels
      if width % LANES > 0:
        tile[:, :, width : width + LANES - width % LANES] = 0
      add_columns(tile, 0, width, low, seen, sums, (none, none), rows, line)


@numba.njit(**FAST)
def sample(x, indices, weights, at, first, last, moved, aligned):
  """f(t x) and t^-1 f(t x) at some positions, elements first to last.

  Args:
    x: (t, b, p, c).
    indices: (t, 4, p) positions that t^-1 reads.
    weights: (t, 4, p).
    at: (s,) positions.
    first: first element.
    last: last element, excluded.
    moved: (t, >= b, s, c) for f(t x).
    aligned: (t, >= b, s, c) for t^-1 f(t x).
  """
  for t in range(first, last):
    for i in range(x.shape[1]):
      for k in range(at.size):
        moved[t, i, k] = x[t, i, at[k]]
        _undo(x[t, i], indices[t], weights[t], at[k], aligned[t, i, k : k + 1])
