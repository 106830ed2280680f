"""Feature maps with the transformation undone."""

import numba
import numpy as np

from analysis.kernels import FAST, ORDERED
from analysis.kernels.moments import (
  add_deviation,
  add_deviations,
  move_origin,
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


@numba.njit(**FAST)
def _add_squares(x, r, out):
  for k in range(out.size):
    d = x[k] - r[k]
    out[k] += d * d


@numba.njit(**FAST)
def _add_undone(
  x, r, indices, weights, first, last, seen, errors, spread, moments, work, tile
):
  elements, images, _, channels = x.shape
  low, high = first * channels, last * channels
  width = high - low
  spreads = spread.size > 0
  work[:] = 0
  values = tile.reshape(width)
  squared = work[0, images, :width]
  for t in range(elements):
    squared[:] = 0
    for i in range(images):
      _undo(x[t, i], indices[t], weights[t], first, tile)
      own = r[i, low:high]
      _add_squares(values, own, squared)
      if spreads:
        origin = moments[t, 0, low:high]
        if seen == 0 and i == 0:
          origin[:] = values
        if t == 0:
          work[2, i, :width] = values
        add_deviations(values, work[2, i], work[0, i], work[1, i])
        add_deviations(
          values, origin, moments[t, 1, low:high], moments[t, 2, low:high]
        )
    if spreads:
      move_origin(
        moments[t, 0, low:high],
        moments[t, 1, low:high],
        moments[t, 2, low:high],
        np.float32(seen + images),
      )
    for p in range(last - first):
      total = np.float32(0)
      for k in range(p * channels, (p + 1) * channels):
        total += squared[k]
      errors[t, first + p] += total
  if spreads:
    for i in range(images):
      add_deviation(
        work[0, i, :width],
        work[1, i, :width],
        np.float32(elements),
        spread[0, low:high],
        spread[1, low:high],
      )


@numba.njit(**FAST)
def add_undone(
  x, r, indices, weights, share, seen, errors, spread, moments, work, maps
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
    spread: (2, u) sums over images of the standard deviation and the variance
      over the orbit; empty if not wanted.
    moments: (t, 3, u) of each element over images; empty if not wanted.
    work: (3, b + 1, units of a block) of the thread.
    maps: (positions of a block, c) of the thread.
  """
  begin, end, block = share
  for first in range(begin, end, block):
    last = min(first + block, end)
    _add_undone(
      x,
      r,
      indices,
      weights,
      first,
      last,
      seen,
      errors,
      spread,
      moments,
      work,
      maps[: last - first],
    )


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
