"""What stands beside every value of a layer: its yardstick and dead units."""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reductions, sums

YARDSTICK = "yardstick"

# The row that says so: no value of a measure.
NOT_FINITE = "not finite"


class _State(NamedTuple):
  reference: sums.Moments
  transformed: Any  # (t,) finite if all transformed activations are


def _init(shapes: base.Shapes) -> _State:
  return _State(sums.init_moments(shapes.units), sums.zeros(shapes.elements))


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  return _State(
    reductions.add_reference(state.reference, batch),
    state.transformed + reductions.finite(batch),
  )


def _finalize(state: _State) -> list[base.Row]:
  variance = np.asarray(state.reference.variance, np.float64)
  bad = np.flatnonzero(~np.isfinite(np.asarray(state.transformed)))
  return [
    # First, because many measures would take them for values: comparisons with
    # NaN are false, and an error that never reaches 0.5 looks invariant.
    *(base.Row(NOT_FINITE, float("nan"), int(i)) for i in bad[:1]),
    base.Row("total_variance", float(variance.sum())),
    base.Row("dead_fraction", float((variance == 0).mean())),
  ]


yardstick = base.Measure(
  _init,
  _update,
  _finalize,
  name=YARDSTICK,
  protocol=YARDSTICK,
  reads=frozenset({"reference", "finite"}),
  arrays=False,
)
"""V, the sum over units of the unbiased variance over the images, and the
fraction of units that never vary: columns of every row of a layer, not rows.
Before them, the first element under which an activation is not finite, if any.
"""
