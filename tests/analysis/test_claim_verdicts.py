"""Verdicts of `judge` on studies made by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis import statistics
from analysis.claims.base import (
  EQUIVALENT,
  INCONCLUSIVE,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  At,
  Claim,
  Part,
  Select,
  Term,
  difference,
  value,
)
from analysis.claims.evidence import Evidence, NotTestedError, UndefinedError
from analysis.claims.verdicts import (
  ADJUSTED,
  BESIDE,
  CLAIM_COLUMNS,
  DECIDES,
  EFFECT_COLUMNS,
  MATCHED,
  adjusted,
  judge,
  matched,
)

_ROWS = {
  "run": "run of deep",
  "stage": "trained",
  "measure": "invariance_error",
  "layer": "logits",
  "orbit": "rotation",
  "transform": "rotation",
  "theta": "15",
  "magnitude": 15.0,
  "displacement_px": 2.0,
  "floor": 0.0,
  "note": "",
}


def _study(scores, accuracies=None, exact=(), measured=()):
  """A score and a test accuracy of each network and seed."""
  networks = pd.DataFrame(
    [
      (cell, seed, "trained", score)
      for cell, by_seed in scores.items()
      for seed, score in enumerate(by_seed)
    ],
    columns=["cell", "seed", "stage", "score"],
  )
  if accuracies is not None:
    points = [float(v) for by_seed in accuracies.values() for v in by_seed]
    networks = networks.assign(test_accuracy=points)
  measured = [
    _ROWS | {"seed": seed, "value": v} for seed, v in enumerate(measured)
  ]
  return Evidence(
    pd.DataFrame(measured, columns=[*_ROWS, "seed", "value"]),
    networks,
    pd.DataFrame(
      list(exact), columns=["check", "what", "expected", "obtained", "counted"]
    ),
    {cell: f"run of {cell}" for cell in scores},
  )


def _part(cell, rule="greater", margin=0.05, label=""):
  return Part(label or cell, value(Select(cell, "score")), rule, margin)


def _claim(name, *parts, **more):
  return Claim(
    name, f"says {name}", "source", "quantity", "reason", parts, **more
  )


def _rows(found):
  return {row["claim"]: row for row in found.claims.to_dict("records")}


def _equal(one, other):
  """Whether two rows say the same; what is not known counts as equal."""
  return pd.Series(one).equals(pd.Series(other))


_SPREAD = np.array([-0.01, 0.0, 0.01, 0.005, -0.005])
_HIGH, _LOW = 0.5 + _SPREAD, 0.01 * _SPREAD
_WIDE = 40 * _SPREAD


# --- one claim ---------------------------------------------------------------


def test_a_row_says_what_was_found():
  claim = _claim("some", _part("a", label="its label"))
  found = judge([claim], _study({"a": _HIGH}))
  assert list(found.claims) == list(CLAIM_COLUMNS)
  assert list(found.effects) == list(EFFECT_COLUMNS)
  row = _rows(found)["some"]
  expected = statistics.mean_interval(_HIGH)
  assert (row["effect"], row["low"], row["high"]) == pytest.approx(expected)
  assert row["p_holm"] == pytest.approx(2 * statistics.p_above(_HIGH))
  assert row["p_sign_flip"] == 2**-5
  assert row["verdict"] == SUPPORTED
  assert row["decided_by"] == "its label"
  assert (row["statement"], row["source"]) == ("says some", "source")
  assert (row["n_seeds"], row["margin"], row["rule"]) == (5, 0.05, "greater")
  assert row["figure"] == "figures/claim_some.png"
  sd = float(np.std(_HIGH, ddof=1))
  assert row["power"] == statistics.power(sd, 0.05, 5, 1 - 0.95)
  assert row["seeds_needed"] == statistics.seeds_needed(sd, 0.05, 1 - 0.95)
  assert found.values.to_dict("list") == {
    "claim": ["some"] * 5,
    "role": [DECIDES] * 5,
    "label": ["its label"] * 5,
    "seed": [0, 1, 2, 3, 4],
    "value": list(_HIGH),
  }


def test_one_stored_value_can_change_the_verdict():
  scores = {"a": 0.5 + 0.2 * _SPREAD}
  claims = [_claim("some", _part("a", "at_least", 0.4))]
  assert _rows(judge(claims, _study(scores)))["some"]["verdict"] == SUPPORTED
  changed = {"a": np.where(np.arange(5) == 3, 0.2, scores["a"])}
  row = _rows(judge(claims, _study(changed)))["some"]
  assert row["verdict"] == INCONCLUSIVE
  assert row["effect"] == pytest.approx(changed["a"].mean())


@pytest.mark.parametrize(
  ("rule", "verdicts"),
  [
    ("greater", (REFUTED, EQUIVALENT, SUPPORTED, INCONCLUSIVE)),
    ("at_least", (REFUTED, REFUTED, SUPPORTED, INCONCLUSIVE)),
    ("at_most", (SUPPORTED, SUPPORTED, REFUTED, INCONCLUSIVE)),
    ("equivalent", (REFUTED, SUPPORTED, REFUTED, INCONCLUSIVE)),
  ],
)
def test_every_rule_reads_every_verdict(rule, verdicts):
  scores = {"below": -_HIGH, "none": _LOW, "above": _HIGH, "wide": _WIDE}
  claims = [_claim(name, _part(name, rule)) for name in scores]
  found = judge(claims, _study(scores)).claims
  assert tuple(found["verdict"]) == verdicts


@pytest.mark.parametrize(
  ("number", "verdict"), [(0.3, SUPPORTED), (0.0, EQUIVALENT), (-0.3, REFUTED)]
)
def test_values_without_spread_are_judged(number, verdict):
  found = judge([_claim("some", _part("a"))], _study({"a": [number] * 4}))
  row = _rows(found)["some"]
  assert row["verdict"] == verdict
  assert row["low"] == row["high"] == row["effect"] == number
  assert row["power"] == 1.0


@pytest.mark.parametrize("rule", ["at_least", "at_most"])
def test_against_a_bound_it_is_said_what_distance_would_be_found(rule):
  found = judge([_claim("some", _part("a", rule))], _study({"a": _HIGH}))
  row = _rows(found)["some"]
  sd = float(np.std(_HIGH, ddof=1))
  assert row["detectable"] == statistics.detectable(sd, 5, 1 - 0.95)
  assert np.isnan([row["power"], row["seeds_needed"]]).all()
  other = judge([_claim("some", _part("a"))], _study({"a": _HIGH}))
  assert np.isnan(_rows(other)["some"]["detectable"])


def test_a_floor_stands_beside_its_effect():
  select = Select("deep", at=(At("rotation", 15.0),))
  evidence = _study({"deep": []}, measured=[0.3, 0.35, 0.4])
  row = _rows(judge([_claim("some", Part("m", value(select)))], evidence))
  assert row["some"]["floor"] == 0.0
  row = _rows(judge([_claim("some", _part("a"))], _study({"a": _HIGH})))
  assert np.isnan(row["some"]["floor"])


def test_one_seed_is_inconclusive_and_says_so():
  row = _rows(judge([_claim("some", _part("a"))], _study({"a": [0.9]})))["some"]
  assert row["verdict"] == INCONCLUSIVE
  assert row["note"] == "fewer than two seeds"
  assert (row["n_seeds"], row["effect"]) == (1, 0.9)
  assert np.isnan([row["low"], row["power"], row["seeds_needed"]]).all()


def test_an_undefined_value_is_inconclusive_and_says_why():
  select = Select("deep", at=(At("rotation", 15.0),))
  part = Part("measured", value(select))
  evidence = _study({"deep": []}, measured=[0.3, np.nan, 0.4])
  row = _rows(judge([_claim("some", part)], evidence))["some"]
  assert row["verdict"] == INCONCLUSIVE
  assert "is undefined" in row["note"]
  assert (row["n_seeds"], row["figure"]) == (0, "")
  evidence = _study({"deep": []}, measured=[0.3, 0.35, 0.4])
  assert _rows(judge([_claim("some", part)], evidence))["some"]["note"] == ""


def test_a_missing_network_is_not_tested_and_the_preset_is_named():
  claims = [
    _claim("some", _part("a"), _part("absent"), preset="full"),
    _claim("other", _part("a")),
  ]
  found = judge(claims, _study({"a": _HIGH}))
  row = _rows(found)["some"]
  assert row["verdict"] == NOT_TESTED
  assert row["note"] == "no network 'absent': --preset=full tests it"
  assert np.isnan([row["effect"], row["p_holm"]]).all()
  assert row["figure"] == ""
  # It counts for nothing in the correction of the other.
  alone = judge(claims[1:], _study({"a": _HIGH}))
  assert _equal(_rows(found)["other"], _rows(alone)["other"])


# --- several parts and claims ------------------------------------------------


def test_the_weakest_part_is_the_headline():
  strong, weak = _part("a", label="strong"), _part("b", label="weak")
  scores = {"a": _HIGH, "b": 0.2 + 5 * _SPREAD}
  for parts in ((strong, weak), (weak, strong)):
    row = _rows(judge([_claim("some", *parts)], _study(scores)))["some"]
    assert row["decided_by"] == "weak"
    assert row["verdict"] == SUPPORTED
    assert row["effect"] == pytest.approx(0.2)
    assert row["p_holm"] == pytest.approx(2 * statistics.p_above(scores["b"]))


@pytest.mark.parametrize(
  ("other", "verdict"),
  [(_WIDE, INCONCLUSIVE), (_LOW, REFUTED), (-_HIGH, REFUTED)],
)
def test_one_part_that_fails_decides(other, verdict):
  parts = _part("a", label="holds"), _part("b", label="fails")
  evidence = _study({"a": _HIGH, "b": other})
  row = _rows(judge([_claim("some", *parts)], evidence))["some"]
  assert (row["verdict"], row["decided_by"]) == (verdict, "fails")


def test_a_part_that_refutes_is_the_headline_beside_one_that_is_unknown():
  parts = _part("a", label="unknown"), _part("b", "at_most", label="fails")
  evidence = _study({"a": -0.001 + _WIDE, "b": 0.06 + 0.01 * _SPREAD})
  row = _rows(judge([_claim("some", *parts)], evidence))["some"]
  assert (row["verdict"], row["decided_by"]) == (REFUTED, "fails")


def test_the_correction_is_over_the_claims_and_widens_intervals():
  scores = {f"{i}": 0.02 * i + _SPREAD for i in range(1, 5)}
  claims = [_claim(name, _part(name)) for name in scores]
  found = judge(claims, _study(scores))
  p = [2 * statistics.p_above(x) for x in scores.values()]
  expected = statistics.holm(p)
  for row, holm, x in zip(
    found.claims.to_dict("records"), expected, scores.values(), strict=True
  ):
    assert row["p_holm"] == pytest.approx(holm.p)
    interval = statistics.mean_interval(x, 1 - holm.alpha)
    assert row["low_holm"] == pytest.approx(interval.low)
    assert row["high_holm"] == pytest.approx(interval.high)
    assert (row["p_holm"] <= 0.05) == (row["low_holm"] > 0)
  widths = found.claims["high_holm"] - found.claims["low_holm"]
  assert (widths >= found.claims["high"] - found.claims["low"]).all()
  assert len(set(widths.round(9))) > 1


def test_a_claim_without_interval_still_counts_in_the_correction():
  claims = [_claim("some", _part("a")), _claim("other", _part("b"))]
  found = _rows(judge(claims, _study({"a": _HIGH, "b": [0.3]})))
  assert found["some"]["p_holm"] == pytest.approx(4 * statistics.p_above(_HIGH))
  assert found["other"]["p_holm"] == 1.0


def test_what_stands_beside_decides_nothing():
  beside = (_part("b", label="contrary"), _part("absent", label="absent"))
  alone = judge([_claim("some", _part("a"))], _study({"a": _HIGH}))
  found = judge(
    [_claim("some", _part("a"), beside=beside)],
    _study({"a": _HIGH, "b": -_HIGH}),
  )
  assert found.claims.equals(alone.claims)
  roles = found.effects.set_index("label")["role"].to_dict()
  assert roles == {"a": DECIDES, "contrary": BESIDE}
  assert found.effects["verdict"].tolist() == [SUPPORTED, REFUTED]


# --- exact claims ------------------------------------------------------------


@pytest.mark.parametrize(
  ("obtained", "verdict", "wrong"), [(7, SUPPORTED, 0), (8, REFUTED, 1)]
)
def test_one_wrong_number_refutes(obtained, verdict, wrong):
  exact = [
    *(("counts", "one", 3, 3, 10), ("counts", "two", 7, obtained, 5)),
    ("others", "three", 1, 2, 1),
  ]
  claims = [_claim("some", exact=("counts",)), _claim("other", _part("a"))]
  found = _rows(judge(claims, _study({"a": _HIGH}, exact=exact)))
  row = found["some"]
  assert (row["verdict"], row["effect"]) == (verdict, wrong)
  assert row["decided_by"] == "wrong numbers, of 15 counted"
  assert np.isnan([row["p_holm"], row["low"]]).all()
  # Nothing is left to chance, so that nothing is to be corrected for it.
  assert found["other"]["p_holm"] == pytest.approx(
    2 * statistics.p_above(_HIGH)
  )


def test_exact_claims_without_their_checks_are_not_tested():
  claim = _claim("some", exact=("counts",))
  evidence = _study({"a": _HIGH}, exact=[("others", "three", 1, 2, 1)])
  assert _rows(judge([claim], evidence))["some"]["verdict"] == NOT_TESTED


# --- accuracy ----------------------------------------------------------------

_TERMS = difference(Select("a", "score"), Select("b", "score"))


def _noisy(count=8):
  rng = np.random.default_rng(1)
  accuracies = {
    "a": 97 + rng.normal(size=count),
    "b": 98 + rng.normal(size=count),
  }
  scores = {
    name: 0.1 * i - 0.2 * accuracies[name] + 0.05 * rng.normal(size=count)
    for i, name in enumerate("ab")
  }
  return scores, accuracies


def test_adjusted_effects_are_those_of_an_analysis_of_covariance():
  scores, accuracies = _noisy()
  x, y = (np.concatenate([of["a"], of["b"]]) for of in (accuracies, scores))
  first = np.repeat([1.0, 0.0], 8)
  design = np.stack([first, 1 - first, x], axis=1)
  effect_a, effect_b, slope = np.linalg.lstsq(design, y, rcond=None)[0]
  found = adjusted(_study(scores, accuracies), _TERMS).values
  assert found.mean() == pytest.approx(effect_a - effect_b)
  rest = {name: scores[name] - slope * accuracies[name] for name in "ab"}
  assert found.tolist() == pytest.approx(list(rest["a"] - rest["b"]))


def test_an_effect_that_is_wholly_accuracys_is_taken_away():
  accuracies = {"a": 97 + _SPREAD, "b": 98 + 3 * _SPREAD}
  scores = {name: 10 - 0.1 * x for name, x in accuracies.items()}
  evidence = _study(scores, accuracies)
  assert evidence.contrast(_TERMS).mean() == pytest.approx(0.1)
  assert adjusted(evidence, _TERMS).values.tolist() == pytest.approx([0.0] * 5)
  # And nothing else: an effect at equal accuracy stays.
  shifted = scores | {"a": scores["a"] + 0.5}
  found = adjusted(_study(shifted, accuracies), _TERMS).values
  assert found.tolist() == pytest.approx([0.5] * 5)


def test_the_intervals_of_adjusted_effects_cover_as_often_as_they_say():
  rng = np.random.default_rng(0)
  covered = []
  for _ in range(200):
    noise = rng.normal(size=(4, 8))
    accuracies = {"a": 97 + 0.15 * noise[0], "b": 98 + 0.15 * noise[1]}
    scores = {
      name: -0.1 * accuracies[name] + 0.02 * noise[2 + i]
      for i, name in enumerate("ab")
    }
    found = adjusted(_study(scores, accuracies), _TERMS)
    _, low, high = statistics.widened_interval(list(found.values), found.se)
    covered.append(low <= 0 <= high)
  # Three standard errors of a share of 200.
  assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)


def test_without_spread_in_accuracy_no_effect_can_be_adjusted():
  evidence = _study({"a": _HIGH, "b": _LOW}, {"a": [97.0] * 5, "b": [98.0] * 5})
  with pytest.raises(UndefinedError, match="does not vary"):
    adjusted(evidence, _TERMS)


def test_matched_effects_are_of_equally_accurate_networks_only():
  accuracies = {
    "a": [97.0, 97.0, 97.0, 97.0, 97.0],
    "b": [97.25, 97.4, 96.75, 96.6, 97.0],
  }
  found = matched(_study({"a": _HIGH, "b": _LOW}, accuracies), _TERMS).values
  assert found.to_dict() == {
    seed: pytest.approx(_HIGH[seed] - _LOW[seed]) for seed in (0, 2, 4)
  }
  three = (*_TERMS, Term(1.0, Select("c", "score")))
  scores = {"a": _HIGH, "b": _LOW, "c": _LOW}
  # 0.25 above and 0.25 below are 0.5 apart.
  evidence = _study(scores, accuracies | {"c": [96.75, 97, 97.25, 97, 97]})
  assert matched(evidence, three).values.index.tolist() == [4]


def test_networks_that_differ_by_just_the_limit_are_matched():
  accuracies = {"a": [97.3, 98.4], "b": [97.0, 98.1]}
  evidence = _study({"a": _HIGH[:2], "b": _LOW[:2]}, accuracies)
  assert matched(evidence, _TERMS).values.index.tolist() == [0, 1]


def test_confounded_claims_report_both_corrections_and_rest_on_neither():
  scores, accuracies = _noisy()
  part = Part("a less b", _TERMS)
  evidence = _study(scores, accuracies)
  plain = judge([_claim("some", part)], evidence)
  found = judge([_claim("some", part, confounded=True)], evidence)
  assert found.claims.equals(plain.claims)
  effects = found.effects.set_index("role")["effect"]
  assert effects.index.tolist() == [DECIDES, ADJUSTED, MATCHED]
  assert effects[ADJUSTED] == pytest.approx(
    adjusted(evidence, _TERMS).values.mean()
  )
  far = {"a": accuracies["a"], "b": accuracies["b"] + 50}
  found = judge([_claim("some", part, confounded=True)], _study(scores, far))
  row = found.effects.set_index("role").loc[MATCHED]
  assert (row["n_seeds"], row["verdict"]) == (0, INCONCLUSIVE)
  assert row["note"] == "fewer than two seeds"


def test_only_what_sets_trained_networks_against_each_other_is_corrected():
  scores, accuracies = _noisy()
  evidence = _study(scores, accuracies)
  evidence.networks = pd.concat(
    [evidence.networks, evidence.networks.assign(stage="init")]
  )
  before = difference(
    Select("a", "score", stage="init"), Select("b", "score", stage="init")
  )
  parts = (Part("before", before), _part("a"), Part("a less b", _TERMS))
  found = judge([_claim("some", *parts, confounded=True)], evidence).effects
  corrected = found[found["role"].isin([ADJUSTED, MATCHED])]
  assert corrected["label"].tolist() == ["a less b"] * 2


def test_contrasts_of_what_is_missing_are_not_corrected():
  scores, accuracies = _noisy()
  evidence = _study(scores, accuracies)
  absent = difference(Select("a", "score"), Select("absent", "score"))
  for correct in (adjusted, matched):
    with pytest.raises(NotTestedError, match="no network 'absent'"):
      correct(evidence, absent)
