"""How far a layer's map is from moving along with the image."""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reduced, reductions, sums
from analysis.measures.invariance import root_ratio


class _State(NamedTuple):
  errors: Any  # (t, p) sum over images and channels of the squared error
  reference: sums.Moments
  ideal: reduced.Ideal
  mask: Any
  defined: Any


def _init(shapes: base.Shapes) -> _State:
  height, width = shapes.positions or (1, 1)
  zeros = sums.zeros(shapes.elements, height * width)
  # Colours of the images do not matter for what resampling costs: the ideal
  # layer sees their mean.
  ideal = reduced.Ideal(zeros, sums.init_moments(height * width))
  return _State(zeros, sums.init_moments(shapes.units), ideal, zeros, zeros)


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  return _State(
    state.errors + reductions.undone(batch),
    reductions.add_reference(state.reference, batch),
    reductions.add_ideal(state.ideal, batch),
    batch.action.mask,
    batch.action.defined,
  )


def _finalize(state: _State) -> list[base.Row]:
  rows = []
  for measure, masks, full in (
    ("equivariance_error", state.mask, False),
    ("equivariance_error_full", state.defined, True),
  ):
    floors = _errors(*state.ideal, masks, full)
    values = _errors(state.errors, state.reference, masks, full)
    for element, (value, note) in enumerate(values):
      floor = floors[element][0]
      rows.append(base.Row(measure, value, element, floor=floor, note=note))
  return rows


def _errors(
  errors: Any, reference: sums.Moments, masks: Any, full: bool
) -> list[tuple[float, str]]:
  """Error and note for each orbit element."""
  masks = np.asarray(masks, np.float64)
  count = float(reference.count)
  if count == 0:
    return [(float("nan"), "the images are not known")] * len(masks)
  variance = np.asarray(reference.variance, np.float64)
  by_position = variance.reshape(masks.shape[1], -1).sum(axis=-1)
  result = []
  for mask, squared in zip(masks, np.asarray(errors, np.float64), strict=True):
    if not mask.any():
      reason = "t^-1 reads" if full else "receptive field lies"
      result.append((float("nan"), f"no position's {reason} inside the canvas"))
      continue
    mean = float(mask @ squared) / count
    value, note = root_ratio(mean, 2 * float(mask @ by_position))
    result.append((float(value), note and f"{note} inside the mask"))
  return result


equivariance_error = base.Measure(
  _init,
  _update,
  _finalize,
  name="equivariance_error",
  protocol="equivariance_error/rms-masked",
  needs=frozenset({"aligned", "images"}),
  reads=frozenset({"undone", "reference", "ideal"}),
  arrays=False,
)
"""sqrt(mean_i ||m (t^-1 f(t x_i) - f(x_i))||^2 / 2 sum_u m_u Var_u) for each t.

t^-1 acts on the map in image coordinates, through the layer's stride and
offset, with bilinear interpolation. Two rows a layer and transformation:

* `equivariance_error`: m = 1 where the position's receptive field, before the
  transformation and at every position that t^-1 reads after it, lies inside
  the canvas, so that the border has no say;
* `equivariance_error_full`: m = 1 wherever t^-1 reads inside the map.

0: equivariant; 1: as far as another image. `floor` is the same for an ideal
layer, the image itself brought to the layer's resolution by area averaging:
what resampling alone costs. NaN with the reason where m is empty or nothing
inside it varies. Layers without positions or known geometry have one row, NaN
with the reason.

Source: this project, after K. Lenc and A. Vedaldi, "Understanding image
representations by measuring their equivariance and equivalence", CVPR 2015.
"""
