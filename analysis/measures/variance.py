"""Variance over transformations against variance over images, unit by unit."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from analysis.measures import base, reduced, reductions, sums

_READS = frozenset({"over_orbit", "over_images"})


class _State(NamedTuple):
  deviations: Any  # (u,) sum over images of the std over the orbit
  within: Any  # (u,) sum over images of the variance over the orbit
  samples: sums.Moments  # over images, of each orbit element (t, u)
  defined: Any  # (t, u or 1) whether the unit has a value


def _init(shapes: base.Shapes) -> _State:
  zeros = sums.zeros(shapes.units)
  return _State(
    zeros,
    zeros,
    sums.init_moments(shapes.elements, shapes.units),
    np.ones((shapes.elements, 1), np.float32),
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  return _add(
    state,
    reductions.over_orbit(batch),
    reductions.add_over_images(state.samples, batch),
  )


def _add(
  state: _State, spread: reduced.Spread, samples: sums.Moments
) -> _State:
  return state._replace(
    deviations=state.deviations + spread.deviations,
    within=state.within + spread.within,
    samples=samples,
  )


def _init_aligned(shapes: base.Shapes) -> _State:
  state = _init(shapes)
  return state._replace(
    defined=np.ones((shapes.elements, shapes.units), np.float32)
  )


def _update_aligned(state: _State, batch: base.OrbitBatch) -> _State:
  state = _add(
    state,
    reductions.undone_over_orbit(batch),
    reductions.add_undone_over_images(state.samples, batch),
  )
  positions = batch.action.defined.shape[1]
  channels = len(state.deviations) // positions
  defined = jnp.repeat(batch.action.defined, channels, axis=1)
  return state._replace(defined=defined)


def _deviations(state: _State) -> tuple[np.ndarray, np.ndarray]:
  """TV and SV of every unit."""
  tv = np.asarray(state.deviations, np.float64) / float(state.samples.count)
  # On the host a state is made of numpy arrays: the mean is float64's.
  variance = np.asarray(state.samples.variance, np.float64)
  return tv, np.sqrt(np.maximum(variance, 0)).mean(axis=0)


def spread_rows(
  names: Mapping[str, str],
  over_orbit: np.ndarray,
  over_images: np.ndarray,
  inside: Any = True,
) -> list[base.Row]:
  """Rows of a spread over the orbit, one over images, and their ratio.

  Args:
    names: of the rows "orbit", "images" and "ratio"; the mean of the units'
      ratios has that of "ratio" with "_reference" at its end.
    over_orbit: (u,) spread of every unit over the orbit.
    over_images: (u,) spread of every unit over the images.
    inside: (u,) which units count in the ratio of means; all by default.

  Returns:
    Four rows, each with the values of all units.
  """
  ratio = quotient(over_orbit, over_images)
  inside = np.broadcast_to(inside, over_orbit.shape)
  dead = (over_orbit == 0) & (over_images == 0)
  finite = ratio[np.isfinite(ratio)]
  one, other = over_orbit[inside], over_images[inside]
  alive = float(other.sum())
  note = "no unit varies over the images"
  if not inside.any():
    note = "no position has a value under all transformations"
  nan = float("nan")
  values = {
    names["orbit"]: (one.mean() if one.size else nan, over_orbit),
    names["images"]: (other.mean() if other.size else nan, over_images),
    names["ratio"]: (one.sum() / alive if alive else nan, ratio),
    names["ratio"] + "_reference": (
      finite.mean() if finite.size else nan,
      ratio,
    ),
  }
  return [
    base.Row(
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


def _finalize(names: Mapping[str, str], state: _State) -> list[base.Row]:
  inside = np.asarray(state.defined).all(axis=0)
  return spread_rows(names, *_deviations(state), inside)


normalized_variance = base.Measure(
  _init,
  _update,
  functools.partial(
    _finalize,
    {
      "orbit": "transformation_variance",
      "images": "sample_variance",
      "ratio": "normalized_variance",
    },
  ),
  name="normalized_variance",
  protocol="normalized_variance/ratio-of-means",
  min_elements=2,
  reads=_READS,
  arrays=False,
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

same_equivariance_variance = base.Measure(
  _init_aligned,
  _update_aligned,
  functools.partial(
    _finalize,
    {
      "orbit": "same_equivariance_transformation_variance",
      "images": "same_equivariance_sample_variance",
      "ratio": "same_equivariance_variance",
    },
  ),
  name="same_equivariance_variance",
  protocol="same_equivariance_variance/ratio-of-means",
  needs=frozenset({"aligned"}),
  min_elements=2,
  reads=frozenset({"undone_over_orbit", "undone_over_images"}),
  arrays=False,
)
"""The variance family on t^-1 f(t x): does the map move along with the image?

The same four rows with t^-1 f(t_j x_i) in place of f(t_j x_i), t^-1 in image
coordinates through the layer's stride and offset, bilinear. The ratio of means
leaves out positions where t^-1 reads outside the map for any element of the
orbit; the `_reference` mean counts them, 0 outside, and every dead unit as 1,
as the published code does: dead units alone made 29 to 99 % of a published
score.

0: equivariant with the same transformation on the map; 1: as if the map did not
follow; no upper bound. NaN if no unit varies or no position is always inside.

Source: F. Quiroga and L. Lanzarini, 2020 (see `normalized_variance`).
"""


# A unit that moves less than this, relative to its size, is still: float32
# rounds at 6e-8, and F is a ratio of what rounding left.
_STILL = 1e-5


def _finalize_anova(state: _State) -> list[base.Row]:
  """F of the transformation within image, and its test after Holm."""
  samples = state.samples
  count, elements = float(samples.count), len(samples.origin)
  origin = np.asarray(samples.origin, np.float64)
  means = origin + np.asarray(samples.total, np.float64) / count
  grand = means.mean(axis=0)
  within = np.asarray(state.within, np.float64) * (elements - 1)
  between = count * ((means - grand) ** 2).sum(axis=0)
  rest = np.maximum(within - between, 0)
  degrees = elements - 1, (elements - 1) * (count - 1)
  size = np.asarray(samples.variance, np.float64).mean(axis=0) + grand**2
  still = within <= _STILL**2 * size * degrees[0] * count
  f = np.full(within.shape, np.inf)
  np.divide(between / degrees[0], rest / degrees[1], out=f, where=rest > 0)
  f[still] = 0.0
  p = np.where(still, 1.0, stats.f.sf(f, *degrees))
  return [
    base.Row(
      "anova",
      float(holm(p, 0.01).mean()),
      dead_fraction=float(still.mean()),
      units=f,
    )
  ]


def holm(p: np.ndarray, level: float) -> np.ndarray:
  """Which of many hypotheses are rejected, with family-wise error `level`.

  Args:
    p: (n,) p values.
    level: probability of any false rejection, at most.

  Returns:
    (n,) booleans.
  """
  order = np.argsort(p)
  accepted = p[order] > level / (len(p) - np.arange(len(p)))
  first = int(np.argmax(accepted)) if accepted.any() else len(p)
  rejected = np.zeros(len(p), bool)
  rejected[order[:first]] = True
  return rejected


anova = base.Measure(
  _init,
  _update,
  _finalize_anova,
  name="anova",
  protocol="anova/repeated-measures-holm-1pc",
  min_elements=2,
  reads=_READS,
  arrays=False,
)
"""Fraction of units whose mean depends on the transformation.

Repeated-measures analysis of variance of each unit: the same images appear
under every transformation, so the variance between images is taken out, and F =
[between / (T - 1)] / [rest / ((T - 1)(N - 1))]. A unit is significant at 1 %
after Holm's correction over the units of its layer. 0: no unit's mean moves
(nothing is said of single images); 1: all do. The fraction rises with the
number of images: compare at equal N. Units that do not move beyond rounding are
never significant and counted in `dead_fraction`. Per unit: F.

Source: after F. Quiroga and L. Lanzarini, 2020, whose independent-groups F
treats the repeated images as different ones; S. Holm, "A simple sequentially
rejective multiple test procedure", Scand. J. Statistics 6, 1979.
"""
