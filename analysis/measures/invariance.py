"""How far a layer's activation moves when the image is transformed."""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reductions, sums

_READS = frozenset({"moved", "reference"})


class _State(NamedTuple):
  distances: Any  # (t,) sum over images of the squared distance
  reference: sums.Moments
  elements: base.Elements


def _init(shapes: base.Shapes) -> _State:
  zeros = sums.zeros(shapes.elements)
  return _State(
    zeros,
    sums.init_moments(shapes.units),
    base.Elements(zeros, zeros, zeros),
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  return _State(
    state.distances + reductions.moved(batch).squares,
    reductions.add_reference(state.reference, batch),
    batch.elements,
  )


def _errors(state: _State) -> tuple[np.ndarray, str]:
  """The error of each element, or NaN and the reason."""
  total = float(np.asarray(state.reference.variance, np.float64).sum())
  squared = np.asarray(state.distances, np.float64)
  mean = squared / float(state.reference.count)
  return root_ratio(mean, 2 * total)


def root_ratio(squared: Any, yardstick: float) -> tuple[Any, str]:
  """sqrt(squared / yardstick), or NaN and the reason for a zero yardstick."""
  squared = np.asarray(squared, np.float64)
  if yardstick == 0:
    return np.full(squared.shape, np.nan), "no unit varies over the images"
  return np.sqrt(squared / yardstick), ""


def _finalize(state: _State) -> list[base.Row]:
  errors, note = _errors(state)
  return [
    base.Row("invariance_error", float(error), element, note=note)
    for element, error in enumerate(errors)
  ]


invariance_error = base.Measure(
  _init,
  _update,
  _finalize,
  name="invariance_error",
  protocol="invariance_error/rms",
  reads=_READS,
  arrays=False,
)
"""sqrt(mean_i ||f(t x_i) - f(x_i)||^2 / 2V) for each transformation t.

V is the sum over units of the unbiased variance over images, so that two
different images are sqrt(2V) apart on average. 0: invariant; 1: the transformed
image is as far away as another image; it may exceed 1. NaN if no unit varies
over the images. Units that never vary add nothing to either sum unless the
transformation wakes them. A layer that does not separate images has a small
yardstick and looks variant: read V (`total_variance`) beside it.

Source: this project; the yardstick is that of the normalised variance.
"""

# The error at which the radius is read: half as far as another image.
RADIUS_LEVEL = 0.5


def profile(values: Any, magnitudes: Any) -> tuple[np.ndarray, np.ndarray]:
  """Means over the elements of equal magnitude.

  Args:
    values: (t,) one an element.
    magnitudes: (t,) theirs; equal to 9 digits counts as equal.

  Returns:
    Magnitudes in rising order, and the mean values there.
  """
  rounded = np.array([float(f"{m:.9g}") for m in magnitudes])
  levels = np.unique(rounded)
  values = np.asarray(values, np.float64)
  return levels, np.array([values[rounded == m].mean() for m in levels])


def crossing(
  abscissa: np.ndarray, values: np.ndarray, level: float
) -> float | None:
  """Where a profile that is 0 at 0 first reaches a level, or None."""
  if abscissa[0] > 0:
    abscissa, values = np.append(0.0, abscissa), np.append(0.0, values)
  above = np.flatnonzero(values >= level)
  if not above.size:
    return None
  i = above[0]
  if i == 0:
    return float(abscissa[0])
  rise = (level - values[i - 1]) / (values[i] - values[i - 1])
  return float(abscissa[i - 1] + rise * (abscissa[i] - abscissa[i - 1]))


def _finalize_radius(state: _State) -> list[base.Row]:
  errors, note = _errors(state)
  rows = []
  for name, abscissa, unit in (
    ("invariance_radius", state.elements.magnitude, ""),
    ("invariance_radius_px", state.elements.displacement, "px"),
  ):
    abscissa = np.asarray(abscissa, np.float64)
    if not note and not np.isfinite(abscissa).all():
      note = "the elements' magnitudes are not known: use measure()"
    if note:
      rows.append(base.Row(name, float("nan"), note=note, unit=unit))
      continue
    levels, means = profile(errors, abscissa)
    radius = crossing(levels, means, RADIUS_LEVEL)
    beyond = f"beyond the grid, which ends at {levels[-1]:.4g}"
    rows.append(
      base.Row(
        name,
        float("inf") if radius is None else radius,
        note=beyond if radius is None else "",
        unit=unit,
      )
    )
  return rows


invariance_radius = base.Measure(
  _init,
  _update,
  _finalize_radius,
  name="invariance_radius",
  protocol="invariance_radius/half",
  reads=_READS,
  arrays=False,
)
"""Smallest magnitude at which the invariance error reaches 0.5.

The error is averaged over the elements of equal magnitude (all directions) and
interpolated linearly between magnitudes, from 0 at the identity. Two rows a
layer: `invariance_radius` in the family's unit and `invariance_radius_px` on
the common abscissa, the displacement in pixels. Larger is more invariant. inf,
with the note "beyond the grid", where no element reaches 0.5: an invariant
layer, or too small an orbit. NaN if no unit varies over the images.

Source: this project.
"""
