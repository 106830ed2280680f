"""How far a layer's map is from moving along with the image."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from analysis import sampling
from analysis.measures import base
from analysis.measures.invariance import ratio


class _Layer(NamedTuple):
  """Sums of one map: of the layer itself, or of the ideal layer."""

  masked: Any  # (t,) sum over images of the squared error inside the mask
  full: Any  # (t,) the same wherever t^-1 is defined
  reference: base.Moments


class _State(NamedTuple):
  layers: dict[str, _Layer]
  ideal: dict[str, _Layer]
  mask: dict[str, Any]
  defined: dict[str, Any]


def _init(shapes: base.OrbitBatch) -> _State:
  elements = base.orbit_size(shapes)
  layers, ideal = {}, {}
  for name in shapes.maps:
    shape = shapes.reference[name].shape[1:]
    layers[name] = _empty(elements, shape)
    ideal[name] = _empty(elements, (*shape[:2], shapes.images.shape[-1]))
  return _State(
    layers,
    ideal,
    {
      name: jnp.zeros(action.mask.shape) for name, action in shapes.maps.items()
    },
    {
      name: jnp.zeros(action.defined.shape)
      for name, action in shapes.maps.items()
    },
  )


def _empty(elements: int, shape: tuple[int, ...]) -> _Layer:
  return _Layer(
    jnp.zeros(elements), jnp.zeros(elements), base.init_moments(shape)
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  layers, ideal = {}, {}
  for name, action in batch.maps.items():
    layers[name] = _update_map(
      state.layers[name],
      action,
      batch.reference[name],
      batch.transformed[name],
      batch.weight,
    )
    ideal[name] = _update_map(
      state.ideal[name],
      action,
      _average(batch.images, action),
      _average(batch.transformed_images, action),
      batch.weight,
    )
  return _State(
    layers,
    ideal,
    {name: action.mask for name, action in batch.maps.items()},
    {name: action.defined for name, action in batch.maps.items()},
  )


def _average(images: Any, action: base.MapAction) -> Any:
  """Images brought to the map's resolution by area averaging."""
  return jnp.einsum("ph,...hwc,qw->...pqc", action.rows, images, action.columns)


def _update_map(
  state: _Layer,
  action: base.MapAction,
  reference: Any,
  transformed: Any,
  weight: Any,
) -> _Layer:
  flat = reference.reshape(reference.shape[0], -1, reference.shape[-1])

  def element(_: None, xs: tuple[Any, base.MapAction]) -> tuple[None, Any]:
    values, acts = xs
    taps = sampling.Taps(acts.indices, acts.weights)
    squares = (sampling.resample(values, taps) - flat) ** 2
    errors = base.sum_over_images(squares, weight).sum(-1)
    return None, (errors @ acts.mask, errors @ acts.defined)

  # A loop, so that one element's resampled maps are held at a time.
  per_element = action._replace(
    rows=jnp.zeros(len(action.mask)), columns=jnp.zeros(len(action.mask))
  )
  _, (masked, full) = lax.scan(element, None, (transformed, per_element))
  return _Layer(
    state.masked + masked,
    state.full + full,
    base.update_moments(state.reference, reference, weight),
  )


def _finalize(state: _State) -> list[base.Row]:
  rows = []
  for name, layer in state.layers.items():
    for measure, masks in (
      ("equivariance_error", state.mask[name]),
      ("equivariance_error_full", state.defined[name]),
    ):
      full = measure.endswith("_full")
      floors = _errors(state.ideal[name], masks, full)
      values = _errors(layer, masks, full)
      variance = np.asarray(layer.reference.variance, np.float64)
      for element, (value, note) in enumerate(values):
        rows.append(
          base.Row(
            name,
            measure,
            value,
            element,
            floor=floors[element][0],
            dead_fraction=float((variance == 0).mean()),
            total_variance=float(variance.sum()),
            note=note,
          )
        )
  return rows


def _errors(layer: _Layer, masks: Any, full: bool) -> list[tuple[float, str]]:
  """Error and note for each orbit element."""
  variance = np.asarray(layer.reference.variance, np.float64)
  by_position = variance.reshape(-1, variance.shape[-1]).sum(axis=-1)
  masks = np.asarray(masks, np.float64)
  sums = np.asarray(layer.full if full else layer.masked, np.float64)
  result = []
  for mask, total in zip(masks, sums, strict=True):
    if not mask.any():
      reason = "t^-1 reads" if full else "receptive field lies"
      result.append((float("nan"), f"no position's {reason} inside the canvas"))
      continue
    mean = total / float(layer.reference.count)
    value, note = ratio(mean, 2 * float(mask @ by_position))
    result.append((value, note and f"{note} inside the mask"))
  return result


equivariance_error = base.Measure(
  _init,
  _update,
  _finalize,
  name="equivariance_error",
  needs=frozenset({"maps"}),
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
"""
