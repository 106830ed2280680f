import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
  BOOTSTRAP_SEEDS,
  detectable,
  holm,
  mean_interval,
  p_above,
  p_equivalent,
  p_sign_flip,
  power,
  power_equivalent,
  seeds_needed,
)

_FEW = [0.21, 0.34, -0.05, 0.4, 0.13]


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _simulated_p(x, margin=0.0):
  """One-sided p of every row, from the definition of t."""
  n = x.shape[-1]
  t = (x.mean(-1) - margin) / (x.std(-1, ddof=1) / np.sqrt(n))
  return stats.t.sf(t, n - 1)


# --- intervals ---------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, BOOTSTRAP_SEEDS - 1])
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 15])
def test_the_interval_of_few_seeds_is_students(n, level):
  x = _normal(n)
  found = mean_interval(x, level)
  expected = stats.t.interval(level, n - 1, loc=x.mean(), scale=stats.sem(x))
  assert found.mean == pytest.approx(x.mean())
  assert (found.low, found.high) == pytest.approx(expected)


def test_from_twenty_seeds_on_the_interval_is_the_bca_bootstraps():
  x = _normal(BOOTSTRAP_SEEDS) ** 2
  found = mean_interval(x, 0.9)
  expected = stats.bootstrap(
    (x,),
    np.mean,
    confidence_level=0.9,
    method="BCa",
    n_resamples=9999,
    rng=np.random.default_rng(0),
  ).confidence_interval
  assert (found.low, found.high) == (expected.low, expected.high)
  assert found.mean == pytest.approx(x.mean())
  # Skewed: not Student's, which is symmetric.
  assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_the_bootstrap_gives_the_same_interval_every_time():
  x = _normal(BOOTSTRAP_SEEDS)
  assert mean_interval(x) == mean_interval(x)


@pytest.mark.parametrize("n", [2, 5, BOOTSTRAP_SEEDS, 30])
def test_equal_values_have_an_interval_without_width(n):
  assert mean_interval([0.25] * n) == (0.25, 0.25, 0.25)


def test_one_value_has_no_interval_and_no_p():
  assert mean_interval([0.3]).mean == 0.3
  assert np.isnan(mean_interval([0.3])[1:]).all()
  assert np.isnan([p_above([0.3]), p_equivalent([0.3], 1.0)]).all()


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_mean_as_often_as_it_says(n, level):
  studies = 2 + _normal(3000, n, seed=n)
  found = np.array([mean_interval(x, level)[1:] for x in studies])
  covered = ((found[:, 0] <= 2) & (found[:, 1] >= 2)).mean()
  # Three standard errors of a share of 3,000.
  tolerance = 3 * np.sqrt(level * (1 - level) / 3000)
  assert covered == pytest.approx(level, abs=tolerance)


# --- p values ----------------------------------------------------------------


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.1, 0.5])
def test_p_above_is_that_of_scipys_t_test(margin):
  found = p_above(_FEW, margin)
  expected = stats.ttest_1samp(_FEW, margin, alternative="greater").pvalue
  assert found == pytest.approx(expected)


def test_p_above_of_two_seeds_is_that_of_the_cauchy_distribution():
  # With one degree of freedom t = (a + b) / |a - b| is Cauchy.
  assert p_above([1.0, 3.0]) == pytest.approx(0.5 - np.arctan(2.0) / np.pi)


@pytest.mark.parametrize(
  ("value", "margin", "p"), [(0.3, 0.1, 0.0), (0.1, 0.3, 1.0), (0.3, 0.3, 1.0)]
)
def test_p_of_equal_values_says_which_side_they_are_on(value, margin, p):
  assert p_above([value] * 4, margin) == p


def test_values_that_are_equal_but_for_rounding_are_equal():
  assert p_above([0.1 + 0.2, 0.3, 0.3]) == pytest.approx(0.0)


@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_p_equivalent_is_the_larger_of_two_one_sided_tests(margin):
  below = stats.ttest_1samp(_FEW, margin, alternative="less").pvalue
  above = stats.ttest_1samp(_FEW, -margin, alternative="greater").pvalue
  for values in (_FEW, [-v for v in _FEW]):
    assert p_equivalent(values, margin) == pytest.approx(max(below, above))


def test_p_equivalent_is_exact_at_the_margin():
  # Far from the other margin, one of the two tests decides: its level is met.
  studies = 1 + 0.05 * _normal(3000, 5, seed=1)
  p = np.array([p_equivalent(x, 1.0) for x in studies])
  assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.012)


def _brute_force(x):
  patterns = itertools.product([1, -1], repeat=len(x))
  sums = [
    sum(s * v for s, v in zip(signs, x, strict=True)) for signs in patterns
  ]
  return sum(s >= sum(x) for s in sums) / len(sums)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
@settings(max_examples=60, derandomize=True)
def test_sign_flips_are_all_counted(x):
  assert p_sign_flip(np.asarray(x, float)) == pytest.approx(_brute_force(x))


@pytest.mark.parametrize("n", [1, 5, 16])
def test_the_smallest_sign_flip_p_is_two_to_the_minus_n(n):
  assert p_sign_flip(1 + np.arange(n) / 10) == 2.0**-n
  assert p_sign_flip(-1 - np.arange(n) / 10) == 1.0


def test_sign_flips_of_many_seeds_are_drawn():
  x = np.append(_normal(16, seed=3) + 0.3, 0.0)
  # A zero does not matter, so that 16 seeds are exact for 17.
  exact = p_sign_flip(x[:16])
  assert 0.02 < exact < 0.5
  # Three standard errors of a share of 9,999.
  tolerance = 3 * np.sqrt(exact * (1 - exact) / 9999)
  assert p_sign_flip(x) == pytest.approx(exact, abs=tolerance)
  assert p_sign_flip(np.ones(40)) == 1e-4


def test_drawn_sign_flips_count_ties_whatever_the_unit():
  tenths = [1, 2, 3, 1, 2, -3, 7, -4, 1, 2, -1, -3, 4, -6, 2, 1, -2]
  exact = p_sign_flip(np.asarray(tenths, float))
  assert p_sign_flip(np.asarray(tenths) / 10) == exact


def test_no_seed_has_no_sign_flip_p():
  assert np.isnan(p_sign_flip([]))


# --- several claims ----------------------------------------------------------


def test_holms_correction_of_four_tests_is_that_done_by_hand():
  # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04 but not less than before.
  found = holm([0.01, 0.04, 0.03, 0.005], 0.05)
  assert [h.p for h in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
  # 0.005 <= 0.05/4 and 0.01 <= 0.05/3, but 0.03 > 0.05/2, where it stops.
  levels = [0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4]
  assert [h.alpha for h in found] == pytest.approx(levels)


def test_holms_p_is_never_above_1_and_ties_get_equal_p():
  assert [h.p for h in holm([0.6, 0.6, 0.9])] == [1.0, 1.0, 1.0]
  assert [h.p for h in holm([0.02, 0.02])] == pytest.approx([0.04, 0.04])


def test_one_hypothesis_needs_no_correction_and_none_gives_none():
  assert holm([0.03], 0.05) == [(0.03, 0.05)]
  assert holm([]) == []


def test_what_is_not_tested_counts_for_nothing():
  nan = float("nan")
  found = holm([nan, 0.01, nan, 0.04], 0.05)
  assert np.isnan([*found[0], *found[2]]).all()
  assert [found[1], found[3]] == holm([0.01, 0.04], 0.05)


_DATA = st.lists(
  st.lists(st.integers(-20, 30), min_size=2, max_size=12),
  min_size=1,
  max_size=8,
)


@given(_DATA)
@settings(max_examples=150, derandomize=True)
def test_the_adjusted_interval_excludes_0_where_the_adjusted_p_rejects(data):
  arrays = [np.asarray(x, float) for x in data]
  two_sided = [min(1, 2 * min(p_above(x), p_above(-x))) for x in arrays]
  for x, corrected in zip(arrays, holm(two_sided, 0.05), strict=True):
    _, low, high = mean_interval(x, 1 - corrected.alpha)
    assert (low > 0 or high < 0) == (corrected.p <= 0.05)


def test_the_property_of_holms_intervals_is_not_empty():
  studies = [x + 0.7 * i for i, x in enumerate(_normal(6, 8))]
  found = holm([2 * p_above(x) for x in studies], 0.05)
  assert {h.p <= 0.05 for h in found} == {True, False}
  # Some are significant alone and not with the others: the correction bites.
  few = holm([0.001, 0.03, 0.04])
  assert [h.p <= 0.05 for h in few] == [True, False, False]


# --- power -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("sd", "effect", "n", "alpha"),
  [(1.0, 1.0, 5, 0.05), (0.04, 0.05, 8, 0.05 / 15), (2.0, 1.0, 30, 0.05)],
)
def test_power_is_that_of_the_noncentral_t_and_of_simulation(
  sd, effect, n, alpha
):
  found = power(sd, effect, n, alpha)
  critical = stats.t.isf(alpha / 2, n - 1)
  expected = 1 - stats.nct.cdf(critical, n - 1, effect / (sd / np.sqrt(n)))
  assert found == pytest.approx(expected, abs=1e-9)
  assert power(sd, -effect, n, alpha) == found
  p = 2 * _simulated_p(effect + sd * _normal(20_000, n, seed=n))
  # Three standard errors of a share of 20,000.
  tolerance = 3 * np.sqrt(found * (1 - found) / 20_000)
  assert (p <= alpha).mean() == pytest.approx(found, abs=tolerance)


@pytest.mark.parametrize(
  ("n", "room", "alpha"),
  [
    (5, 5.0, 0.025),
    (8, 4.0, 0.025),
    (20, 3.5, 0.025),
    (8, 6.0, 0.05 / 30),
    (5, 8.0, 0.05 / 30),
  ],
)
def test_the_power_of_equivalence_is_that_of_simulation(n, room, alpha):
  sd = np.sqrt(n) / room  # the margin of 1 is so many standard errors
  found = power_equivalent(sd, 1.0, n, alpha)
  x = sd * _normal(20_000, n, seed=n)
  p = np.maximum(_simulated_p(x, -1.0), _simulated_p(-x, -1.0))
  simulated = (p <= alpha).mean()
  assert 0.6 < simulated < 0.95
  # Three standard errors of a share of 20,000.
  tolerance = 3 * np.sqrt(found * (1 - found) / 20_000)
  assert found == pytest.approx(simulated, abs=tolerance)


def test_there_is_no_power_without_spread_known_or_room():
  for of in (power, power_equivalent):
    assert np.isnan(of(1.0, 0.1, 1, 0.05))
    assert np.isnan(of(float("nan"), 0.1, 5, 0.05))
    assert of(0.0, 0.1, 5, 0.05) == 1.0
  # The margin lies within the noise: nothing can be shown equivalent.
  assert power_equivalent(1.0, 0.1, 3, 0.05) < 0.01


@pytest.mark.parametrize("sd", [1e-5, 1e-7, 1e-12, 1e-17])
def test_next_to_no_spread_is_next_to_certain(sd):
  for of in (power, power_equivalent):
    assert of(sd, 0.05, 8, 0.05 / 15) == pytest.approx(1.0)
  assert seeds_needed(sd, 0.05, 0.05 / 15) == 2


@pytest.mark.parametrize("equivalent", [False, True])
@pytest.mark.parametrize("sd", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(("alpha", "wanted"), [(0.05, 0.8), (0.05 / 15, 0.9)])
def test_the_seeds_needed_are_the_fewest_with_the_power(
  sd, alpha, wanted, equivalent
):
  n = seeds_needed(sd, 0.05, alpha, wanted=wanted, equivalent=equivalent)
  of = functools.partial(power_equivalent if equivalent else power, sd, 0.05)
  assert n == int(n)
  assert of(int(n), alpha) >= wanted
  assert all(of(k, alpha) < wanted for k in range(2, int(n)))


def test_the_seeds_needed_for_one_standard_deviation_are_those_of_tables():
  # Cohen's tables, d = 1, 0.5 and 0.2, power 0.8, two-sided 0.05.
  found = [seeds_needed(1.0, d, 0.05) for d in (1.0, 0.5, 0.2)]
  assert found == [10, 34, 199]


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (5, 0.05 / 15), (8, 0.05)])
def test_the_detectable_distance_is_found_with_the_power(n, alpha):
  found = detectable(0.03, n, alpha)
  assert power(0.03, found, n, alpha) == pytest.approx(0.8)
  assert detectable(0.06, n, alpha) == pytest.approx(2 * found)
  more = detectable(0.03, n, alpha, wanted=0.95)
  assert power(0.03, more, n, alpha) == pytest.approx(0.95)


def test_what_is_detectable_needs_seeds_and_a_spread():
  assert detectable(0.0, 5, 0.05) == 0.0
  assert np.isnan([detectable(1.0, 1, 0.05), detectable(np.nan, 5, 0.05)]).all()


def test_more_seeds_than_are_searched_are_infinitely_many():
  assert seeds_needed(1.0, 0.2, 0.05, most=100) == float("inf")
  assert np.isnan(seeds_needed(float("nan"), 0.2, 0.05))
