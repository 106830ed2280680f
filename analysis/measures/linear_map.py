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

from analysis import sampling
from analysis.measures import base, maps, reductions

# Positions are drawn so that a fit has about this many samples a coefficient,
# of which an output of a 3x3 map of 64 channels has 577.
_SAMPLES = 14

# Channels of a layer, at most: 9 times as many regressors have a matrix of
# second moments that is solved on the host.
_CHANNELS = 256

# Ridge penalty, relative to the regressors' mean square. A fit divides what
# rounding leaves in the second moments by it: they are summed in float64, since
# in float32 the batch size would move a fit on few images by 1e-3.
_RIDGE = 1e-3

_FORMS = ("none", "geometric", "1x1", "3x3")


class Moments(NamedTuple):
  """Second moments of each half of the images; axis 0: fitted, held out.

  The regressors are the 3x3 neighbourhood of each channel and a constant. All
  sums are float64.
  """

  regressors: Any  # (2, k, k)
  targets: Any  # (2, k, t c) regressors with aligned targets
  squares: Any  # (2, t) squared aligned targets
  sums: Any  # (2, t, c) aligned targets
  identity: Any  # (2, t) squared f(t x) - f(x)
  geometric: Any  # (2, t) squared t^-1 f(t x) - f(x)
  raw_squares: Any  # (2, t) squared f(t x)
  raw_sums: Any  # (2, t, c) f(t x)
  count: Any  # (2,) samples: images times positions
  positions: Any  # (s,) chosen positions; of a layer without map the only one


def sizes(shapes: base.Shapes) -> tuple[tuple[int, ...], ...]:
  """Shapes of the sums of `Moments`, in order."""
  t, k, c = shapes.elements, _coefficients(shapes), shapes.channels
  return (
    (2, k, k),
    (2, k, t * c),
    (2, t),
    (2, t, c),
    (2, t),
    (2, t),
    (2, t),
    (2, t, c),
    (2,),
  )


def _init(shapes: base.Shapes) -> Moments | None:
  chosen = chosen_positions(shapes)
  if chosen is None:
    return None
  with jax.enable_x64(True):
    empty = [jnp.zeros(size, jnp.float64) for size in sizes(shapes)]
  return Moments._make([*empty, chosen])


def _coefficients(shapes: base.Shapes) -> int:
  """Of one output: its neighbourhood's channels and a constant."""
  taps = 9 if shapes.action is not None else 1
  return taps * shapes.channels + 1


def chosen_positions(shapes: base.Shapes) -> np.ndarray | None:
  """Positions that samples are taken at.

  Args:
    shapes: of the layer.

  Returns:
    (s,) enough for the fit, at random, but the same in every run; the only one
    of a layer without positions; None for a layer that has no fit.
  """
  if shapes.channels > _CHANNELS:
    return None
  if shapes.action is None:
    return None if shapes.positions is not None else np.zeros(1, np.int32)
  defined = np.asarray(shapes.action.defined).all(axis=0)
  candidates = np.flatnonzero(defined)
  wanted = -(-2 * _SAMPLES * _coefficients(shapes) // shapes.images)
  if len(candidates) > wanted:
    rng = np.random.default_rng(0)
    candidates = np.sort(rng.permutation(candidates)[:wanted])
  return candidates.astype(np.int32)


def _update(state: Moments | None, batch: base.OrbitBatch) -> Moments | None:
  if state is None or not state.positions.size:
    return state
  old = state[:-1]
  new = reductions.given(batch, "linear")
  if new is None:
    new = _of_batch(state.positions, batch)
  with jax.enable_x64(True):
    sums = [a + b for a, b in zip(old, new, strict=True)]
  return Moments._make([*sums, state.positions])


def _of_batch(at: Any, batch: base.OrbitBatch) -> list[Any]:
  """The sums of one batch."""
  mean = batch.statistics.mean
  shape = (1, 1, batch.reference.shape[-1])
  if batch.action is None:
    moved = aligned = batch.transformed[:, :, None, :]
  else:
    height, width = len(batch.action.rows), len(batch.action.columns)
    shape = (height, width, shape[-1] // (height * width))
    after = batch.transformed.reshape(*batch.transformed.shape[:2], *shape)
    here = batch.action._replace(
      indices=batch.action.indices[..., at],
      weights=batch.action.weights[..., at],
    )
    aligned = maps.align(after, here)
    moved = after.reshape(*after.shape[:2], -1, shape[-1])[:, :, at]
  # By the image's place in the data set: a pass that compares pairs of images
  # in blocks takes them in another order, and the halves must not follow it.
  even = batch.index % 2 == 0
  with jax.enable_x64(True):
    # Taking the mean of each channel off changes no fit with a constant, but
    # the sums cancel less and the regressors are less collinear.
    mean, reference, moved, aligned, weight = (
      a.astype(jnp.float64)
      for a in (mean, batch.reference, moved, aligned, batch.weight)
    )
    # In float32, which a constant layer's mean is without rounding.
    mean = mean.reshape(-1, shape[-1]).mean(0).astype(jnp.float32)
    mean = mean.astype(jnp.float64)
    moved, aligned = (a - mean[None, None, None] for a in (moved, aligned))
    if batch.action is None:
      own = regressors = (reference - mean[None])[:, None, :]
    else:
      own_maps = reference.reshape(-1, *shape) - mean[None, None, None]
      own = own_maps.reshape(len(own_maps), -1, shape[-1])[:, at]
      regressors = neighbourhoods(own_maps, at)
    halves = [
      moments(
        regressors, own, moved, aligned, weight * half.astype(weight.dtype)
      )
      for half in (even, ~even)
    ]
    return [jnp.stack(pair) for pair in zip(*halves, strict=True)]


def neighbourhoods(own: Any, at: Any) -> Any:
  """The 3x3 neighbourhood of some positions, 0 outside the map.

  Args:
    own: (b, h, w, c) maps, numpy's or jax's.
    at: (s,) positions.

  Returns:
    (b, s, 9 c).
  """
  xp = sampling.namespace(own)
  count, _, width, channels = own.shape
  padded = xp.pad(own, ((0, 0), (1, 1), (1, 1), (0, 0)))
  flat = padded.reshape(count, -1, channels)
  corner = at // width * (width + 2) + at % width
  taps = [
    flat[:, corner + j * (width + 2) + i] for j in range(3) for i in range(3)
  ]
  return xp.concatenate(taps, axis=-1)


def moments(
  regressors: Any, own: Any, moved: Any, aligned: Any, weight: Any
) -> list[Any]:
  """The sums of `Moments` over some images, of one half.

  Args:
    regressors: (b, s, k - 1).
    own: (b, s, c) of f(x).
    moved: (t, b, s, c) of f(t x).
    aligned: (t, b, s, c) of t^-1 f(t x).
    weight: (b,) 1 for an image, 0 for one that adds nothing.

  Returns:
    The sums; all of the arguments' type and kind, numpy's or jax's.
  """
  xp = sampling.namespace(regressors)
  mask = weight[:, None, None]
  one = xp.ones((*regressors.shape[:2], 1), regressors.dtype)
  phi = xp.concatenate([regressors, one], axis=-1) * mask
  elements, channels = aligned.shape[0], aligned.shape[-1]

  def rows(values: Any) -> Any:
    return (values * mask[None]).reshape(len(values), -1)

  def power(values: Any) -> Any:
    return xp.einsum("ti,ti->t", values, values)

  def total(values: Any) -> Any:
    return values.reshape(elements, -1, channels).sum(1)

  own, moved, aligned = rows(own[None]), rows(moved), rows(aligned)
  phi = phi.reshape(-1, phi.shape[-1])
  targets = xp.swapaxes(aligned.reshape(elements, -1, channels), 0, 1)
  return [
    phi.T @ phi,
    phi.T @ targets.reshape(len(phi), -1),
    power(aligned),
    total(aligned),
    power(moved - own),
    power(aligned - own),
    power(moved),
    total(moved),
    weight.sum() * regressors.shape[1],
  ]


def _finalize(state: Moments | None) -> list[base.Row]:
  if state is None:
    return _missing(
      f"more than {_CHANNELS} channels, or a map whose place is not known"
    )
  if not state.positions.size:
    return _missing("no position has a value under all transformations")
  found = Moments(*(np.asarray(leaf, np.float64) for leaf in state))
  residuals = {"none": found.identity[1]}
  channels = found.sums.shape[-1]
  k = found.regressors.shape[-1]
  spatial = k > channels + 1
  if spatial:
    residuals["geometric"] = found.geometric[1]
    centre = 4 * channels + np.arange(channels)
    residuals["1x1"] = _fit(found, np.append(centre, k - 1))
    residuals["3x3"] = _fit(found, np.arange(k))
  else:
    residuals["1x1"] = _fit(found, np.arange(k))
  rows = []
  for form, values in residuals.items():
    raw = form == "none"
    squares = found.raw_squares[1] if raw else found.squares[1]
    totals = found.raw_sums[1] if raw else found.sums[1]
    variation = squares - (totals**2).sum(-1) / found.count[1]
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


def _fit(found: Moments, used: np.ndarray) -> np.ndarray:
  """Squared residual of every element on the held-out images."""
  fitted, held_out = (r[np.ix_(used, used)] for r in found.regressors)
  targets = found.targets[:, used]
  ridge = np.full(len(used), _RIDGE * np.diag(fitted)[:-1].mean() or 1.0)
  ridge[-1] = 0.0  # the constant is free
  fitted = fitted + np.diag(ridge)
  scale = np.sqrt(np.diag(fitted))  # regressors of unit length: conditioning
  solution = _solve(
    fitted / np.outer(scale, scale), targets[0] / scale[:, None]
  )
  solution = solution / scale[:, None]
  shape = found.sums.shape[1:]
  explained = (solution * targets[1]).sum(0).reshape(shape).sum(-1)
  spread = (solution * (held_out @ solution)).sum(0).reshape(shape).sum(-1)
  return found.squares[1] - 2 * explained + spread


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Solution for a positive definite matrix, or one that rounding spoilt."""
  try:
    # `scipy.linalg.solve` would take twice as long to estimate the condition.
    factor = scipy.linalg.cho_factor(matrix)
    return np.asarray(scipy.linalg.cho_solve(factor, right))
  except np.linalg.LinAlgError:
    return scipy.linalg.solve(matrix, right, assume_a="sym")


equivariant_map = base.Measure(
  _init,
  _update,
  _finalize,
  name="equivariant_map",
  protocol="equivariant_map/ridge-halves",
  version=2,
  reads=frozenset({"linear"}),
  arrays=False,
  needs=frozenset({"statistics"}),
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
choice, for about 14 samples a coefficient. Layers without positions have `none`
and, as a mixing of all units, `1x1`.

1: linearly equivariant; 0: no better than the mean; negative: worse. The fitted
forms are no lower than what they contain but for chance: with few images they
fit noise and fall. NaN for more than 256 channels, layers whose place is not
known, or held-out images that do not vary.

Source: K. Lenc and A. Vedaldi, "Understanding image representations by
measuring their equivariance and equivalence", CVPR 2015.
"""
