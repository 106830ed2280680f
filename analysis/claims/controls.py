"""What must come out exactly, read off the study's own measurements.

A study whose controls fail has a bug, whatever its claims say.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.claims.base import At, Select
from analysis.claims.evidence import Evidence, NotTestedError, UndefinedError

_ROUNDING = 1e-4
_CONVS = ("conv1", "conv2", "conv3")
_SHIFTS = (1.0, 2.0, 4.0, 6.0)

COLUMNS = ("control", "expected", "obtained", "holds")


class Control(NamedTuple):
  """A value with a known answer.

  Attributes:
    name: what is controlled.
    selects: the values; the largest of all seeds and stages counts.
    bound: it must be at most that, or more than that where it is to fail.
    fails: whether the network must fail it.
  """

  name: str
  selects: tuple[Select, ...]
  bound: float = _ROUNDING
  fails: bool = False


def _shifted(cell: str, dose: float, **more: object) -> Select:
  return Select(cell, at=(At("translation", dose),), **more)  # pyrefly: ignore


CONTROLS = (
  Control(
    "convolutions without pooling: equivariance error at whole-pixel shifts",
    tuple(
      _shifted("unpooled", dose, measure="equivariance_error", layers=(layer,))
      for dose in _SHIFTS[:3]
      for layer in _CONVS
    ),
  ),
  Control(
    "adaptive polyphase, circular: invariance error of the logits",
    tuple(_shifted("circular polyphase", dose) for dose in _SHIFTS),
  ),
  Control(
    "no downsampling, circular: invariance error of the logits",
    tuple(_shifted("wrapped", dose) for dose in _SHIFTS),
  ),
  Control(
    "three strides of 2, circular: invariance error of the logits at 8 px",
    (_shifted("circular strided", 8.0),),
  ),
  Control(
    "the same at 1 px, where it must fail",
    (_shifted("circular strided", 1.0),),
    bound=0.01,
    fails=True,
  ),
)


def check(evidence: Evidence, measurements: pd.DataFrame) -> pd.DataFrame:
  """The controls that the study has networks for, and their values.

  Args:
    evidence: the study's tables.
    measurements: of all its runs.

  Returns:
    One row a control: expected, as text; obtained, the largest over seeds,
    before and after training (the smallest where it must fail); holds.
  """
  rows = _identity(measurements)
  for control in CONTROLS:
    values = []
    for select in control.selects:
      for stage in ("init", "trained"):
        try:
          values += list(evidence.select(select._replace(stage=stage)))
        except (NotTestedError, UndefinedError):
          continue
    if values:
      rows.append(_row(control, np.asarray(values)))
  return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(control: Control, values: np.ndarray) -> tuple[str, str, float, bool]:
  if control.fails:
    least = float(values.min())
    expected, holds = f"above {control.bound:g}", least > control.bound
    return control.name, expected, least, holds
  most = float(values.max())
  return control.name, f"at most {control.bound:g}", most, most <= control.bound


def _identity(table: pd.DataFrame) -> list[tuple[str, str, float, bool]]:
  """Nothing may change where nothing is done."""
  still = table[(table["magnitude"] == 0) & (table["theta"] != "all")]
  rows = []
  errors = still["value"][still["measure"] == "invariance_error"].dropna()
  if len(errors):
    most = float(errors.max())
    name = "the identity: invariance error, all networks and layers"
    rows.append((name, f"at most {_ROUNDING:g}", most, most <= _ROUNDING))
  kept = still["value"][still["measure"] == "consistency"].dropna()
  if len(kept):
    least = float(kept.min())
    name = "the identity: consistency, all networks"
    rows.append((name, "1", least, least == 1.0))
  return rows
