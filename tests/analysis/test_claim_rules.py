"""Verdicts from intervals, and how often they err, by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  RULES,
  SUPPORTED,
  VERDICTS,
  Claim,
  Part,
  Select,
  value,
)
from analysis.claims.evidence import Evidence
from analysis.claims.rules import combine, p_value, read
from analysis.claims.verdicts import judge
from analysis.statistics import Interval

_S, _R, _E, _I = SUPPORTED, REFUTED, EQUIVALENT, INCONCLUSIVE

# The size of a simulation: as many claims as a study has, and a study's seeds.
_STUDIES, _CLAIMS, _SEEDS, _MARGIN = 2000, 15, 5, 0.05

# All errors of all claims together; a verdict errs on one side of its interval
# only, so that half of it is to be seen.
_ALPHA = 0.05


def _tolerance(rate, count=_STUDIES):
  """Three standard errors of a simulated share."""
  return 3 * np.sqrt(rate * (1 - rate) / count)


# --- one interval ------------------------------------------------------------


@pytest.mark.parametrize(
  ("rule", "low", "high", "verdict"),
  [
    # The margin is 1; below, inside, above, and across each bound.
    *(("greater", *case) for case in [(0.1, 3, _S), (1.1, 3, _S)]),
    *(("greater", *case) for case in [(0.1, 0.9, _E), (-0.9, 0.9, _E)]),
    *(("greater", *case) for case in [(-0.9, -0.1, _E), (-3, 0.9, _R)]),
    *(("greater", *case) for case in [(-3, -2, _R), (-3, -0.1, _R)]),
    *(("greater", *case) for case in [(-0.1, 1.1, _I), (-3, 3, _I)]),
    *(("at_least", *case) for case in [(1.1, 3, _S), (0.9, 3, _I)]),
    *(("at_least", *case) for case in [(0.1, 0.9, _R), (-3, -2, _R)]),
    *(("at_most", *case) for case in [(0.1, 0.9, _S), (-3, -2, _S)]),
    *(("at_most", *case) for case in [(0.9, 1.1, _I), (1.1, 3, _R)]),
    *(("equivalent", *case) for case in [(-0.9, 0.9, _S), (0.1, 0.2, _S)]),
    *(("equivalent", *case) for case in [(-1.1, 0.9, _I), (-0.9, 1.1, _I)]),
    *(("equivalent", *case) for case in [(-3, 3, _I), (0.9, 1.1, _I)]),
    *(("equivalent", *case) for case in [(1.1, 3, _R), (-3, -1.1, _R)]),
    # A bound that is met is not passed.
    *(("greater", *case) for case in [(0, 3, _I), (-3, 1, _I), (0, 1, _I)]),
    *(("greater", *case) for case in [(-1, 0.9, _R), (0.1, 1, _S)]),
    *(("at_least", *case) for case in [(1, 3, _I), (0.1, 1, _I)]),
    *(("at_most", *case) for case in [(0.1, 1, _I), (1, 3, _I)]),
    *(("equivalent", *case) for case in [(-1, 0.9, _I), (-0.9, 1, _I)]),
    *(("equivalent", *case) for case in [(1, 3, _I), (-3, -1, _I)]),
  ],
)
def test_the_verdict_is_read_off_both_ends_of_the_interval(
  rule, low, high, verdict
):
  interval = Interval((low + high) / 2, float(low), float(high))
  assert read(rule, 1.0, interval) == verdict


@pytest.mark.parametrize("rule", RULES)
def test_refutation_is_read_off_the_wider_interval(rule):
  # Both lie above 0; only the narrow one lies on one side of the margin.
  narrow, wide = Interval(0.5, 0.1, 0.9), Interval(0.5, -0.1, 1.1)
  supported = rule in ("greater", "at_most", "equivalent")
  assert read(rule, 1.0, narrow, wide) == (_S if supported else _I)
  beyond = Interval(1.5, 1.1, 1.9), Interval(1.5, 0.9, 2.1)
  supported = rule in ("greater", "at_least")
  assert read(rule, 1.0, *beyond) == (_S if supported else _I)


@pytest.mark.parametrize("rule", RULES)
def test_no_interval_no_verdict(rule):
  nan = float("nan")
  assert read(rule, 1.0, Interval(3.0, nan, nan)) == INCONCLUSIVE


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", [0.05, 0.05 / 15])
def test_p_is_at_most_the_level_where_the_interval_supports(rule, level):
  found = set()
  noise = 0.3 * _noise(300, 1, 6, seed=4)[:, 0, 0]
  for x in noise + np.linspace(-3, 3, 300)[:, None]:
    interval = statistics.mean_interval(x, 1 - level)
    passes = p_value(Part("", (), rule, 1.0), x) <= level
    excludes = read(rule, 1.0, interval) == SUPPORTED
    if rule == "greater":  # equivalence does not hide that 0 is excluded
      excludes = interval.low > 0
    assert passes == excludes
    found.add(passes)
  assert found == {True, False}


# --- several parts -----------------------------------------------------------


@pytest.mark.parametrize(
  ("verdicts", "verdict"),
  [
    *(([v], v) for v in VERDICTS),
    *(([v, v, v], v) for v in VERDICTS),
    ([_S, _I], _I),
    ([_S, _R], _R),
    ([_S, _E], _R),
    ([_I, _R], _R),
    ([_I, _E], _R),
    ([_R, _E], _R),
    ([_S, _I, _E], _R),
    *(([v, NOT_TESTED], NOT_TESTED) for v in VERDICTS),
  ],
)
def test_all_parts_have_to_hold(verdicts, verdict):
  for order in itertools.permutations(verdicts):
    assert combine(order) == verdict


# --- simulation --------------------------------------------------------------


def _noise(studies, claims, seeds, *, parts=1, common=0.0, seed=0):
  """Unit noise; its common share is the same for all claims of a seed."""
  rng = np.random.default_rng(seed)
  shared = rng.normal(size=(studies, 1, 1, seeds))
  own = rng.normal(size=(studies, claims, parts, seeds))
  return np.sqrt(common) * shared + np.sqrt(1 - common) * own


class _Read:
  """What `judge` does below 20 seeds, for many studies at once.

  Attributes:
    parts: verdicts, (studies, claims, parts).
    claims: verdicts, (studies, claims).
    low: lower ends of the intervals, as parts.
  """

  def __init__(self, x, rules, margin, *, correct=True):
    n, m = x.shape[-1], x.shape[1]
    mean, se = x.mean(-1), x.std(-1, ddof=1) / np.sqrt(n)
    rule = np.broadcast_to(np.asarray(rules)[..., None], x.shape[1:3])
    above = stats.t.sf((mean - margin) / se, n - 1)
    p = np.select(
      [rule == "greater", rule == "at_least", rule == "at_most"],
      [stats.t.sf(mean / se, n - 1), above, 1 - above],
      np.maximum(stats.t.sf((mean + margin) / se, n - 1), 1 - above),
    )
    p = np.minimum(2 * p, 1).max(-1)
    alpha = _levels(p) if correct else np.full(p.shape, _ALPHA)
    half = stats.t.ppf(1 - alpha / 2, n - 1)[..., None] * se
    low, high = mean - half, mean + half
    # All that may refute are corrected for, whatever is supported.
    strict = _ALPHA / (m * x.shape[2]) if correct else _ALPHA
    most = stats.t.ppf(1 - strict / 2, n - 1) * se
    lowest, highest = mean - most, mean + most
    inside = (low > -margin) & (high < margin)
    nothing = (lowest > -margin) & (highest < margin)
    known = [rule == r for r in RULES]
    no = np.zeros_like(nothing)
    options = {
      _E: [nothing, no, no, no],
      _S: [low > 0, low > margin, high < margin, inside],
      _R: [
        *(highest < margin, highest < margin, lowest > margin),
        (lowest > margin) | (highest < -margin),
      ],
    }
    self.low = low
    self.parts = np.select(
      [np.select(known, tests, False) for tests in options.values()],
      list(options),
      _I,
    )
    same = [(self.parts == verdict).all(-1) for verdict in (_S, _E)]
    fails = np.isin(self.parts, [_R, _E]).any(-1)
    self.claims = np.select([*same, fails], [_S, _E, _R], _I)
    assert alpha.shape == (len(x), m)

  def any(self, *verdicts, claims=slice(None)):
    """Share of the studies in which one of the claims has such a verdict."""
    return np.isin(self.claims[:, claims], verdicts).any(1).mean()


def _levels(p):
  """The error levels at which Holm tests, row by row."""
  m = p.shape[1]
  steps = _ALPHA / (m - np.arange(m))
  order = np.argsort(p, axis=1, kind="stable")
  passed = np.take_along_axis(p, order, 1) <= steps
  rejected = np.minimum(np.cumprod(passed, axis=1).sum(1), m - 1)
  levels = steps[np.minimum(np.arange(m), rejected[:, None])]
  result = np.empty_like(p)
  np.put_along_axis(result, order, levels, 1)
  return result


def _judged(x, rules, margin):
  """The same of one study by `judge`: verdicts of the claims and parts."""
  claims, parts, seeds = x.shape
  networks = pd.DataFrame(
    [
      (f"{c}.{p}", s, "trained", x[c, p, s])
      for c, p, s in np.ndindex(claims, parts, seeds)
    ],
    columns=["cell", "seed", "stage", "score"],
  )
  keys = ("run", "stage", "measure", "layer", "transform", "orbit", "theta")
  empty = pd.DataFrame({name: pd.Series(dtype=str) for name in keys})
  empty["magnitude"] = pd.Series(dtype=np.float64)
  cells = {name: name for name in networks["cell"]}
  catalogue = [
    Claim(
      *(f"claim-{c}", "", "", "", ""),
      parts=tuple(
        Part(f"{p}", value(Select(f"{c}.{p}", "score")), rules[c], margin)
        for p in range(parts)
      ),
    )
    for c in range(claims)
  ]
  found = judge(catalogue, Evidence(empty, networks, pd.DataFrame(), cells))
  lists = found.effects["verdict"], found.effects["low_holm"]
  by_part = [np.reshape(list(v), (claims, parts)) for v in lists]
  return np.array(found.claims["verdict"]), *by_part


@pytest.mark.parametrize("parts", [1, 2])
def test_the_simulations_verdicts_are_those_of_judge(parts):
  rules = [RULES[i % len(RULES)] for i in range(_CLAIMS)]
  noise = _noise(12, _CLAIMS, _SEEDS, parts=parts, common=0.3, seed=1)
  effects = _MARGIN * np.linspace(-2, 2, _CLAIMS)[:, None, None]
  spread = 0.01 * (1 + np.arange(12) % 3)[:, None, None, None]
  x = effects + spread * noise
  x[0] *= 20  # one study with hardly a verdict
  found = _Read(x, rules, _MARGIN)
  for i, study in enumerate(x):
    claims, each, low = _judged(study, rules, _MARGIN)
    assert claims.tolist() == found.claims[i].tolist()
    assert each.tolist() == found.parts[i].tolist()
    np.testing.assert_allclose(low, found.low[i], rtol=1e-9, atol=1e-12)
  assert set(found.claims.ravel()) == {_S, _R, _E, _I}


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seeds", [_SEEDS, 8])
def test_of_studies_without_effect_few_support_any_claim(seeds, common):
  x = _MARGIN * _noise(_STUDIES, _CLAIMS, seeds, common=common)
  rules = ["greater"] * _CLAIMS
  rate = _Read(x, rules, _MARGIN).any(_S)
  assert rate <= _ALPHA / 2 + _tolerance(_ALPHA / 2)
  # Each claim by itself would err far too often: the correction is at work.
  alone = _Read(x, rules, _MARGIN, correct=False).any(_S)
  assert alone > max(_ALPHA, 2 * rate)
  if not common:
    assert rate >= _ALPHA / 2 - _tolerance(_ALPHA / 2)


def test_unequal_spread_and_real_effects_beside_do_not_matter():
  # Half of the claims are true, so that Holm steps down for the others.
  spread = np.geomspace(0.002, 0.2, _CLAIMS)[:, None, None]
  x = spread * _noise(_STUDIES, _CLAIMS, _SEEDS, common=0.2, seed=2)
  x[:, ::2] += 100 * spread[::2]
  found = _Read(x, ["greater"] * _CLAIMS, _MARGIN)
  assert (found.low[:, ::2] > 0).mean() > 0.99
  rate = (found.low[:, 1::2, 0] > 0).any(1).mean()
  assert rate <= _ALPHA / 2 + _tolerance(_ALPHA / 2)


def _at_the_margin(rule, true, sign, seed):
  """Studies at the margin where a verdict is just wrong, and `true` others."""
  x = 0.01 * _noise(_STUDIES, _CLAIMS, _SEEDS, seed=seed)
  sure = {"greater": 1.0, "at_least": 1.0, "at_most": -1.0, "equivalent": 0.0}
  x[:, :true] += sure[rule]
  x[:, true:] += sign * _MARGIN
  return _Read(x, [rule] * _CLAIMS, _MARGIN)


@pytest.mark.parametrize("true", [0, 7, 14])
@pytest.mark.parametrize(
  ("rule", "sign"),
  [
    *(("greater", 1), ("at_least", 1), ("at_most", 1)),
    *(("equivalent", 1), ("equivalent", -1)),
  ],
)
def test_effects_at_the_margin_are_seldom_refuted(rule, sign, true):
  found = _at_the_margin(rule, true, sign, seed=true)
  rate = found.any(_R, claims=slice(true, None))
  assert rate <= _ALPHA / 2 + _tolerance(_ALPHA / 2)
  # Only where every claim may err is the level used up.
  if rule != "greater" and not true:
    assert rate >= _ALPHA / 2 - _tolerance(_ALPHA / 2)


@pytest.mark.parametrize("true", [0, 7, 14])
@pytest.mark.parametrize(
  ("rule", "sign"),
  [("at_least", 1), ("at_most", 1), ("equivalent", 1), ("equivalent", -1)],
)
def test_effects_at_the_margin_are_seldom_taken_for_beyond_it(rule, sign, true):
  found = _at_the_margin(rule, true, sign, seed=20 + true)
  rate = found.any(_S, claims=slice(true, None))
  tolerance = _tolerance(_ALPHA / 2)
  assert rate == pytest.approx(_ALPHA / 2, abs=tolerance)


# How many standard errors the margin is: where Holm has stepped down.
_ROOM = (2.0, 4.0, 8.0, 16.0)


def _effects_that_matter(seeds, room, parts=1):
  spread = _MARGIN * np.sqrt(seeds) / room
  noise = _noise(_STUDIES, _CLAIMS, seeds, parts=parts, seed=seeds)
  return _Read(_MARGIN + spread * noise, ["greater"] * _CLAIMS, _MARGIN)


@pytest.mark.parametrize("room", _ROOM)
@pytest.mark.parametrize("seeds", [_SEEDS, 8, 10])
def test_one_effect_that_matters_is_seldom_called_too_small(seeds, room):
  found = _effects_that_matter(seeds, room)
  rates = np.isin(found.claims, [_E, _R]).mean(0)
  assert rates.max() <= _ALPHA / 2 + _tolerance(_ALPHA / 2)


@pytest.mark.parametrize("seeds", [_SEEDS, 8, 10, 19])
def test_of_effects_that_matter_seldom_any_is_called_too_small(seeds):
  rates = [_effects_that_matter(seeds, r).any(_E, _R) for r in _ROOM]
  assert max(rates) <= _ALPHA


def test_claims_of_many_parts_are_as_seldom_refuted():
  x = _MARGIN + 0.01 * _noise(_STUDIES, _CLAIMS, _SEEDS, parts=8, seed=3)
  assert _Read(x, ["at_least"] * _CLAIMS, _MARGIN).any(_R) <= _ALPHA


def test_claims_of_many_parts_are_more_seldom_supported():
  x = _MARGIN + 0.01 * _noise(_STUDIES, _CLAIMS, _SEEDS, parts=3, seed=3)
  assert _Read(x, ["at_least"] * _CLAIMS, _MARGIN).any(_S) < 0.01
  # Parts that hold for sure leave the error to the one that does not.
  x[:, :, :2] += 1.0
  rate = _Read(x, ["at_least"] * _CLAIMS, _MARGIN).any(_S)
  assert rate == pytest.approx(_ALPHA / 2, abs=_tolerance(_ALPHA / 2))


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_with_the_seeds_needed_the_smallest_effect_of_interest_is_found(spread):
  sd = spread * _MARGIN
  n = int(statistics.seeds_needed(sd, _MARGIN, _ALPHA))
  rates = {}
  for seeds in (n, n - 1):
    x = _MARGIN + sd * _noise(_STUDIES, 1, seeds, seed=seeds)
    rates[seeds] = (_Read(x, ["greater"], _MARGIN).low > 0).mean()
    expected = statistics.power(sd, _MARGIN, seeds, _ALPHA)
    assert rates[seeds] == pytest.approx(expected, abs=_tolerance(expected))
  assert rates[n] >= 0.8 - _tolerance(0.8)
  assert rates[n - 1] <= 0.8 + _tolerance(0.8)


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_with_the_seeds_needed_equivalence_is_found(spread):
  sd = spread * _MARGIN
  level = _ALPHA / 2
  n = int(statistics.seeds_needed(sd, _MARGIN, level, equivalent=True))
  x = sd * _noise(_STUDIES, 1, n, seed=n)
  rate = _Read(x, ["equivalent"], _MARGIN).any(_S)
  assert rate >= 0.8 - _tolerance(0.8)
  x = sd * _noise(_STUDIES, 1, n - 2, seed=n)
  assert _Read(x, ["equivalent"], _MARGIN).any(_S) < 0.8
