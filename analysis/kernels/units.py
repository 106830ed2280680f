"""All that is wanted of the units of a layer, a tile of them at a time."""

import numba

from analysis.kernels import FAST
from analysis.kernels.moments import add_moments, add_spreads
from analysis.kernels.pairs import (
  add_few_pairs,
  add_many_pairs,
  add_pairs_over_orbit,
)
from analysis.kernels.products import (
  add_distances,
  add_finite,
  add_firing,
  add_grams,
  add_products,
)


@numba.njit(**FAST)
def add_units(
  x,
  r,
  first,
  last,
  tile,
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
    x: (t, b, u) activations of the transformed images.
    r: (b, u) of the untransformed ones.
    first: first unit.
    last: last unit, excluded.
    tile: units at a time.
    seen: images of earlier steps.
    known: (mean (u,), thresholds (2, u), counted (t,)).
    networks: comparators for t and for b rows; the latter empty for few images.
    by_unit: (reference (3, u), spread (2, u), moments (t, 3, u), pairs (2, u),
      firing (2, 2, u)), which threads share.
    by_image: (squares (t, b), products (2, t, b), own (b,), grams (t, b, b),
      gram (1, b, b), finite (t,)) of the thread.
    scratch: (work, rows, line, gram_rows) of the thread.
  """
  mean, thresholds, counted = known
  over_orbit, over_images = networks
  reference, spread, moments, pairs, firing = by_unit
  squares, products, own, grams, gram, finite = by_image
  work, rows, line, gram_rows = scratch
  for low in range(first, last, tile):
    high = min(low + tile, last)
    if finite.size > 0:
      add_finite(x, low, high, finite)
    if reference.size > 0:
      add_moments(r, low, high, reference, seen)
    if spread.size > 0:
      add_spreads(x, low, high, spread, moments, seen, work)
    if products.size > 0:
      add_products(x, r, mean, low, high, squares, products, own)
    elif squares.size > 0:
      add_distances(x, r, low, high, squares)
    if pairs.size > 0:
      add_pairs_over_orbit(x, low, high, over_orbit, pairs[0], rows, line)
      if over_images.size > 0:
        add_many_pairs(x, low, high, over_images, pairs[1], rows, line)
      else:
        add_few_pairs(x, low, high, pairs[1], line)
    if grams.size > 0:
      add_grams(x, low, high, grams, gram_rows)
      add_grams(r.reshape(1, *r.shape), low, high, gram, gram_rows)
    if firing.size > 0:
      add_firing(x, r, low, high, thresholds, counted, firing[0], firing[1])
