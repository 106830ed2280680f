"""Sensitivity maps: the error for every shift of a grid."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from analysis.measures import base, reductions, sums
from analysis.measures.invariance import profile, root_ratio

_NAN = float("nan")


class _State(NamedTuple):
  squares: Any  # (t,) sum over images of the squared distance
  distances: Any  # (t,) of the distance
  between: Any  # (blocks, pairs) distances of images of different classes
  block: Any  # number of blocks so far
  reference: sums.Moments
  magnitude: Any


def _init(shapes: base.Shapes) -> _State:
  zeros = sums.zeros(shapes.elements)
  blocks = -(-shapes.images // shapes.batch)
  pairs = max(shapes.batch * (shapes.batch - 1) // 2, 1)
  between = jnp.full((blocks, pairs), jnp.nan)
  block = np.zeros((), np.int32)
  moments = sums.init_moments(shapes.units)
  return _State(zeros, zeros, between, block, moments, zeros)


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  moved = reductions.moved(batch)
  between = state.between
  if len(batch.weight) > 1:
    pairs = _class_distances(batch)
    between = lax.dynamic_update_index_in_dim(between, pairs, state.block, 0)
  return _State(
    state.squares + moved.squares,
    state.distances + moved.distances,
    between,
    state.block + 1,
    reductions.add_reference(state.reference, batch),
    batch.elements.magnitude,
  )


def _class_distances(batch: base.OrbitBatch) -> Any:
  """Distances of all pairs of images of different classes; NaN for others."""
  # Measured from one of the images, so that little cancels.
  values = batch.reference - batch.reference[:1]
  gram = values @ values.T
  norms = jnp.diagonal(gram)
  squares = jnp.maximum(norms[:, None] + norms[None] - 2 * gram, 0)
  i, j = np.triu_indices(len(values), 1)
  differ = batch.labels[i] != batch.labels[j]
  known = (batch.labels[i] >= 0) & (batch.labels[j] >= 0)
  real = batch.weight[i] * batch.weight[j] > 0
  return jnp.where(differ & known & real, jnp.sqrt(squares[i, j]), jnp.nan)


def _finalize(state: _State) -> list[base.Row]:
  count = float(state.reference.count)
  variance = np.asarray(state.reference.variance, np.float64).sum()
  mean = np.asarray(state.squares, np.float64) / count
  errors, note = root_ratio(mean, 2 * float(variance))
  rows = _map_rows("", errors, note, state.magnitude)
  between = np.asarray(state.between, np.float64)
  between = between[np.isfinite(between)]
  median = float(np.median(between)) if between.size else 0.0
  note = "" if median else "no labels, or no distance between their classes"
  distances = np.asarray(state.distances, np.float64) / count
  scaled = distances / median if median else distances * _NAN
  return rows + _map_rows("_class_median", scaled, note, state.magnitude)


def _map_rows(
  suffix: str, values: np.ndarray, note: str, magnitude: Any
) -> list[base.Row]:
  """One row a shift, then one a distance: the mean over shifts as far."""
  rows = [
    base.Row(f"sensitivity_map{suffix}", float(value), element, note=note)
    for element, value in enumerate(values)
  ]
  radii, means = profile(values, np.asarray(magnitude))
  return rows + [
    base.Row(
      f"sensitivity_profile{suffix}",
      float(value),
      note=note,
      radius=float(radius),
    )
    for radius, value in zip(radii, means, strict=True)
  ]


def _not_a_grid(orbit: Any) -> str:
  """The reason unless an orbit is a grid of translations."""
  if orbit is None:
    return "needs the transformations: use measure()"
  if orbit.family.name != "translation":
    return "is defined on a grid of translations"
  x, y = (set(axis) for axis in zip(*orbit.thetas, strict=True))
  grid = {(a, b) for a in x for b in y}
  if min(len(x), len(y)) < 2 or grid != set(orbit.thetas):
    return "the elements are no grid of (dx, dy)"
  return ""


sensitivity_map = base.Measure(
  _init,
  _update,
  _finalize,
  name="sensitivity_map",
  protocol="sensitivity_map/grid",
  needs=frozenset({"pairs"}),
  refuses=_not_a_grid,
  reads=frozenset({"moved"}),
)
"""Invariance error for every shift of a (dx, dy) grid, and its radial profile.

`sensitivity_map` has a row a shift: the invariance error. `sensitivity_profile`
has a row a distance from the centre, in `magnitude`: the mean over the shifts
that far. `_class_median` after either name is the published normalisation: the
mean distance ||f(t x) - f(x)|| over the median distance between images of
different classes, which needs labels.

0: invariant; 1: as far as another image (of another class). NaN if nothing
varies, or for the class median without labels. The median is over all pairs of
images, or those within blocks where the protocol says so.

Source: E. Kauderer-Abrams, "Quantifying translation-invariance in convolutional
neural networks", 2017, arXiv:1801.01450.
"""
