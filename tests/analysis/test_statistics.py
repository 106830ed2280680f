import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import KEYS, dose, summarize, t_interval


def test_the_interval_is_students():
  values = [0.2, 0.5, 0.4, 0.9]
  result = t_interval(values)
  expected = stats.t.interval(
    0.95, 3, loc=np.mean(values), scale=stats.sem(values)
  )
  assert result.mean == pytest.approx(0.5)
  assert (result.low, result.high) == pytest.approx(expected)


def test_one_value_has_no_interval():
  result = t_interval([0.3])
  assert result.mean == 0.3
  assert np.isnan([result.low, result.high]).all()


def test_the_interval_covers_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(0)
  intervals = [t_interval(list(rng.normal(size=5))) for _ in range(2000)]
  covered = np.mean([i.low <= 0 <= i.high for i in intervals])
  assert covered == pytest.approx(0.95, abs=0.02)


def _table(rows):
  base = dict.fromkeys(KEYS, "x") | {
    "transform": "rotation",
    "orbit": "rotation",
    "unit": "degrees",
    "layer_index": 0,
    "depth": 1,
    "width": 4,
    "measure": "invariance_error",
    "floor": np.nan,
    "displacement_px": 1.0,
    "lost_intensity": 0.0,
    "dead_fraction": 0.0,
    "total_variance": 2.0,
    "n_images": 16,
    "note": "",
  }
  base.pop("dose")
  return pd.DataFrame([base | row for row in rows])


def _rotations(seed, left, right, note=""):
  return [
    {"seed": seed, "theta": t, "magnitude": 15.0, "value": v, "note": note}
    for t, v in (("15", left), ("-15", right))
  ]


def test_directions_are_averaged_within_a_seed_and_seeds_are_the_replicates():
  table = _table([*_rotations(0, 0.1, 0.3), *_rotations(1, 0.4, 0.4)])
  row = summarize(table).to_dict("records")[0]
  assert len(summarize(table)) == 1
  assert row["n_seeds"] == 2
  assert row["mean"] == pytest.approx(0.3)
  expected = t_interval([0.2, 0.4])
  assert (row["low"], row["high"]) == pytest.approx(expected[1:])


def test_a_seed_with_an_undefined_direction_has_no_value():
  table = _table([*_rotations(0, 0.1, np.nan, "why"), *_rotations(1, 0.4, 0.4)])
  row = summarize(table).to_dict("records")[0]
  assert row["n_seeds"] == 1
  assert row["mean"] == pytest.approx(0.4)
  assert np.isnan(row["low"])
  assert row["note"] == "why"


def test_magnifying_and_shrinking_are_different_doses():
  rows = [
    {"seed": 0, "theta": t, "magnitude": 0.5, "value": v, "transform": family}
    for family, t, v in (
      ("scaling", "0.5", 1),
      ("scaling", "-0.5", 2),
      ("rotation", "0.5", 3),
      ("rotation", "-0.5", 4),
      ("scaling", "all", 5),
    )
  ]
  assert dose(_table(rows)).tolist() == [0.5, -0.5, 0.5, 0.5, 0.5]
