"""How far a layer's activation moves when the image is transformed."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from analysis.measures import base


class _State(NamedTuple):
  distances: dict[str, Any]
  reference: dict[str, base.Moments]


def _init(shapes: base.OrbitBatch) -> _State:
  elements = base.orbit_size(shapes)
  layers = base.layer_shapes(shapes)
  return _State(
    {name: jnp.zeros(elements) for name in layers},
    {name: base.init_moments(shape) for name, shape in layers.items()},
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  distances, moments = {}, {}
  for name, reference in batch.reference.items():
    squares = (batch.transformed[name] - reference[None]) ** 2
    by_unit = base.sum_over_images(squares, batch.weight, axis=1)
    distances[name] = state.distances[name] + base.sum_over_units(by_unit)
    moments[name] = base.update_moments(
      state.reference[name], reference, batch.weight
    )
  return _State(distances, moments)


def _finalize(state: _State) -> list[base.Row]:
  rows = []
  for name, moments in state.reference.items():
    variance = np.asarray(moments.variance, np.float64)
    total = float(variance.sum())
    dead = float((variance == 0).mean())
    squared = np.asarray(state.distances[name], np.float64)
    mean = squared / float(moments.count)
    for element, distance in enumerate(mean):
      value, note = ratio(distance, 2 * total)
      rows.append(
        base.Row(
          name,
          "invariance_error",
          value,
          element,
          dead_fraction=dead,
          total_variance=total,
          note=note,
        )
      )
  return rows


def ratio(squared: float, yardstick: float) -> tuple[float, str]:
  """sqrt(squared / yardstick), or NaN and the reason for a zero yardstick."""
  if yardstick == 0:
    return float("nan"), "no unit varies over the images"
  return float(np.sqrt(squared / yardstick)), ""


invariance_error = base.Measure(
  _init, _update, _finalize, name="invariance_error"
)
"""sqrt(mean_i ||f(t x_i) - f(x_i)||^2 / 2V) for each transformation t.

V is the sum over units of the unbiased variance over images, so that two
different images are sqrt(2V) apart on average. 0: invariant; 1: the transformed
image is as far away as another image; it may exceed 1. NaN if no unit varies
over the images. `dead_fraction` counts units of zero variance; they add nothing
to either sum unless the transformation wakes them. A layer that does not
separate images has a small yardstick and looks variant: read V beside it.
"""
