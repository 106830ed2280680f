"""Intervals and summaries over seeds. Seeds are the replicates.

Images are nested within seeds and orbit elements within images: both are
averaged within a seed before anything is said about the spread.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.tables import of_elements

# What tells one line of a summary from another.
KEYS = (
  "run",
  "dataset",
  "model",
  "pooling",
  "depth",
  "padding",
  "head",
  "augmentation",
  "width",
  "stage",
  "layer",
  "layer_index",
  "orbit",
  "transform",
  "dose",
  "unit",
  "measure",
)


# Reference transformations, where one dose of each family is shown or judged:
# what a reader would call a small change that should not matter.
REFERENCE_DOSES = {
  "translation": (2.0, "2 px"),
  "rotation": (15.0, "15°"),
  "scaling": (float(np.log2(1.2)), "factor 1.2"),
  "shear": (0.1, "0.1"),
  "reflection": (1.0, "left-right mirror"),
  "quarter_turn": (1.0, "90°"),
}

# Left-right, up-down and both mirrors are of about one size, and different.
MIRRORS = {"0,0": 0.0, "1,0": 1.0, "0,1": 2.0, "1,1": 3.0}


# One number a seed.
Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
  """A mean with its confidence interval."""

  mean: float
  low: float
  high: float


def t_interval(values: Values, level: float = 0.95) -> Interval:
  """Student's t interval of the mean.

  Args:
    values: one a seed.
    level: confidence level.

  Returns:
    Mean and interval; NaN bounds for fewer than two values.
  """
  x = np.asarray(values, np.float64)
  mean = float(x.mean())
  if len(x) < 2:
    return Interval(mean, float("nan"), float("nan"))
  half = stats.t.ppf((1 + level) / 2, len(x) - 1) * stats.sem(x)
  return Interval(mean, mean - float(half), mean + float(half))


def dose(table: pd.DataFrame) -> pd.Series:
  """The abscissa of a dose-response curve, in the family's unit.

  The magnitude; for scaling with its sign, because magnifying and shrinking
  are different things, while left and right, or clockwise and not, are
  averaged. For reflection the number of the mirror: 1 left-right, 2 up-down, 3
  both.

  Args:
    table: measurements.

  Returns:
    One number a row; for a whole orbit its largest magnitude.
  """
  single = of_elements(table)
  signed = (table["transform"] == "scaling") & single
  mirror = (table["transform"] == "reflection") & single
  doses = table["magnitude"].astype(float).copy()
  doses[signed] = table["theta"][signed].astype(float)
  doses[mirror] = table["theta"][mirror].map(MIRRORS).astype(float)
  return doses


def summarize(table: pd.DataFrame) -> pd.DataFrame:
  """Means and 95 % intervals over seeds.

  Args:
    table: measurements of one or more runs.

  Returns:
    One row for each architecture, stage, layer, transformation, dose and
    measure: mean, low and high of the value, means of floor, displacement,
    dead fraction and V, numbers of seeds with a value and of images, and the
    note where there is none. A seed has a value if all directions have.
  """
  # A radius beyond the grid is infinite: no mean over seeds is known.
  value = table["value"].replace(np.inf, np.nan)
  table = table.assign(dose=dose(table), value=value, undefined=value.isna())
  keys = list(KEYS)
  means = ["floor", "displacement_px", "lost_intensity"]
  means += ["dead_fraction", "total_variance"]
  aggregate: dict[str, Any] = dict.fromkeys(["value", *means], "mean")
  aggregate |= {"undefined": "any", "n_images": "first", "note": "max"}
  by_seed = table.groupby([*keys, "seed"], sort=False, dropna=False)
  by_seed = by_seed.agg(aggregate).reset_index()
  # A mean over some of the directions only would be of something else.
  by_seed.loc[by_seed["undefined"], "value"] = np.nan
  summary = by_seed.groupby(keys, sort=False, dropna=False).agg(
    mean=("value", "mean"),
    low=("value", "sem"),
    high=("value", "sem"),
    n_seeds=("value", "count"),
    **{name: (name, "mean") for name in means},
    n_images=("n_images", "first"),
    note=("note", "max"),
  )
  summary = summary.reset_index()
  t = stats.t.ppf(0.975, np.maximum(summary["n_seeds"].to_numpy() - 1, 1))
  half = t * summary["high"].to_numpy()  # NaN for a single seed
  summary["low"] = summary["mean"] - half
  summary["high"] = summary["mean"] + half
  return summary


# --- inference ---------------------------------------------------------------

# From so many seeds on, the bootstrap's 95 % interval instead of Student's:
# below, BCa intervals of a mean are too narrow. Corrected levels lie so far out
# that theirs are too narrow even then, so those stay Student's.
BOOTSTRAP_SEEDS = 20

# How finely the distribution of an estimated spread is cut.
_PARTS = 2000

# Values are equal if they differ by rounding only.
_ROUNDING = 1e-12

# Up to so many seeds all sign patterns are enumerated.
_EXACT_SEEDS = 16

LEVEL, POWER = 0.95, 0.8


def mean_interval(values: Values, level: float = LEVEL) -> Interval:
  """Confidence interval of a mean over seeds.

  Student's t below `BOOTSTRAP_SEEDS` seeds, the bias-corrected and accelerated
  bootstrap (Efron 1987; 9,999 resamples, fixed seed) from there on, and
  Student's t again where the bootstrap is degenerate, as it is for values that
  are all equal.

  Args:
    values: one a seed.
    level: confidence level.

  Returns:
    Mean and interval; NaN bounds for fewer than two values.
  """
  student = t_interval(values, level)
  if len(values) < BOOTSTRAP_SEEDS or np.ptp(values) == 0:
    return student
  found = stats.bootstrap(
    (np.asarray(values, np.float64),),
    np.mean,
    confidence_level=level,
    method="BCa",
    rng=np.random.default_rng(0),
  ).confidence_interval
  if not np.isfinite([found.low, found.high]).all():
    return student
  return Interval(student.mean, float(found.low), float(found.high))


def widened_interval(
  values: Values, se: float, level: float = LEVEL
) -> Interval:
  """Student's t interval of a mean that has another source of error.

  Args:
    values: one a seed.
    se: standard error that comes on top of that of the mean.
    level: confidence level.

  Returns:
    Mean and interval; NaN bounds for fewer than two values.
  """
  mean, low, high = t_interval(values, level)
  if len(values) < 2:
    return Interval(mean, low, high)
  t = stats.t.ppf((1 + level) / 2, len(values) - 1)
  half = float(np.hypot((high - low) / 2, t * se))
  return Interval(mean, mean - half, mean + half)


def p_above(values: Values, margin: float = 0.0) -> float:
  """One-sided p of a mean at or below a margin, by Student's t.

  Args:
    values: one a seed.
    margin: the largest mean of the null hypothesis.

  Returns:
    p; for values that are all equal 0 or 1, by which side they are on; NaN for
    fewer than two.
  """
  x = np.asarray(values, np.float64) - margin
  if len(x) < 2:
    return float("nan")
  if np.ptp(x) <= _ROUNDING * np.abs(values).max():
    return float(x.mean() <= 0)
  return float(stats.ttest_1samp(x, 0.0, alternative="greater").pvalue)


def p_equivalent(values: Values, margin: float) -> float:
  """P of two one-sided tests: the mean lies outside plus or minus a margin.

  Args:
    values: one a seed.
    margin: half the width of the region of equivalence, positive.

  Returns:
    The larger of the two (Schuirmann 1987); NaN for fewer than two values.
  """
  x = np.asarray(values, np.float64)
  return float(np.max([p_above(x, -margin), p_above(-x, -margin)]))


def p_sign_flip(values: Values) -> float:
  """One-sided exact permutation p of differences paired by seed.

  Under the null hypothesis each difference is as likely as its negative. With n
  seeds the smallest possible value is 2^-n.

  Args:
    values: one difference a seed.

  Returns:
    Share of the sign patterns whose sum is at least the one seen; NaN for no
    value. Beyond 16 seeds 9,999 patterns are drawn (fixed seed).
  """
  x = np.asarray(values, np.float64)
  if not len(x):
    return float("nan")
  # Ties are not lost to rounding.
  least = x.sum() - _ROUNDING * np.abs(x).sum()
  if len(x) <= _EXACT_SEEDS:
    patterns = np.arange(2 ** len(x))[:, None] >> np.arange(len(x)) & 1
    sums = (1 - 2 * patterns) @ x
    return float((sums >= least).mean())
  rng = np.random.default_rng(0)
  sums = rng.choice([-1.0, 1.0], (9999, len(x))) @ x
  return float((1 + (sums >= least).sum()) / 10_000)


class Holm(NamedTuple):
  """Holm's step-down correction of one hypothesis.

  Attributes:
    p: adjusted p.
    alpha: the error level that it is tested at: an interval of level 1 - alpha
      excludes the null exactly where the adjusted p is at most the error level
      of all together.
  """

  p: float
  alpha: float


def holm(p_values: Sequence[float], alpha: float = 1 - LEVEL) -> list[Holm]:
  """Corrects several tests so that any false rejection has probability alpha.

  Args:
    p_values: one a hypothesis; NaN is no test and counts for nothing.
    alpha: error level of all together.

  Returns:
    One a hypothesis. After the first that is not rejected, all later ones are
    tested at its level.

  References:
    S. Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6, 1979.
  """
  p = np.asarray(p_values, np.float64)
  nan = float("nan")
  result = [Holm(nan, nan)] * len(p)
  order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
  largest, level, rejecting = 0.0, alpha, True
  for rank, i in enumerate(order):
    if rejecting:
      level = alpha / (len(order) - rank)
      rejecting = bool(p[i] <= level)
    largest = max(largest, min((len(order) - rank) * p[i], 1.0))
    result[i] = Holm(float(largest), level)
  return result


def power(sd: float, effect: float, n: int, alpha: float) -> float:
  """Probability that a two-sided one-sample t test at level alpha finds it.

  Args:
    sd: standard deviation of the paired differences over seeds.
    effect: the true mean difference.
    n: number of seeds.
    alpha: error level.

  Returns:
    0 to 1; 1 without any spread, NaN for fewer than two seeds.
  """
  if n < 2 or np.isnan(sd):
    return float("nan")
  if sd <= 1e-9 * abs(effect):
    return 1.0  # where the noncentral t distribution has no numbers
  critical = stats.t.ppf(1 - alpha / 2, n - 1)
  shift = abs(effect) / sd * np.sqrt(n)
  return float(stats.nct.sf(critical, n - 1, shift))


def detectable(
  sd: float, n: int, alpha: float, *, wanted: float = POWER
) -> float:
  """The distance from a bound that a two-sided t test finds with a power.

  For rules that compare with a bound: no effect of a known size is to be found
  there, but this says how near to the bound "inconclusive" is to be expected.

  Args:
    sd: standard deviation over seeds.
    n: number of seeds.
    alpha: error level.
    wanted: the power.

  Returns:
    The distance in the unit of `sd`; 0 without any spread, NaN for fewer than
    two seeds.
  """
  if n < 2 or np.isnan(sd):
    return float("nan")
  if sd == 0:
    return 0.0
  # In units of the spread; at the critical value the power is about a half.
  critical = float(stats.t.ppf(1 - alpha / 2, n - 1))
  most = critical
  while power(1.0, most, n, alpha) < wanted:
    most *= 2
  found = optimize.root_scalar(
    lambda d: power(1.0, d, n, alpha) - wanted, bracket=(1e-6, most)
  )
  return sd * found.root


def power_equivalent(sd: float, margin: float, n: int, alpha: float) -> float:
  """Probability that two one-sided tests find a true difference of 0.

  Args:
    sd: standard deviation of the paired differences over seeds.
    margin: half the width of the region of equivalence.
    n: number of seeds.
    alpha: error level of each test.

  Returns:
    0 to 1: given the estimated spread, the chance that the mean lies close
    enough to 0, averaged over that spread's chi distribution.
  """
  if n < 2 or np.isnan(sd):
    return float("nan")
  if sd == 0:
    return 1.0
  # Midpoints of equal parts of probability.
  parts = (np.arange(_PARTS) + 0.5) / _PARTS
  spread = np.sqrt(stats.chi2.ppf(parts, n - 1) / (n - 1))
  room = margin / sd * np.sqrt(n) - stats.t.ppf(1 - alpha, n - 1) * spread
  return float((2 * stats.norm.cdf(np.maximum(room, 0)) - 1).mean())


def seeds_needed(
  sd: float,
  effect: float,
  alpha: float,
  *,
  wanted: float = POWER,
  equivalent: bool = False,
  most: int = 1000,
) -> float:
  """The fewest seeds with a power.

  Args:
    sd: a pilot's standard deviation over seeds.
    effect: the smallest effect of interest, or the margin of equivalence.
    alpha: error level.
    wanted: the power.
    equivalent: whether it is equivalence that is to be shown.
    most: as far as is searched.

  Returns:
    The number; infinity beyond `most`, NaN without a standard deviation.
  """
  if np.isnan(sd):
    return float("nan")
  of = power_equivalent if equivalent else power
  for n in range(2, most + 1):
    if of(sd, effect, n, alpha) >= wanted:
      return float(n)
  return float("inf")
