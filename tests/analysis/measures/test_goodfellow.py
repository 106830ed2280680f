"""Goodfellow's firing rates against counting."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis import references
from analysis.orbits import measure_arrays, orbit
from tests.analysis import reference_measures


def _measured(reference, transformed, **options):
  table, units = measure_arrays(
    {"a": reference},
    {"a": transformed},
    ["goodfellow"],
    per_unit=True,
    **options,
  )
  return table.iloc[0], units["goodfellow"]["a"]


def _noise(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _partly_invariant(seed, t, n, u):
  """Units from exactly invariant to independent."""
  before, noise = _noise(seed, n, u), _noise(seed + 1, t, n, u)
  part = np.linspace(0, 1, u, dtype=np.float32)
  return before, (1 - part) * before + part * noise


@pytest.mark.parametrize("n", [2, 9, 150, 260])
def test_it_is_what_counting_gives(n):
  before, after = _partly_invariant(0, 5, n, 12)
  row, units = _measured(before, after)
  scores, value = reference_measures.goodfellow(before, after)
  np.testing.assert_allclose(units, scores, rtol=1e-6)
  assert row["value"] == pytest.approx(value, rel=1e-6)
  assert row["dead_fraction"] == 0


def test_the_image_of_a_threshold_does_not_fire_by_rounding():
  # Of f and of -f, in falling order, of units above, at and below 0.
  values = [[[4, 1, -1], [2, 0, -2]], [[-1, 0, 3], [-3, -5, 2]]]
  largest = np.array(values, np.float32)
  found = references.thresholds(largest)
  rounded = largest[:, -1] + 1e-6 * np.abs(largest[:, -1])
  assert (rounded <= found).all()
  assert (found < largest[:, 0]).all()
  assert found[0, 1] == 0


@pytest.mark.parametrize("n", [100, 200, 300])
def test_an_exactly_invariant_layer_scores_100(n):
  before = _noise(2, n, 10)
  row, units = _measured(before, np.stack([before] * 3))
  assert row["value"] == pytest.approx(100, rel=1e-6)
  np.testing.assert_allclose(units, 100, rtol=1e-6)


def test_an_independent_unit_scores_1():
  _, units = _measured(_noise(3, 2000, 16), _noise(4, 40, 2000, 16))
  # A score has 20 firing images behind its threshold and 8 firing copies of
  # theirs: 1 +- 0.42. The better of two signs is 0.42 / sqrt(pi) above 1.
  assert units.mean() == pytest.approx(1.24, abs=0.3)


def test_the_better_sign_counts():
  before = _noise(5, 200, 2)
  after = np.stack([np.minimum(before, 0.5)] * 2)  # never fires upwards
  row, units = _measured(before, after)
  np.testing.assert_allclose(units, 100, rtol=1e-6)
  assert row["value"] == pytest.approx(100, rel=1e-6)


def test_identities_are_left_out():
  before, after = _partly_invariant(6, 3, 150, 6)
  with_identity = np.concatenate([before[None], after])
  o = orbit("translation", [(0, 0), (1, 0), (2, 0), (3, 0)])
  _, units = _measured(before, with_identity, transformations=o)
  _, expected = _measured(before, after)
  np.testing.assert_array_equal(units, expected)
  _, unknown = _measured(before, with_identity)  # an orbit like any other
  assert (unknown > units).any()


def test_an_orbit_of_the_identity_has_no_score_and_says_why():
  before = _noise(7, 50, 3)
  row = measure_arrays(
    {"a": before},
    {"a": before[None]},
    ["goodfellow"],
    transformations=orbit("translation", [(0, 0)]),
  ).iloc[0]
  assert np.isnan(row["value"])
  assert row["note"] == "the orbit is the identity"


def test_units_that_tie_at_both_ends_are_silent_and_left_out():
  before, after = _partly_invariant(8, 4, 120, 5)
  before[:, 2], after[..., 2] = 0.3, 0.3  # constant
  before[:, 4] = np.arange(120) % 2  # ties at the top and at the bottom
  row, units = _measured(before, after)
  scores, value = reference_measures.goodfellow(before, after)
  np.testing.assert_array_equal(np.isnan(units), [0, 0, 1, 0, 1])
  np.testing.assert_allclose(units, scores, rtol=1e-6)
  assert row["dead_fraction"] == pytest.approx(2 / 5)
  assert row["value"] == pytest.approx(value, rel=1e-6)


def test_a_unit_that_ties_at_one_end_fires_at_the_other():
  before = np.maximum(_noise(9, 300, 4), 0)  # 0 half of the time
  row, units = _measured(before, before[None])
  np.testing.assert_allclose(units, 100, rtol=1e-6)
  assert row["dead_fraction"] == 0


def test_a_constant_layer_has_no_score_and_says_why():
  row, units = _measured(np.ones((8, 3)), np.ones((2, 8, 3)))
  assert np.isnan(row["value"])
  assert row["note"] == "no unit fires on some images only"
  assert np.isnan(units).all()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_changes_nothing(size):
  before, after = _partly_invariant(10, 3, 130, 6)
  row, units = _measured(before, after, batch_size=size)
  expected, expected_units = _measured(before, after, batch_size=130)
  assert row["value"] == expected["value"]
  np.testing.assert_array_equal(units, expected_units)


@hypothesis.settings(max_examples=15)
@hypothesis.given(seed=st.integers(0, 2**32 - 1), power=st.integers(-8, 8))
def test_order_scale_and_sign_of_units_do_not_matter(seed, power):
  rng = np.random.default_rng(seed)
  before, after = _partly_invariant(seed % 1000, 3, 110, 5)
  order = rng.permutation(110)
  # A power of two rounds nothing, so that no image changes sides.
  factor = (2.0**power * rng.choice([-1, 1], size=5)).astype(np.float32)
  _, expected = _measured(before, after)
  _, units = _measured(before[order] * factor, after[:, order] * factor)
  np.testing.assert_array_equal(units, expected)
