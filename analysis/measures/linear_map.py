"""Is there a linear map that undoes the transformation in a layer?

Ridge regression from f(x) to t^-1 f(t x), fitted on every other image and
judged on the others. All that is kept of the images are second moments, so
memory does not grow with their number. Taking the target back to the frame of
f(x) leaves the regressors, and their second moments, the same for all
transformations.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from analysis.measures import base

# Positions are drawn so that a fit has about this many samples; a 3x3 map of 64
# channels has 577 coefficients an output.
_SAMPLES = 8192

# Channels of a layer, at most: 9 times as many regressors have a matrix of
# second moments that is solved on the host.
_CHANNELS = 256

# Ridge penalty, relative to the regressors' mean square. A fit divides what
# rounding leaves in the second moments by it: they are summed in float64, since
# in float32 the batch size would move a fit on few images by 1e-3.
_RIDGE = 1e-3

_FORMS = ("none", "geometric", "1x1", "3x3")


class _State(NamedTuple):
  """Second moments of each half of the images; axis 0: fitted, held out.

  The regressors are the 3x3 neighbourhood of each channel and a constant. All
  sums are float64.
  """

  regressors: Any  # (2, k, k)
  targets: Any  # (2, t, k, c) regressors with aligned targets
  squares: Any  # (2, t) squared aligned targets
  sums: Any  # (2, t, c) aligned targets
  identity: Any  # (2, t) squared f(t x) - f(x)
  geometric: Any  # (2, t) squared t^-1 f(t x) - f(x)
  raw_squares: Any  # (2, t) squared f(t x)
  raw_sums: Any  # (2, t, c) f(t x)
  count: Any  # (2,) samples: images times positions
  positions: Any  # (s,) chosen positions; of a layer without map the only one


def _init(shapes: base.Shapes) -> _State | None:
  channels = shapes.channels
  if channels > _CHANNELS:
    return None
  valid = np.ones(1, bool)
  if shapes.action is not None:
    valid = np.asarray(np.asarray(shapes.action.defined).all(axis=0))
  elif shapes.positions is not None:
    return None
  chosen = _choose(valid, shapes.images)
  taps = 9 if shapes.action is not None else 1
  t, k = shapes.elements, taps * channels + 1
  of_shapes = (
    (2, k, k),
    (2, t, k, channels),
    (2, t),
    (2, t, channels),
    (2, t),
    (2, t),
    (2, t),
    (2, t, channels),
    (2,),
  )
  with jax.enable_x64(True):
    empty = [jnp.zeros(shape, jnp.float64) for shape in of_shapes]
  return _State._make([*empty, jnp.asarray(chosen, jnp.int32)])


def _choose(valid: np.ndarray, images: int) -> np.ndarray:
  """Positions at random, but the same in every run, enough for the fit."""
  candidates = np.flatnonzero(valid)
  wanted = -(-2 * _SAMPLES // images)
  if len(candidates) > wanted:
    rng = np.random.default_rng(0)
    candidates = np.sort(rng.permutation(candidates)[:wanted])
  return candidates


def _update(state: _State | None, batch: base.OrbitBatch) -> _State | None:
  if state is None or not state.positions.size:
    return state
  # Taking the mean of each channel off changes no fit with a constant, but the
  # sums cancel less and the regressors are less collinear.
  if batch.aligned is None:
    mean = batch.statistics.mean
    own = (batch.reference - mean[None])[:, None, :]
    moved = aligned = (batch.transformed - mean[None, None])[:, :, None, :]
    regressors = own
  else:
    channels = batch.aligned.shape[-1]
    mean = batch.statistics.mean.reshape(-1, channels).mean(0)
    height, width = len(batch.action.rows), len(batch.action.columns)
    maps = batch.reference.reshape(-1, height, width, channels)
    maps = maps - mean[None, None, None]
    at = state.positions
    own = maps.reshape(len(maps), -1, channels)[:, at]
    regressors = _neighbourhoods(maps, at)
    aligned = batch.aligned[:, :, at]
    moved = batch.transformed.reshape(batch.aligned.shape)[:, :, at]
    moved, aligned = (a - mean[None, None, None] for a in (moved, aligned))
  one = jnp.ones((*regressors.shape[:2], 1))
  phi = jnp.concatenate([regressors, one], axis=-1)
  # By the image's place in the data set: a pass that compares pairs of images
  # in blocks takes them in another order, and the halves must not follow it.
  even = batch.index % 2 == 0
  with jax.enable_x64(True):
    exact = [
      a.astype(jnp.float64) for a in (phi, own, moved, aligned, batch.weight)
    ]
    phi, own, moved, aligned, weight = exact
    halves = [
      _moments(phi, own, moved, aligned, weight * half.astype(weight.dtype))
      for half in (even, ~even)
    ]
    new = [jnp.stack(pair) for pair in zip(*halves, strict=True)]
    sums = [a + b for a, b in zip(state[: len(new)], new, strict=True)]
  return _State._make([*sums, state.positions])


def _neighbourhoods(maps: Any, at: Any) -> Float[Array, "b s k"]:
  """The 3x3 neighbourhood of some positions, the mean outside the map."""
  count, _, width, channels = maps.shape
  padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
  flat = padded.reshape(count, -1, channels)
  corner = at // width * (width + 2) + at % width
  taps = [
    flat[:, corner + j * (width + 2) + i] for j in range(3) for i in range(3)
  ]
  return jnp.concatenate(taps, axis=-1)


def _moments(
  phi: Any, own: Any, moved: Any, aligned: Any, weight: Any
) -> list[Any]:
  """The sums of one half: images of weight 0 add nothing."""
  weighted = phi * weight[:, None, None]
  by_image = weight[None, :, None, None]
  flat = weighted.reshape(-1, phi.shape[-1])
  elements, channels = aligned.shape[0], aligned.shape[-1]
  targets = jnp.moveaxis(aligned, 0, 2).reshape(-1, elements * channels)
  cross = (flat.T @ targets).reshape(-1, elements, channels)
  return [
    flat.T @ phi.reshape(-1, phi.shape[-1]),
    jnp.moveaxis(cross, 1, 0),
    (by_image * aligned**2).sum((1, 2, 3)),
    (by_image * aligned).sum((1, 2)),
    (by_image * (moved - own[None]) ** 2).sum((1, 2, 3)),
    (by_image * (aligned - own[None]) ** 2).sum((1, 2, 3)),
    (by_image * moved**2).sum((1, 2, 3)),
    (by_image * moved).sum((1, 2)),
    weight.sum() * phi.shape[1],
  ]


def _finalize(state: _State | None) -> list[base.Row]:
  if state is None:
    return _missing(
      f"more than {_CHANNELS} channels, or a map whose place is not known"
    )
  if not state.positions.size:
    return _missing("no position has a value under all transformations")
  sums = _State(*(np.asarray(leaf, np.float64) for leaf in state))
  residuals = {"none": sums.identity[1]}
  channels = sums.targets.shape[-1]
  k = sums.regressors.shape[-1]
  spatial = k > channels + 1
  if spatial:
    residuals["geometric"] = sums.geometric[1]
    centre = 4 * channels + np.arange(channels)
    residuals["1x1"] = _fit(sums, np.append(centre, k - 1))
    residuals["3x3"] = _fit(sums, np.arange(k))
  else:
    residuals["1x1"] = _fit(sums, np.arange(k))
  rows = []
  for form, values in residuals.items():
    raw = form == "none"
    squares = sums.raw_squares[1] if raw else sums.squares[1]
    totals = sums.raw_sums[1] if raw else sums.sums[1]
    variation = squares - (totals**2).sum(-1) / sums.count[1]
    for element, (residual, total) in enumerate(
      zip(values, variation, strict=True)
    ):
      # What rounding leaves of the variation of a constant is no yardstick.
      known = total > 1e-6 * squares[element]
      value = float(1 - residual / total) if known else float("nan")
      note = "" if known else "the held-out images do not vary"
      rows.append(
        base.Row(f"equivariant_map_{form}", value, element, note=note)
      )
  if not spatial:
    rows += _missing("the layer has no positions", ("geometric", "3x3"))
  return rows


def _missing(note: str, forms: Sequence[str] = _FORMS) -> list[base.Row]:
  return [
    base.Row(f"equivariant_map_{form}", float("nan"), note=note)
    for form in forms
  ]


def _fit(sums: _State, used: np.ndarray) -> np.ndarray:
  """Squared residual of every element on the held-out images."""
  fitted, held_out = (r[np.ix_(used, used)] for r in sums.regressors)
  targets = sums.targets[:, :, used]
  ridge = np.full(len(used), _RIDGE * np.diag(fitted)[:-1].mean() or 1.0)
  ridge[-1] = 0.0  # the constant is free
  fitted = fitted + np.diag(ridge)
  scale = np.sqrt(np.diag(fitted))  # regressors of unit length: conditioning
  elements, _, channels = targets[0].shape
  right = np.moveaxis(targets[0], 0, 1).reshape(len(used), -1)
  solution = scipy.linalg.solve(
    fitted / np.outer(scale, scale), right / scale[:, None], assume_a="sym"
  )
  solution = (solution / scale[:, None]).reshape(-1, elements, channels)
  explained = np.einsum("ktc,tkc->t", solution, targets[1])
  spread = np.einsum(
    "ktc,kl,ltc->t", solution, held_out, solution, optimize=True
  )
  return sums.squares[1] - 2 * explained + spread


equivariant_map = base.Measure(
  _init,
  _update,
  _finalize,
  name="equivariant_map",
  protocol="equivariant_map/ridge-halves",
  version=2,
  needs=frozenset({"aligned_if_mapped", "statistics"}),
)
"""R^2 of a linear map from f(x) to f(t x), on images it was not fitted on.

Four rows a transformation, each allowing more:

* `equivariant_map_none`: the identity, f(t x) = f(x); nothing is fitted;
* `equivariant_map_geometric`: the transformation on the map, f(t x) = t f(x);
* `equivariant_map_1x1`: that and a mixing of the channels with a constant;
* `equivariant_map_3x3`: that and a 3x3 convolution with a constant.

Fitted on the images of even index by ridge regression (penalty 1e-3 of the
regressors' mean square), judged on those of odd index: R^2 = 1 - sum
||error||^2 / sum ||target - mean||^2, the mean by channel. The target is t^-1
f(t x), so that the regressors are those of f(x), at positions where t^-1 reads
inside the map for every element of the orbit; of many positions a fixed random
choice, for about 8,192 samples a fit. Layers without positions have `none` and,
as a mixing of all units, `1x1`.

1: linearly equivariant; 0: no better than the mean; negative: worse. The fitted
forms are no lower than what they contain but for chance: with few images they
fit noise and fall. NaN for more than 256 channels, layers whose place is not
known, or held-out images that do not vary.

Source: K. Lenc and A. Vedaldi, "Understanding image representations by
measuring their equivariance and equivalence", CVPR 2015.
"""
