"""All that is wanted of the units of a layer, a tile of them at a time."""

import numba

from analysis.kernels import FAST
from analysis.kernels.columns import add_columns, copy_tile
from analysis.kernels.moments import add_moments
from analysis.kernels.products import (
  add_distances,
  add_firing,
  add_grams,
  add_products,
)
from analysis.kernels.spreads import WIDTH, add_spreads
from analysis.kernels.vectors import LANES


@numba.njit(**FAST)
def add_units(
  x,
  r,
  first,
  last,
  tile,
  floor,
  seen,
  known,
  networks,
  by_unit,
  by_image,
  scratch,
):
  """Adds a step to the sums of the units first to last, tile by tile.

  What is empty is not wanted and not computed.

  Args:
    x: (t,) addresses of the activations (b, u) of the transformed images.
    r: (b, u) of the untransformed ones.
    first: first unit.
    last: last unit, excluded.
    tile: units at a time.
    floor: what lesser values of x become: 0 if the layer is the ReLU of x.
    seen: images of earlier steps.
    known: (mean (u,), thresholds (2, u), counted (t,)).
    networks: comparators for t and for b rows; empty for few.
    by_unit: (reference (3, u), spread (2, v), moments (v / w, t, 3, w), pairs
      (2, v), firing (2, 2, u)), which threads share; v fills whole vectors, w
      is v where neither pairs nor Gram matrices nor firing are wanted.
    by_image: (squares (t, b), products (2, t, b), own (b,), grams (t, b, b),
      gram (1, b, b), finite (t,)) of the thread.
    scratch: (copies (t, b, w), w more than `tile`, rows, line, gram_rows
      (b + 3, w), `spreads.scratch`) of the thread.
  """
  mean, thresholds, counted = known
  reference, spread, moments, pairs, firing = by_unit
  squares, products, own, grams, gram, finite = by_image
  copies, rows, line, gram_rows, orbits = scratch
  sums = (spread, moments, pairs)
  copied = first
  if spread.size > 0 and pairs.size + grams.size + firing.size == 0:
    copied = max(first, last // LANES * LANES)
  for low in range(first, copied, WIDTH):
    high = min(low + WIDTH, copied)
    if reference.size > 0:
      add_moments(r, low, high, reference, seen)
    add_spreads(
      x,
      r,
      mean,
      low,
      high,
      floor,
      seen,
      (spread, moments),
      (squares, products, own, finite),
      orbits,
    )
  for low in range(copied, last, tile):
    high = min(low + tile, last)
    width = high - low
    copy_tile(x, (x.size, *r.shape), low, high, floor, copies, finite)
    if reference.size > 0:
      add_moments(r, low, high, reference, seen)
    if products.size > 0:
      add_products(copies, r, mean, low, high, squares, products, own)
    elif squares.size > 0:
      add_distances(copies, r, low, high, squares)
    if spread.size > 0:
      add_columns(copies, 0, width, low, seen, sums, networks, rows, line)
    if grams.size > 0:
      add_grams(copies, 0, width, grams, gram_rows)
      add_grams(r.reshape(1, *r.shape), low, high, gram, gram_rows)
    if firing.size > 0:
      fires, local = firing[0], firing[1]
      add_firing(copies, r, low, high, thresholds, counted, fires, local)
