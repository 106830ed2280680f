"""Variance over transformations against variance over images, unit by unit."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from analysis.measures import base


class _State(NamedTuple):
  deviations: dict[str, Any]  # sum over images of the std over the orbit
  samples: dict[str, base.Moments]  # over images, for each orbit element
  images: Any


def _init(shapes: base.OrbitBatch) -> _State:
  elements = base.orbit_size(shapes)
  layers = base.layer_shapes(shapes)
  return _State(
    {name: jnp.zeros(shape) for name, shape in layers.items()},
    {
      name: base.init_moments((elements, *shape))
      for name, shape in layers.items()
    },
    jnp.zeros(()),
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  deviations, samples = {}, {}
  for name, reference in batch.reference.items():
    transformed = batch.transformed[name]
    std = _std_over_orbit(transformed, reference)
    # A product rather than a sum, so that XLA does not merge it with the sum
    # over the orbit into one slow loop.
    added = batch.weight @ std.reshape(std.shape[0], -1)
    deviations[name] = state.deviations[name] + added.reshape(std.shape[1:])
    samples[name] = base.update_moments(
      state.samples[name], transformed, batch.weight, axis=1
    )
  return _State(deviations, samples, state.images + batch.weight.sum())


def _std_over_orbit(transformed: Any, reference: Any) -> Any:
  """(b, ...) standard deviation over the orbit of every image and unit."""
  # Deviations from the untransformed activation: raw squares would cancel.
  difference = transformed - reference[None]
  first = jnp.sum(difference, axis=0)
  second = jnp.sum(difference**2, axis=0)
  count = transformed.shape[0]
  return jnp.sqrt(jnp.maximum(second - first**2 / count, 0) / (count - 1))


def _finalize(state: _State) -> list[base.Row]:
  rows = []
  for name, moments in state.samples.items():
    tv = np.asarray(state.deviations[name], np.float64) / float(state.images)
    # On the host a state is made of numpy arrays: the mean is float64's.
    variance = np.asarray(moments.variance, np.float64)
    sv = np.sqrt(np.maximum(variance, 0)).mean(axis=0)
    rows += _layer_rows(name, tv, sv)
  return rows


def _layer_rows(name: str, tv: np.ndarray, sv: np.ndarray) -> list[base.Row]:
  nv = quotient(tv, sv)
  dead = (tv == 0) & (sv == 0)
  finite = nv[np.isfinite(nv)]
  alive = float(sv.sum())
  values = {
    "transformation_variance": (tv.mean(), tv),
    "sample_variance": (sv.mean(), sv),
    "normalized_variance": (tv.sum() / alive if alive else np.nan, nv),
    "normalized_variance_reference": (
      finite.mean() if finite.size else np.nan,
      nv,
    ),
  }
  note = "" if alive else "no unit varies over the images"
  return [
    base.Row(
      name,
      measure,
      float(value),
      dead_fraction=float(dead.mean()),
      note=note if np.isnan(value) else "",
      units=units,
    )
    for measure, (value, units) in values.items()
  ]


def quotient(tv: np.ndarray, sv: np.ndarray) -> np.ndarray:
  """TV / SV with 0 / 0 = 1 and x / 0 = inf, as tmeasures divides."""
  result = np.where(tv > 0, np.inf, 1.0)
  np.divide(tv, sv, out=result, where=sv > 0)
  return result


normalized_variance = base.Measure(
  _init, _update, _finalize, name="normalized_variance", min_elements=2
)
"""TV / SV of each unit, over a whole orbit of transformations.

TV = mean over images of the standard deviation over the orbit; SV = mean over
the orbit of the standard deviation over images; both with divisor n - 1.
Standard deviations, despite the name. Four rows a layer:

* `transformation_variance`, `sample_variance`: means over units of TV and SV;
* `normalized_variance`: sum of TV over sum of SV, so that units that never
  vary (counted in `dead_fraction`) have no say;
* `normalized_variance_reference`: the mean over units of TV / SV with
  0 / 0 = 1 and infinite quotients left out, as the published code does it.

0: invariant; 1: transformations change a unit as much as images do; no upper
bound. NaN if no unit varies.

Source: F. Quiroga and L. Lanzarini, "Invariance and same-equivariance measures
for convolutional neural networks", JCS&T 20(1), 2020; package tmeasures.
"""
