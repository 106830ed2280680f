"""The rules: from intervals to the verdict on a part, from parts to a claim."""

import math
from collections.abc import Sequence

import numpy as np

from analysis import statistics
from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  Part,
)
from analysis.statistics import Interval


def p_value(part: Part, values: statistics.Values) -> float:
  """Two-sided p for what the part's rule calls supported.

  Twice the one-sided p, so that the interval of level 1 - alpha shows the same.

  Args:
    part: its rule and margin.
    values: one a seed.
  """
  x = np.asarray(values, np.float64)
  one_sided = {
    "greater": lambda: statistics.p_above(x),
    "at_least": lambda: statistics.p_above(x, part.margin),
    "at_most": lambda: statistics.p_above(-x, -part.margin),
    "equivalent": lambda: statistics.p_equivalent(x, part.margin),
  }[part.rule]()
  return min(1.0, 2 * one_sided) if one_sided == one_sided else one_sided


def read(
  rule: str, margin: float, holm: Interval, strict: Interval | None = None
) -> str:
  """The verdict that an effect's intervals give; see `analysis.claims.base`.

  Args:
    rule: one of `base.RULES`.
    margin: the smallest effect of interest, or the bound.
    holm: the interval that support is read off.
    strict: the wider one that refutation, and equivalence to nothing, is read
      off; the same if not given.

  Returns:
    A verdict; inconclusive where the interval is unknown.
  """
  if math.isnan(holm.low):
    return INCONCLUSIVE
  _, low, high = holm
  _, lowest, highest = strict or holm
  supported, refuted = {
    "greater": (low > 0, highest < margin),
    "at_least": (low > margin, highest < margin),
    "at_most": (high < margin, lowest > margin),
    "equivalent": (
      -margin < low and high < margin,
      lowest > margin or highest < -margin,
    ),
  }[rule]
  if rule == "greater" and -margin < lowest and highest < margin:
    return EQUIVALENT
  if supported:
    return SUPPORTED
  return REFUTED if refuted else INCONCLUSIVE


def combine(verdicts: Sequence[str]) -> str:
  """The verdict on a claim all of whose parts have to hold.

  Args:
    verdicts: of the parts.

  Returns:
    Supported or equivalent if all parts are; refuted if one is, or if one is
    equivalent, which excludes the predicted effect, and others are not.
  """
  if NOT_TESTED in verdicts:
    return NOT_TESTED
  for verdict in (SUPPORTED, EQUIVALENT):
    if all(v == verdict for v in verdicts):
      return verdict
  if REFUTED in verdicts or EQUIVALENT in verdicts:
    return REFUTED
  return INCONCLUSIVE
