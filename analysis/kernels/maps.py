"""Feature maps with the transformation undone."""

import numba
import numpy as np

from analysis.kernels import FAST, INLINE, ORDERED
from analysis.kernels.blocks import floats
from analysis.kernels.columns import add_columns
from analysis.kernels.vectors import (
  LANES,
  at_least,
  leading,
  load,
  multiply_add,
  number_at_least,
  splat,
  store,
  total,
)


@numba.njit(**INLINE)
def _corners(indices, t, p, channels):
  """Where the maps that t^-1 reads for a position begin, in a flat map."""
  return (
    indices[t, 0, p] * channels,
    indices[t, 1, p] * channels,
    indices[t, 2, p] * channels,
    indices[t, 3, p] * channels,
  )


@numba.njit(**INLINE)
def _vectors_at(weights, t, p):
  """The weights of a position, each as a vector."""
  return (
    splat(weights[t, 0, p]),
    splat(weights[t, 1, p]),
    splat(weights[t, 2, p]),
    splat(weights[t, 3, p]),
  )


# Both interpolate in one order, fused alike: a constant map is then the same to
# the last bit whoever does it.


@numba.njit(**INLINE)
def _vector(values, at, corners, factors, lowest):
  """A vector of channels, from `at` on, where the transformation is undone."""
  a, b, c, d = corners
  u, v, w, z = factors
  value = u * at_least(load(values, at + a), lowest)
  value = multiply_add(v, at_least(load(values, at + b), lowest), value)
  value = multiply_add(w, at_least(load(values, at + c), lowest), value)
  return multiply_add(z, at_least(load(values, at + d), lowest), value)


@numba.njit(**ORDERED, forceinline=True)
def _number(values, at, corners, weights, t, p, floor):
  """`_vector` of one channel."""
  a, b, c, d = corners
  value = weights[t, 0, p] * number_at_least(values[at + a], floor)
  value += weights[t, 1, p] * number_at_least(values[at + b], floor)
  value += weights[t, 2, p] * number_at_least(values[at + c], floor)
  value += weights[t, 3, p] * number_at_least(values[at + d], floor)
  return value


@numba.njit(**ORDERED)
def _add_position(
  values, own, shape, indices, weights, floor, t, p, images, copies, to, apart
):
  """`_undo` of a position, number by number, of images from the first on.

  Returns:
    The sum of squared errors.
  """
  first, size, channels = shape
  corners = _corners(indices, t, p, channels)
  squares = np.float32(0)
  for i in range(first, images):
    for k in range(channels):
      at = i * size + k
      value = _number(values, at, corners, weights, t, p, floor)
      copies[to + i * apart + k] = value
      error = value - own[at + p * channels]
      squares += error * error
  return squares


@numba.njit(**FAST)
def _undo(x, r, channels, indices, weights, floor, first, last, tile, errors):
  """t^-1 f(t x) at positions, to a tile, and its squared errors.

  The last vector of a position goes on into the next one, which is written
  after it, and into the row's last `LANES` numbers.
  """
  images, size = r.shape
  width = tile.shape[2]
  own, copies = r.reshape(-1), tile.reshape(-1)
  lowest = splat(floor)
  whole = channels // LANES * LANES
  filled = whole if whole == channels else whole + LANES
  for t in range(x.size):
    values = floats(x[t], r.size)
    for p in range(first, last):
      corners, factors = (
        _corners(indices, t, p, channels),
        _vectors_at(weights, t, p),
      )
      here = p * channels
      to = t * images * width + (p - first) * channels
      reach = max(max(corners[0], corners[1]), max(corners[2], corners[3]))
      reach, vectors = max(reach, here) + filled, images
      if reach > size:  # of the last images, a vector would leave the array
        vectors = max(0, (images * size - reach) // size + 1)
      squares = splat(np.float32(0))
      for i in range(vectors):
        row, target = i * size, to + i * width
        for k in range(0, whole, LANES):
          value = _vector(values, row + k, corners, factors, lowest)
          store(copies, target + k, value)
          error = value - load(own, row + here + k)
          squares = multiply_add(error, error, squares)
        if whole < channels:
          value = _vector(values, row + whole, corners, factors, lowest)
          store(copies, target + whole, value)
          error = value - load(own, row + here + whole)
          error = leading(error, channels - whole)
          squares = multiply_add(error, error, squares)
      result = total(squares)
      if vectors < images:
        result += _add_position(
          values,
          own,
          (vectors, size, channels),
          indices,
          weights,
          floor,
          t,
          p,
          images,
          copies,
          to,
          width,
        )
      errors[t, p] += result


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
    moments: (v / w, t, 3, w) of each element over images, as in
      `columns.add_columns`; empty if not wanted.
    tile: (t, b, w) of the thread, w at least the units of a block and `LANES`.
    rows: of the thread, as `columns.add_columns` takes it.
    line: of the thread, likewise.
  """
  begin, end, block = share
  sums = (spread, moments, np.zeros((2, 0)))
  none = np.zeros((0, 2), np.int64)
  for first in range(begin, end, block):
    last = min(first + block, end)
    _undo(x, r, channels, indices, weights, floor, first, last, tile, errors)
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
  images, positions, channels = shape
  lowest = splat(floor)
  whole = channels // LANES * LANES
  own, undone = moved.reshape(-1), aligned.reshape(-1)
  for t in range(first, last):
    values = floats(x[t], images * positions * channels)
    for j in range(at.size):
      p = at[j]
      corners, factors = (
        _corners(indices, t, p, channels),
        _vectors_at(weights, t, p),
      )
      for i in range(images):
        row = i * positions * channels
        here = row + p * channels
        to = ((t * moved.shape[1] + i) * at.size + j) * channels
        for k in range(0, whole, LANES):
          store(own, to + k, at_least(load(values, here + k), lowest))
          value = _vector(values, row + k, corners, factors, lowest)
          store(undone, to + k, value)
        for k in range(whole, channels):
          own[to + k] = number_at_least(values[here + k], floor)
          undone[to + k] = _number(
            values, row + k, corners, weights, t, p, floor
          )
