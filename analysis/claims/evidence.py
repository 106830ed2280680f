"""Reading a contrast off a study's tables: one number a seed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.claims.base import At, Select, Term


class NotTestedError(LookupError):
  """The study has no such network or no such measurement."""


class UndefinedError(ValueError):
  """The measurement is there, but has no value; the message says why."""


class Evidence:
  """A study's tables, ready to be asked."""

  def __init__(
    self,
    measurements: pd.DataFrame,
    networks: pd.DataFrame,
    exact: pd.DataFrame,
    runs: Mapping[str, str],
    failed: Mapping[str, Sequence[int]] | None = None,
  ) -> None:
    """Takes the tables.

    Args:
      measurements: of all runs.
      networks: one row a cell, seed and stage.
      exact: the checks without statistics.
      runs: the run of each cell.
      failed: by cell, the seeds that could not be trained and that the tables
        do not have.
    """
    self.failed = dict(failed or {})
    self.exact = exact
    self.networks = networks
    self.runs = dict(runs)
    table = measurements.assign(dose=statistics.dose(measurements))
    # Not the grid of the sensitivity map, which has translations too.
    table = table[table["orbit"] == table["transform"]]
    keys = ["run", "stage", "measure", "layer", "transform"]
    self._groups = dict(tuple(table.groupby(keys, sort=False)))

  def contrast(self, terms: Sequence[Term]) -> pd.Series:
    """The weighted sum of selections, one number a seed that has them all.

    Raises:
      NotTestedError: a network or measurement is missing.
      UndefinedError: a value is undefined.
    """
    values = [term.weight * self.select(term.select) for term in terms]
    return pd.concat(values, axis=1, join="inner").sum(axis=1).sort_index()

  def left_out(self, terms: Sequence[Term]) -> str:
    """Says which seeds a contrast lacks because they could not be trained."""
    cells = dict.fromkeys(term.select.cell for term in terms)
    return "; ".join(
      f"training of {cell!r} failed for seed"
      f"{'s' if len(self.failed[cell]) > 1 else ''}"
      f" {', '.join(map(str, self.failed[cell]))}"
      for cell in cells
      if self.failed.get(cell)
    )

  def floor(self, terms: Sequence[Term]) -> float:
    """What resampling alone makes of a contrast: the same, of the floors.

    Where the floor is taken away already it is the one that was.

    Returns:
      The mean over seeds; NaN where nothing has a floor.

    Raises:
      NotTestedError: a network or measurement is missing.
    """
    selects = [term.select._replace(above_floor=False) for term in terms]
    if any(select.measure in self.networks for select in selects):
      return float("nan")
    try:
      floors = [
        term.weight * self._mean(select, "floor").mean()
        for term, select in zip(terms, selects, strict=True)
      ]
    except UndefinedError:
      return float("nan")
    return float(sum(floors))

  def select(self, select: Select) -> pd.Series:
    """One number a seed: the mean over the selection's layers and places.

    Raises:
      NotTestedError: the network or measurement is missing.
      UndefinedError: a value is undefined.
    """
    if select.cell not in self.runs:
      raise NotTestedError(f"no network {select.cell!r}")
    if select.measure in self.networks:
      return self._of_network(select)
    return self._mean(select)

  def _mean(self, select: Select, column: str = "value") -> pd.Series:
    """The mean over the selection's layers and places of a column."""
    values = [
      self._value(select, layer, at, column)
      for layer in select.layers
      for at in select.at
    ]
    return pd.concat(values, axis=1, join="inner").mean(axis=1)

  def _of_network(self, select: Select) -> pd.Series:
    rows = self.networks
    rows = rows[(rows["cell"] == select.cell) & (rows["stage"] == select.stage)]
    values = rows.set_index("seed")[select.measure]
    if values.empty or values.isna().any():
      raise NotTestedError(f"no {select.measure} of {select.cell!r}")
    return values

  def _value(
    self, select: Select, layer: str, at: At, column: str
  ) -> pd.Series:
    what = f"{select.measure} of {layer} under {at.transform}"
    run = self.runs[select.cell]
    key = (run, select.stage, select.measure, layer, at.transform)
    if key not in self._groups:
      raise NotTestedError(f"no {what} of {select.cell!r}")
    rows = self._groups[key]
    if select.above_floor:
      rows = rows.assign(value=rows["value"] - rows["floor"])
    if column != "value":
      rows = rows.assign(value=rows[column])
    if at.displacement is not None:
      values = _at_displacement(rows, at.displacement)
    elif at.dose is None:
      values = rows[rows["theta"] == "all"].set_index("seed")["value"]
    else:
      single = rows[
        np.isclose(rows["dose"], at.dose, atol=1e-3) & (rows["theta"] != "all")
      ]
      # A mean over some of the directions only would be of something else.
      values = single.groupby("seed")["value"].agg(
        lambda v: v.mean(skipna=False)
      )
    if values.empty:
      raise NotTestedError(f"no {what} at {_words(at)} of {select.cell!r}")
    if not np.isfinite(values).all():
      notes = [n for n in rows["note"][~np.isfinite(rows["value"])] if n]
      reason = notes[0] if notes else "the grid ends before"
      raise UndefinedError(f"{what} at {_words(at)} is undefined: {reason}")
    return values


def _words(at: At) -> str:
  if at.displacement is not None:
    return f"{at.displacement:g} px of displacement"
  return "the whole orbit" if at.dose is None else f"{at.dose:.3g}"


def at_displacement(rows: pd.DataFrame) -> pd.DataFrame:
  """Values against displacement, one line a seed.

  Args:
    rows: measurements of one network, layer, measure and family, with doses.

  Returns:
    Columns seed, displacement_px, value: the mean over the directions of each
    positive dose, in order of displacement.
  """
  rows = rows[(rows["dose"] > 0) & (rows["theta"] != "all")]
  means = rows.groupby(["seed", "dose"])[["displacement_px", "value"]]
  means = means.agg(lambda v: v.mean(skipna=False))
  return means.reset_index().sort_values(["seed", "displacement_px"])


def _at_displacement(rows: pd.DataFrame, wanted: float) -> pd.Series:
  """Linear between doses, from 0 at 0; NaN beyond the largest."""
  result = {}
  for seed, line in at_displacement(rows).groupby("seed"):
    x = [0.0, *line["displacement_px"]]
    y = [0.0, *line["value"]]
    result[seed] = np.interp(wanted, x, y, right=np.nan)
  return pd.Series(result, dtype=np.float64)
