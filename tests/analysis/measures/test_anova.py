"""Repeated-measures analysis of variance against the textbook's sums."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis.measures.variance import holm
from analysis.orbits import measure_arrays
from tests.analysis import reference_measures


def _measured(transformed, reference=None, **options):
  before = transformed[0] if reference is None else reference
  table, units = measure_arrays(
    {"a": before}, {"a": transformed}, ["anova"], per_unit=True, **options
  )
  return table.iloc[0], units["anova"]["a"]


def _noise(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _with_effects(seed, t, n, u):
  """Effects of the images, and of the transformation in ever more units."""
  effect = _noise(seed, t, 1, u) * np.linspace(0, 1, u, dtype=np.float32)
  return 0.5 * _noise(seed + 1, t, n, u) + effect + _noise(seed + 2, 1, n, u)


@pytest.mark.parametrize(("t", "n"), [(2, 2), (3, 6), (5, 40), (70, 5)])
def test_f_and_the_significant_share_are_the_textbooks(t, n):
  values = _with_effects(0, t, n, 24)
  row, f = _measured(values)
  expected, p = reference_measures.anova(values)
  np.testing.assert_allclose(f, expected, rtol=1e-3, atol=1e-5)
  assert row["value"] == np.mean(reference_measures.holm(p, 0.01))
  if n == 40:
    assert 0.1 < row["value"] < 0.95  # both kinds are there


def test_f_by_hand():
  # Means 2 and 4: between = 2 (1 + 1) = 4; four residuals of +-0.5.
  values = np.array([[1, 3], [4, 4]], np.float32)[..., None]
  _, f = _measured(values)
  assert f[0] == pytest.approx(4 / (4 * 0.5**2))


def test_the_variance_between_images_is_taken_out():
  """An independent-groups F would drown the effect in it."""
  effect = np.array([0, 1, 2], np.float32)[:, None, None]
  values = 100 * _noise(1, 1, 30, 4) + effect + 0.1 * _noise(2, 3, 30, 4)
  row, f = _measured(values)
  assert row["value"] == 1
  np.testing.assert_allclose(f, reference_measures.anova(values)[0], rtol=1e-2)


def test_without_effect_f_is_about_1_and_nothing_is_significant():
  row, f = _measured(_noise(3, 5, 60, 200))
  # The mean of F(4, 236) is 236 / 234; its deviation 0.72.
  assert f.mean() == pytest.approx(1.0, abs=4 * 0.72 / np.sqrt(200))
  assert row["value"] <= 1 / 200
  assert row["dead_fraction"] == 0


def test_a_pure_shift_is_significant_in_every_unit():
  before = _noise(4, 20, 6)
  values = np.stack([before, before + 1, before - 1])
  row, f = _measured(values)
  assert row["value"] == 1
  assert (f > 1e6).all()


def test_units_that_do_not_move_are_never_significant_and_counted():
  values = _with_effects(5, 3, 30, 6)
  values[..., 0] = 0.1
  values[..., 3] = values[:1, :, 3]  # invariant
  # Moved by rounding alone, the same for every image.
  values[..., 4] = 1000 + values[:1, :, 4]
  values[1, :, 4] = np.nextafter(values[0, :, 4], np.float32(2000))
  row, f = _measured(values)
  np.testing.assert_array_equal(f[[0, 3, 4]], 0)
  assert row["dead_fraction"] == pytest.approx(3 / 6)
  _, p = reference_measures.anova(values[..., [1, 2, 5]])
  p = np.concatenate([[1, 1, 1], p])
  assert row["value"] == np.mean(reference_measures.holm(p, 0.01))


def test_a_constant_layer_has_no_significant_unit():
  row, _ = _measured(np.full((3, 5, 4), 0.7, np.float32))
  assert row["value"] == 0
  assert row["dead_fraction"] == 1


@pytest.mark.parametrize("offset", [0.0, 300.0, -1e4])
def test_a_large_mean_does_not_cancel(offset):
  values = (_with_effects(6, 4, 30, 8) + np.float32(offset)).astype(np.float32)
  _, f = _measured(values)
  np.testing.assert_allclose(f, reference_measures.anova(values)[0], rtol=1e-2)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_changes_nothing(size):
  values = _with_effects(7, 3, 40, 10)
  row, f = _measured(values, batch_size=size)
  expected, expected_f = _measured(values, batch_size=40)
  assert row["value"] == expected["value"]
  np.testing.assert_allclose(f, expected_f, rtol=1e-4, atol=1e-5)


def test_holm_by_hand():
  # Sorted 0.001 <= 0.01 / 4, 0.003 <= 0.01 / 3, 0.006 > 0.01 / 2: stop.
  p = np.array([0.006, 0.001, 0.9, 0.003])
  assert holm(p, 0.01).tolist() == [False, True, False, True]
  assert holm(np.zeros(3), 0.01).all()
  assert not holm(np.ones(3), 0.01).any()


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(st.floats(0, 0.02), min_size=1, max_size=12))
def test_holm_lies_between_bonferroni_and_no_correction(p):
  rejected = holm(np.array(p), 0.01)
  assert rejected.tolist() == reference_measures.holm(p, 0.01)
  assert (rejected >= (np.array(p) <= 0.01 / len(p))).all()
  assert (rejected <= (np.array(p) <= 0.01)).all()


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.floats(0.1, 10),
  shift=st.floats(-3, 3),
)
def test_order_scale_and_shift_of_units_do_not_matter(seed, scale, shift):
  rng = np.random.default_rng(seed)
  values = _with_effects(seed % 1000, 3, 12, 5)
  moved = values[:, rng.permutation(12)] * -scale + shift
  row, f = _measured(values)
  other, after = _measured(moved.astype(np.float32))
  np.testing.assert_allclose(after, f, rtol=2e-3, atol=1e-4)
  assert other["value"] == row["value"]
