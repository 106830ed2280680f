"""What stands beside every value of a layer: its yardstick and dead units."""

import numpy as np

from analysis.measures import base, sums

YARDSTICK = "yardstick"


def _init(shapes: base.Shapes) -> sums.Moments:
  return sums.init_moments(shapes.units)


def _update(state: sums.Moments, batch: base.OrbitBatch) -> sums.Moments:
  return sums.update_moments(state, batch.reference, batch.weight)


def _finalize(state: sums.Moments) -> list[base.Row]:
  variance = np.asarray(state.variance, np.float64)
  return [
    base.Row("total_variance", float(variance.sum())),
    base.Row("dead_fraction", float((variance == 0).mean())),
  ]


yardstick = base.Measure(
  _init, _update, _finalize, name=YARDSTICK, protocol=YARDSTICK
)
"""V, the sum over units of the unbiased variance over the images, and the
fraction of units that never vary: columns of every row of a layer, not rows.
"""
