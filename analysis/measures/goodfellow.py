"""Goodfellow's firing rates: does a unit keep firing as its image moves?"""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reductions, sums

# Rate of firing over all images, and the share of units that a layer is
# judged by.
GLOBAL_RATE, TOP_UNITS = 0.01, 0.2


class _State(NamedTuple):
  fires: Any  # (2, u) images on which s f exceeds the threshold of s
  local: Any  # (2, u) transformed copies of those on which it fires too
  images: Any
  copies: Any  # transformations that are counted


def _init(shapes: base.Shapes) -> _State:
  both = sums.zeros(2, shapes.units)
  return _State(both, both, sums.zeros(), sums.zeros())


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  firing = reductions.firing(batch)
  return _State(
    state.fires + firing.fires,
    state.local + firing.local,
    state.images + reductions.images(batch),
    (1 - batch.elements.identity).sum(),
  )


def _finalize(state: _State) -> list[base.Row]:
  fires = np.asarray(state.fires, np.float64)
  copies = float(state.copies)
  if copies == 0:
    return [
      base.Row("goodfellow", float("nan"), note="the orbit is the identity")
    ]
  rates = fires / float(state.images)
  local = np.asarray(state.local, np.float64) / copies
  score = np.full(rates.shape, np.nan)
  np.divide(local, fires * rates, out=score, where=fires > 0)
  silent = (fires == 0).all(axis=0)
  best = np.full(silent.shape, np.nan)
  best[~silent] = np.nanmax(score[:, ~silent], axis=0)
  ordered = np.sort(best[~silent])[::-1]
  if not ordered.size:
    value, note = float("nan"), "no unit fires on some images only"
  else:
    top = max(1, round(TOP_UNITS * len(ordered)))
    value, note = float(ordered[:top].mean()), ""
  dead = float(silent.mean())
  return [
    base.Row("goodfellow", value, dead_fraction=dead, note=note, units=best)
  ]


goodfellow = base.Measure(
  _init,
  _update,
  _finalize,
  name="goodfellow",
  protocol="goodfellow/top-20pc-rate-1pc",
  needs=frozenset({"statistics"}),
  reads=frozenset({"firing"}),
  arrays=False,
)
"""Local over global firing rate, the mean of the top 20 % of units.

A unit fires when s f_u exceeds the threshold that 1 % of the images exceed
(one image, where there are fewer than 100). Its local rate is the mean firing
over the transformed copies of the images on which it fires, identities left
out; its score is local / global rate, of the better sign s. Conditioning on the
firing images is what separates invariant from variant: an exactly invariant
unit scores 100 (the reciprocal of the rate), an independent one 1, and a little
more because the better sign and the top units are taken.

Units that fire on no image with either sign, because more than 1 % tie at the
top, are left out and counted in `dead_fraction`. Per unit: the score. NaN if no
unit is left or the orbit has no element but the identity.

Source: I. Goodfellow, Q. Le, A. Saxe, H. Lee and A. Ng, "Measuring invariances
in deep networks", NeurIPS 2009.
"""
