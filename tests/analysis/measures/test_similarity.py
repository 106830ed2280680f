"""Cosine and debiased CKA against their formulas in float64."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from analysis.measures.similarity import cka, cosine
from analysis.orbits import measure_arrays
from tests.analysis import reference_measures
from tests.analysis.measures import stream


def _measured(before, after, name, **options):
  return measure_arrays({"a": before}, {"a": after}, [name], **options)


def _noise(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _related(seed, n, u):
  """Itself, itself with ever more noise, noise, and its opposite."""
  before = _noise(seed, n, u) * np.linspace(1, 2, u, dtype=np.float32)
  noise = _noise(seed + 1, 3, n, u)
  after = [before, before + 0.3 * noise[0], before + 2 * noise[1], noise[2]]
  return before, np.stack([*after, -before])


# --- cosine ------------------------------------------------------------------


@pytest.mark.parametrize(("n", "u"), [(2, 3), (11, 1), (20, 130)])
@pytest.mark.parametrize("offset", [0, 50])
def test_cosine_is_the_mean_over_images(n, u, offset):
  before, after = (a + np.float32(offset) for a in _related(0, n, u))
  table = _measured(before, after, "cosine")
  expected = reference_measures.cosine(
    before.astype(np.float64), after.astype(np.float64)
  )
  np.testing.assert_allclose(table["value"], expected, atol=1e-4)
  assert table["value"][0] == pytest.approx(1, abs=1e-6)


def test_cosine_of_opposites_is_minus_1_and_of_noise_0():
  before = _noise(1, 200, 50)
  after = np.stack([2 * before.mean(0) - before, _noise(2, 200, 50)])
  value = _measured(before, after, "cosine")["value"]
  assert value[0] == pytest.approx(-1, abs=1e-6)
  assert value[1] == pytest.approx(0, abs=0.05)


def test_cosine_is_blind_to_a_shrinking_deviation():
  before = _noise(3, 40, 6)
  mean = before.mean(axis=0, keepdims=True)
  value = _measured(before, (mean + 0.1 * (before - mean))[None], "cosine")
  assert value["value"][0] == pytest.approx(1, abs=1e-5)


def test_images_that_are_the_mean_have_no_cosine():
  # Whole numbers, so that the mean, (0, 0), is exact.
  before = np.array([[1, 0], [-1, 0], [0, 0], [0, 2], [0, -2]], np.float32)
  after = before[None].copy()
  after[0, 0] = 0, 1  # at a right angle; the third has no direction
  after[0, 4] = 0, 0  # nor has this one now
  value = _measured(before, after, "cosine")["value"]
  assert value[0] == pytest.approx((0 + 1 + 1) / 3)


def test_cosine_of_a_constant_layer_is_nan_and_says_why():
  row = _measured(np.ones((4, 3)), np.ones((1, 4, 3)), "cosine").iloc[0]
  assert np.isnan(row["value"])
  assert row["note"] == "no image differs from the mean"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_does_not_change_the_cosine(size):
  before, after = _related(4, 30, 9)
  table = _measured(before, after, "cosine", batch_size=size)
  whole = _measured(before, after, "cosine", batch_size=30)
  np.testing.assert_allclose(table["value"], whole["value"], atol=1e-6)
  rows = stream.rows(cosine, before, after, size)
  padded = [rows["cosine", i].value for i in range(len(after))]
  np.testing.assert_allclose(padded, whole["value"], atol=1e-6)


# --- CKA ---------------------------------------------------------------------


@pytest.mark.parametrize(("n", "u"), [(4, 3), (9, 1), (25, 60)])
@pytest.mark.parametrize("offset", [0, 30])
def test_cka_is_song_et_als_estimator(n, u, offset):
  before, after = (a + np.float32(offset) for a in _related(5, n, u))
  table = _measured(before, after, "cka")
  expected = reference_measures.cka(
    before.astype(np.float64), after.astype(np.float64)
  )
  np.testing.assert_allclose(table["value"], expected, rtol=1e-3, atol=1e-3)
  assert table["value"][0] == pytest.approx(1, abs=1e-5)


def test_cka_does_not_lose_digits_where_the_mean_moves_far():
  before, after = _related(6, 20, 8)
  after = after + np.array([0, 10, -100, 300, 1000], "f4").reshape(5, 1, 1)
  table = _measured(before, after, "cka")
  expected = reference_measures.cka(
    before.astype(np.float64), after.astype(np.float64)
  )
  np.testing.assert_allclose(table["value"], expected, atol=1e-3)


def test_cka_ignores_orthogonal_maps_scale_and_shift():
  before = _noise(7, 30, 12)
  turn = stats.ortho_group.rvs(12, random_state=0).astype(np.float32)
  after = np.stack([before @ turn, np.roll(before, 3, axis=1), 3 * before + 2])
  np.testing.assert_allclose(
    _measured(before, after, "cka")["value"], 1, atol=1e-4
  )


def test_cka_of_unrelated_activations_is_about_0_though_units_are_many():
  """The biased estimator would be near 1 with more units than images."""
  value = _measured(_noise(8, 40, 400), _noise(9, 3, 40, 400), "cka")["value"]
  assert value.abs().max() < 0.15


@pytest.mark.parametrize("n", [2, 3])
def test_cka_needs_four_images(n):
  row = _measured(_noise(10, n, 5), _noise(11, 1, n, 5), "cka").iloc[0]
  assert np.isnan(row["value"])
  assert "fewer than 4 images" in row["note"]


def test_cka_of_constant_activations_is_nan_and_says_why():
  before = _noise(12, 8, 3)
  after = np.stack([before, np.full_like(before, 0.3)])
  table = _measured(before, after, "cka")
  assert table["value"][0] == pytest.approx(1, abs=1e-5)
  assert np.isnan(table["value"][1])
  assert "no variation" in table["note"][1]
  constant = np.full((8, 3), 0.3, np.float32)
  assert _measured(constant, constant[None], "cka")["value"].isna().all()


def test_dead_units_do_not_matter_to_cka():
  before, after = _related(13, 15, 6)
  dead = [
    np.concatenate([a, np.full_like(a[..., :2], 0.7)], -1)
    for a in (before, after)
  ]
  np.testing.assert_allclose(
    _measured(dead[0], dead[1], "cka")["value"],
    _measured(before, after, "cka")["value"],
    atol=1e-5,
  )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_measure_arrays_compares_all_images_in_any_batch_size(size):
  before, after = _related(14, 20, 5)
  np.testing.assert_array_equal(
    _measured(before, after, "cka", batch_size=size)["value"],
    _measured(before, after, "cka", batch_size=20)["value"],
  )


def test_in_blocks_hsic_is_averaged_and_padding_has_no_say():
  before, after = _related(15, 21, 6)
  rows = stream.rows(cka, before, after, 7)
  expected = reference_measures.cka(
    before.astype(np.float64), after.astype(np.float64), blocks=3
  )
  values = [rows["cka", i].value for i in range(len(after))]
  np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
  padded = stream.rows(cka, before, after, 32)
  whole = _measured(before, after, "cka")["value"]
  values = [padded["cka", i].value for i in range(len(after))]
  np.testing.assert_allclose(values, whole, rtol=1e-4, atol=1e-5)


# --- both --------------------------------------------------------------------


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  power=st.integers(-15, 15),
  shift=st.floats(-2, 2),
)
def test_order_scale_and_shift_do_not_matter(seed, power, shift):
  rng = np.random.default_rng(seed)
  before, after = _related(seed % 1000, 10, 4)
  order = rng.permutation(10)
  # CKA has fourth powers in float32.
  for name, least in (("cosine", 15), ("cka", 7)):
    factor = np.float32(10.0 ** np.clip(power, -least, least))
    move = np.float32(shift) * factor
    np.testing.assert_allclose(
      _measured(
        before[order] * factor + move, after[:, order] * factor + move, name
      )["value"],
      _measured(before, after, name)["value"],
      rtol=1e-3,
      atol=1e-4,
    )
