"""How far a layer's map is from moving along with the image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from analysis import sampling
from analysis.measures import base, sums
from analysis.measures.invariance import root_ratio


class _Map(NamedTuple):
  """Sums of one map: of the layer itself, or of the ideal layer."""

  masked: Any  # (t,) sum over images of the squared error inside the mask
  full: Any  # (t,) the same wherever t^-1 is defined
  reference: sums.Moments


class _State(NamedTuple):
  layer: _Map
  ideal: _Map | None
  mask: Any
  defined: Any


def _init(shapes: base.Shapes) -> _State:
  elements = shapes.elements
  height, width = shapes.positions or (1, 1)

  def empty(units: int) -> _Map:
    zeros = jnp.zeros(elements)
    return _Map(zeros, zeros, sums.init_moments(units))

  mask = jnp.zeros((elements, height * width))
  # Colours of the images do not matter for what resampling costs: the ideal
  # layer sees their mean.
  return _State(empty(shapes.units), empty(height * width), mask, mask)


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  action = batch.action
  shape = batch.aligned.shape[2:]
  maps = batch.reference.reshape(-1, *shape)
  layer = _update_map(state.layer, maps, batch.aligned, action, batch.weight)
  ideal = state.ideal
  if batch.images is not None and ideal is not None:
    means = area_average(batch.images.reference, action)
    moved = align(area_average(batch.images.transformed, action), action)
    flat = means.reshape(len(means), -1, 1)
    ideal = _update_map(ideal, flat, moved, action, batch.weight)
  return _State(layer, ideal, action.mask, action.defined)


def area_average(
  images: Float[Array, "... H W c"], action: base.MapAction
) -> Float[Array, "... h w 1"]:
  """Images brought to the map's resolution, channels averaged."""
  grey = images.mean(axis=-1)
  means = jnp.einsum("ph,...hw,qw->...pq", action.rows, grey, action.columns)
  return means[..., None]


def align(
  maps: Float[Array, "t b h w c"], action: base.MapAction
) -> Float[Array, "t b p c"]:
  """Undoes the transformations on maps: t^-1 f(t x), 0 where it reads outside.

  Args:
    maps: of the images transformed by each element.
    action: how the orbit acts on them.

  Returns:
    The maps with positions in reading order.
  """

  def element(maps: Any, indices: Any, weights: Any) -> Any:
    return sampling.resample(maps, sampling.Taps(indices, weights))

  return jax.vmap(element)(maps, action.indices, action.weights)


def _update_map(
  state: _Map, reference: Any, aligned: Any, action: Any, weight: Any
) -> _Map:
  """Adds a batch of maps (b, p, c), and (t, b, p, c) of the transformed."""
  squares = (aligned - reference[None]) ** 2
  elements, count, positions, channels = squares.shape
  by_unit = sums.sum_over_images(
    squares.reshape(elements, count, positions * channels), weight
  )
  errors = sums.sum_over_units(by_unit.reshape(elements, positions, channels))
  return _Map(
    state.masked + (errors * action.mask).sum(-1),
    state.full + (errors * action.defined).sum(-1),
    sums.update_moments(state.reference, reference.reshape(count, -1), weight),
  )


def _finalize(state: _State) -> list[base.Row]:
  rows = []
  for measure, masks, full in (
    ("equivariance_error", state.mask, False),
    ("equivariance_error_full", state.defined, True),
  ):
    floors = _errors(state.ideal, masks, full)
    for element, (value, note) in enumerate(_errors(state.layer, masks, full)):
      floor = floors[element][0]
      rows.append(base.Row(measure, value, element, floor=floor, note=note))
  return rows


def _errors(
  maps: _Map | None, masks: Any, full: bool
) -> list[tuple[float, str]]:
  """Error and note for each orbit element."""
  masks = np.asarray(masks, np.float64)
  if maps is None or maps.reference.count == 0:
    return [(float("nan"), "the images are not known")] * len(masks)
  variance = np.asarray(maps.reference.variance, np.float64)
  by_position = variance.reshape(masks.shape[1], -1).sum(axis=-1)
  totals = np.asarray(maps.full if full else maps.masked, np.float64)
  result = []
  for mask, total in zip(masks, totals, strict=True):
    if not mask.any():
      reason = "t^-1 reads" if full else "receptive field lies"
      result.append((float("nan"), f"no position's {reason} inside the canvas"))
      continue
    mean = total / float(maps.reference.count)
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
