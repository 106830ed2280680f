"""Normalised distance against all pairs, one by one, in float64."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis.measures.distance import normalized_distance
from analysis.orbits import measure_arrays
from tests.analysis import reference_measures
from tests.analysis.measures import stream


def _measured(transformed, measures=("normalized_distance",), **options):
  table, units = measure_arrays(
    {"a": transformed[0]},
    {"a": transformed},
    list(measures),
    per_unit=True,
    **options,
  )
  rows = table.set_index("measure")
  return rows, {name: layers["a"] for name, layers in units.items()}


def _noise(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Above 52 values are sorted by XLA, below by a network of comparators.
@pytest.mark.parametrize(
  ("t", "n"), [(2, 2), (3, 5), (8, 17), (60, 4), (4, 60)]
)
def test_it_is_the_mean_over_all_pairs(t, n):
  values = _noise(0, t, n, 6) * np.arange(1, 7, dtype=np.float32)
  table, units = _measured(values)
  td, sd = reference_measures.normalized_distance(values)
  expected = {
    "transformation_distance": (td.mean(), td),
    "sample_distance": (sd.mean(), sd),
    "normalized_distance": (td.sum() / sd.sum(), td / sd),
    "normalized_distance_reference": ((td / sd).mean(), td / sd),
  }
  assert list(table.index) == list(expected)
  for name, (value, by_unit) in expected.items():
    assert table["value"][name] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(units[name], by_unit, rtol=2e-5)


def test_gaussian_distances_are_2_over_sqrt_pi_deviations():
  # 800 images and 8 elements: the ratio is known to about 1/sqrt(6400).
  values = _noise(1, 8, 800, 5) * np.array([0.1, 1, 2, 5, 30], np.float32)
  _, units = _measured(values, ("normalized_distance", "normalized_variance"))
  # A standard deviation of 8 values is biased low by c4(8) = 0.9650.
  for one, other, bias in (
    ("transformation_distance", "transformation_variance", 0.9650),
    ("sample_distance", "sample_variance", 1.0),
  ):
    ratio = bias * units[one] / units[other]
    np.testing.assert_allclose(ratio, 2 / np.sqrt(np.pi), rtol=0.02)


def test_invariant_units_are_0_and_independent_ones_are_1():
  same = np.repeat(_noise(2, 1, 300, 3), 4, axis=0)
  table, units = _measured(same)
  assert table["value"]["normalized_distance"] == 0
  assert (units["normalized_distance"] == 0).all()
  table, _ = _measured(_noise(3, 4, 300, 3))
  assert table["value"]["normalized_distance"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1.7])
@pytest.mark.parametrize(("t", "n"), [(5, 7), (60, 6), (6, 60)])
def test_a_unit_that_never_varies_is_dead_whatever_its_value(constant, t, n):
  values = _noise(4, t, n, 3)
  values[..., 1] = constant
  table, units = _measured(values)
  assert units["transformation_distance"][1] == 0
  assert units["sample_distance"][1] == 0
  assert units["normalized_distance"][1] == 1  # 0 / 0, as published
  assert (table["dead_fraction"] == 1 / 3).all()
  td, sd = reference_measures.normalized_distance(values[..., [0, 2]])
  assert table["value"]["normalized_distance"] == pytest.approx(
    td.sum() / sd.sum(), rel=1e-5
  )


@pytest.mark.parametrize("constant", [0.1, -1.7])
def test_a_unit_that_transformations_do_not_move_has_distance_0(constant):
  values = np.repeat(_noise(5, 1, 7, 4), 5, axis=0) + np.float32(constant)
  _, units = _measured(values)
  assert (units["transformation_distance"] == 0).all()


def test_a_constant_layer_has_no_value_and_says_why():
  table, _ = _measured(np.full((3, 5, 4), 0.3, np.float32))
  row = table.loc["normalized_distance"]
  assert np.isnan(row["value"])
  assert row["note"] == "no unit varies over the images"
  assert row["dead_fraction"] == 1


@pytest.mark.parametrize("offset", [1e2, -1e4])
def test_a_large_mean_does_not_cancel(offset):
  values = (_noise(6, 6, 40, 4) + np.float32(offset)).astype(np.float32)
  _, units = _measured(values)
  td, sd = reference_measures.normalized_distance(values)
  np.testing.assert_allclose(units["transformation_distance"], td, rtol=1e-5)
  np.testing.assert_allclose(units["sample_distance"], sd, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_measure_arrays_compares_all_pairs_in_any_batch_size(size):
  values = _noise(7, 3, 20, 4)
  all_at_once, _ = _measured(values, batch_size=20)
  table, _ = _measured(values, batch_size=size)
  np.testing.assert_array_equal(table["value"], all_at_once["value"])


@pytest.mark.parametrize("size", [4, 7])
def test_in_blocks_the_pairs_are_those_within_them(size):
  values = _noise(8, 3, 18, 4)
  rows = stream.rows(normalized_distance, values[0], values, size)
  total, pairs = np.zeros(4), 0
  for start in range(0, 18, size):
    block = np.swapaxes(values[:, start : start + size], 0, 1)
    number = len(block) * (len(block) - 1) // 2
    total = total + number * reference_measures.mean_pair_difference(block)
    pairs += number
  td, _ = reference_measures.normalized_distance(values)
  sd = (total / pairs).mean(axis=0)
  np.testing.assert_allclose(
    rows["transformation_distance", None].units, td, rtol=1e-5
  )
  np.testing.assert_allclose(rows["sample_distance", None].units, sd, rtol=1e-5)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.floats(0.01, 100),
  shift=st.floats(-10, 10),
)
def test_order_scale_and_shift_of_units_do_not_matter(seed, scale, shift):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=(3, 9, 5)).astype(np.float32)
  _, before = _measured(values)
  order = rng.permutation(9)
  factor = scale * rng.choice([-1, 1], size=5)
  _, after = _measured((values[:, order] * factor + shift).astype(np.float32))
  # What the shift rounds away of small values is not the measure's.
  tolerance = 1e-4 + 1e-6 * abs(shift) / scale
  np.testing.assert_allclose(
    after["normalized_distance"], before["normalized_distance"], rtol=tolerance
  )
  np.testing.assert_allclose(
    after["transformation_distance"],
    np.abs(factor) * before["transformation_distance"],
    rtol=tolerance,
  )
