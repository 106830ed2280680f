"""Intervals and summaries over seeds. Seeds are the replicates.

Images are nested within seeds and orbit elements within images: both are
averaged within a seed before anything is said about the spread.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

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


# Left-right, up-down and both mirrors are of about one size, and different.
MIRRORS = {"0,0": 0.0, "1,0": 1.0, "0,1": 2.0, "1,1": 3.0}


class Interval(NamedTuple):
  """A mean with its confidence interval."""

  mean: float
  low: float
  high: float


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
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
