"""Contrasts of networks that are not equally accurate, corrected for it.

A better classifier may look more invariant. Neither correction decides: both
stand beside the effect that does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.claims.base import Select, Term
from analysis.claims.evidence import Evidence, UndefinedError

# Networks whose test accuracies are closer than this, in points, are matched.
MATCHED_POINTS = 0.3


class Corrected(NamedTuple):
  """A corrected contrast.

  Attributes:
    values: one a seed; may be empty.
    se: standard error of the correction, on top of that over seeds.
    note: what to mind when reading it.
  """

  values: pd.Series
  se: float = 0.0
  note: str = ""


def adjusted(evidence: Evidence, terms: Sequence[Term]) -> Corrected:
  """A contrast with the part that goes with accuracy taken away.

  Analysis of covariance: the slope of each selected value on test accuracy,
  common to the networks and within them (over seeds), times the contrast of
  accuracies, is subtracted.

  Args:
    evidence: a study's tables.
    terms: the contrast.

  Returns:
    The contrast; its standard error is that of the slope, times the contrast
    of accuracies.

  Raises:
    NotTestedError: a value is missing.
    UndefinedError: the accuracies do not vary, or there are too few seeds.
  """
  values = [evidence.select(t.select) for t in terms]
  accuracies = [_accuracy(evidence, t.select) for t in terms]
  both = pd.concat([*values, *accuracies], axis=1, join="inner")
  degrees = len(terms) * (len(both) - 1) - 1
  if degrees < 1:
    raise UndefinedError("too few seeds for a slope")
  y = both.iloc[:, : len(terms)].to_numpy()
  x = both.iloc[:, len(terms) :].to_numpy()
  weights = np.array([t.weight for t in terms])
  x_within, y_within = x - x.mean(axis=0), y - y.mean(axis=0)
  spread = float((x_within**2).sum())
  if spread == 0:
    raise UndefinedError("test accuracy does not vary over seeds")
  slope = float((x_within * y_within).sum()) / spread
  rest = float(((y_within - slope * x_within) ** 2).sum())
  apart = abs(float(weights @ x.mean(axis=0)))
  note = ""
  if x.min(axis=0).max() > x.max(axis=0).min():
    note = "the networks' accuracies do not overlap: extrapolated"
  return Corrected(
    pd.Series((y - slope * x) @ weights, index=both.index),
    apart * float(np.sqrt(rest / degrees / spread)),
    note,
  )


def matched(evidence: Evidence, terms: Sequence[Term]) -> Corrected:
  """A contrast over those seeds only whose networks are equally accurate.

  Args:
    evidence: a study's tables.
    terms: the contrast.

  Returns:
    The contrast for the seeds whose test accuracies lie within
    `MATCHED_POINTS`.

  Raises:
    NotTestedError: a value is missing.
  """
  values = evidence.contrast(terms)
  accuracies = pd.concat(
    [_accuracy(evidence, t.select) for t in terms], axis=1, join="inner"
  )
  spread = accuracies.max(axis=1) - accuracies.min(axis=1)
  # Two decimals are not exact in binary.
  close = spread.reindex(values.index) <= MATCHED_POINTS + 1e-9
  return Corrected(values[close])


def _accuracy(evidence: Evidence, select: Select) -> pd.Series:
  """Test accuracy of the selection's network, in points, by seed."""
  return evidence.select(
    Select(select.cell, "test_accuracy", (), stage=select.stage)
  )
