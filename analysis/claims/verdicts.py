"""From contrasts to verdicts: intervals over seeds, corrected over claims."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.claims.accuracy import Corrected, adjusted, matched
from analysis.claims.base import (
  EQUIVALENT,
  NOT_TESTED,
  REFUTED,
  SUPPORTED,
  Claim,
  Part,
  Term,
)
from analysis.claims.evidence import Evidence, NotTestedError, UndefinedError
from analysis.claims.rules import combine, p_value, read
from analysis.statistics import Interval

EFFECT_COLUMNS = (
  "claim",
  "role",
  "label",
  "rule",
  "margin",
  "unit",
  "verdict",
  "effect",
  "low",
  "high",
  "low_holm",
  "high_holm",
  "low_strict",
  "high_strict",
  "p",
  "p_sign_flip",
  "n_seeds",
  "sd",
  "power",
  "seeds_needed",
  "detectable",
  "floor",
  "note",
)

CLAIM_COLUMNS = (
  "claim",
  "statement",
  "verdict",
  "effect",
  "low",
  "high",
  "p_holm",
  "n_seeds",
  "figure",
  "decided_by",
  "unit",
  "margin",
  "rule",
  "low_holm",
  "high_holm",
  "low_strict",
  "high_strict",
  "p_sign_flip",
  "power",
  "seeds_needed",
  "detectable",
  "floor",
  "source",
  "note",
)

DECIDES, BESIDE = "decides", "beside"
ADJUSTED, MATCHED = "accuracy-adjusted", "accuracy-matched"

_NAN = float("nan")


class Verdicts(NamedTuple):
  """What a study says of the claims.

  Attributes:
    claims: one row a claim, `CLAIM_COLUMNS`.
    effects: one row a contrast, `EFFECT_COLUMNS`.
    values: one row a contrast and seed: claim, role, label, seed, value.
  """

  claims: pd.DataFrame
  effects: pd.DataFrame
  values: pd.DataFrame


class _Found(NamedTuple):
  """A part with its values by seed, or why it has none."""

  part: Part
  role: str
  values: pd.Series
  note: str = ""
  tested: bool = True
  # Standard error on top of that over seeds.
  se: float = 0.0
  # What resampling alone makes of it; NaN where that is not known.
  floor: float = _NAN


def judge(claims: Sequence[Claim], evidence: Evidence) -> Verdicts:
  """Judges all claims together.

  Args:
    claims: those of `analysis.claims`.
    evidence: a study's tables.

  Returns:
    The tables.
  """
  found = {claim.id: _gather(claim, evidence) for claim in claims}
  p_values = [_claim_p(claim, found[claim.id]) for claim in claims]
  corrected = statistics.holm(p_values)
  strict = _strict_alpha(found.values())
  rows, effects, values = [], [], []
  for claim, holm in zip(claims, corrected, strict=True):
    own = [_effect(claim, f, holm.alpha, strict) for f in found[claim.id]]
    effects += own
    values += [
      (claim.id, f.role, f.part.label, seed, v)
      for f in found[claim.id]
      for seed, v in f.values.items()
    ]
    rows.append(_row(claim, own, holm, evidence))
  return Verdicts(
    pd.DataFrame(rows, columns=list(CLAIM_COLUMNS)),
    pd.DataFrame(effects, columns=list(EFFECT_COLUMNS)),
    pd.DataFrame(values, columns=["claim", "role", "label", "seed", "value"]),
  )


def _strict_alpha(found: Iterable[Sequence[_Found]]) -> float:
  """The error level of refuting, by Bonferroni over all that may refute.

  Not by Holm's steps, which are those of support: where all claims but one are
  supported the last would be tested without correction. And over parts, since
  each of them can refute its claim.
  """
  parts = sum(
    sum(f.role == DECIDES for f in own)
    for own in found
    if all(f.tested for f in own)
  )
  return (1 - statistics.LEVEL) / max(parts, 1)


def _gather(claim: Claim, evidence: Evidence) -> list[_Found]:
  """Every contrast of a claim, and its accuracy-corrected versions."""
  found = [_look(part, DECIDES, evidence) for part in claim.parts]
  if not all(f.tested for f in found):
    return found
  beside = [_look(part, BESIDE, evidence) for part in claim.beside]
  found += [f for f in beside if f.tested]
  if claim.confounded:
    for part in filter(compares_trained, claim.parts):
      for role, correct in ((ADJUSTED, adjusted), (MATCHED, matched)):
        found.append(_look(part, role, evidence, correct))
  return found


def compares_trained(part: Part) -> bool:
  """Whether a part sets trained networks against each other.

  Only there can a difference in accuracy stand behind the effect: an untrained
  network has none to speak of, and a network is as accurate as itself.

  Args:
    part: of a claim.
  """
  selects = [term.select for term in part.terms]
  cells = {select.cell for select in selects}
  return len(cells) > 1 and all(s.stage == "trained" for s in selects)


def _look(
  part: Part,
  role: str,
  evidence: Evidence,
  correct: Callable[[Evidence, Sequence[Term]], Corrected] | None = None,
) -> _Found:
  empty = pd.Series(dtype=np.float64)
  left_out = evidence.left_out(part.terms)
  try:
    if correct is None:
      found = Corrected(evidence.contrast(part.terms))
    else:
      found = correct(evidence, part.terms)
    floor = evidence.floor(part.terms)
  except NotTestedError as error:
    note = _joined(str(error), left_out)
    return _Found(part, role, empty, note, tested=False)
  except UndefinedError as error:
    return _Found(part, role, empty, _joined(str(error), left_out))
  note = found.note if len(found.values) > 1 else "fewer than two seeds"
  note = _joined(note, left_out)
  return _Found(part, role, found.values, note, se=found.se, floor=floor)


def _joined(*notes: str) -> str:
  return "; ".join(filter(None, notes))


def _claim_p(claim: Claim, found: Sequence[_Found]) -> float:
  """The largest p of the parts: all have to hold, so no correction is due."""
  own = [f for f in found if f.role == DECIDES]
  if not own or not all(f.tested for f in own):
    return _NAN
  # No interval, no support: such a claim still counts in the correction.
  p = [
    p_value(f.part, f.values.to_numpy()) if len(f.values) > 1 else 1.0
    for f in own
  ]
  return max(p)


def _effect(
  claim: Claim, found: _Found, alpha: float, strict_alpha: float
) -> dict[str, object]:
  part, x = found.part, list(found.values)
  alpha = alpha if alpha == alpha else 1 - statistics.LEVEL
  plain = holm = strict = Interval(_NAN, _NAN, _NAN)
  sd = _NAN
  if x:
    plain, holm, strict = _intervals(found, alpha, strict_alpha)
    sd = float(np.std(x, ddof=1)) if len(x) > 1 else _NAN
  verdict = NOT_TESTED
  if found.tested:
    verdict = read(part.rule, part.margin, holm, strict)
  equivalent = part.rule == "equivalent"
  # Against a bound there is no effect of a known size to find: there it is said
  # how far from the bound one is found.
  power = needed = detectable = _NAN
  if part.rule in ("at_least", "at_most") and not found.se:
    detectable = statistics.detectable(sd, len(x), alpha)
  if part.rule in ("greater", "equivalent") and not found.se:
    of = statistics.power_equivalent if equivalent else statistics.power
    level = alpha / 2 if equivalent else alpha
    power = of(sd, part.margin, len(x), level)
    needed = statistics.seeds_needed(
      sd, part.margin, level, equivalent=equivalent
    )
  return {
    "claim": claim.id,
    "role": found.role,
    "label": part.label,
    "rule": part.rule,
    "margin": part.margin,
    "unit": part.unit,
    "verdict": verdict,
    "effect": plain.mean,
    "low": plain.low,
    "high": plain.high,
    "low_holm": holm.low,
    "high_holm": holm.high,
    "low_strict": strict.low,
    "high_strict": strict.high,
    "p": p_value(part, x) if len(x) > 1 and not found.se else _NAN,
    "p_sign_flip": statistics.p_sign_flip(x)
    if part.rule == "greater" and not found.se
    else _NAN,
    "n_seeds": len(x),
    "sd": sd,
    "power": power,
    "seeds_needed": needed,
    "detectable": detectable,
    "floor": found.floor,
    "note": found.note,
  }


def _intervals(
  found: _Found, alpha: float, strict_alpha: float
) -> tuple[Interval, Interval, Interval]:
  """At 95 %, for support, and for refutation."""
  x, levels = list(found.values), (1 - alpha, 1 - strict_alpha)
  if found.se:
    plain = statistics.widened_interval(x, found.se)
    holm, strict = (
      statistics.widened_interval(x, found.se, level) for level in levels
    )
  else:
    plain = statistics.mean_interval(x)
    holm, strict = (statistics.t_interval(x, level) for level in levels)
  return plain, holm, strict


def _row(
  claim: Claim,
  effects: Sequence[dict[str, object]],
  holm: statistics.Holm,
  evidence: Evidence,
) -> dict[str, object]:
  row: dict[str, object] = dict.fromkeys(CLAIM_COLUMNS, "")
  numbers = ("effect", "low", "high", "p_holm", "margin", "low_holm")
  numbers += ("high_holm", "low_strict", "high_strict")
  numbers += ("floor", "p_sign_flip", "power", "seeds_needed", "detectable")
  row |= dict.fromkeys(numbers, _NAN)
  row |= {
    "claim": claim.id,
    "statement": claim.statement,
    "source": claim.source,
    "n_seeds": 0,
    "p_holm": holm.p,
  }
  if claim.exact:
    return row | _exact(claim, evidence)
  deciding = [e for e in effects if e["role"] == DECIDES]
  row["verdict"] = combine([str(e["verdict"]) for e in deciding])
  if row["verdict"] == NOT_TESTED:
    first = next(e for e in deciding if e["verdict"] == NOT_TESTED)
    note = str(first["note"])
    if not any(evidence.left_out(part.terms) for part in claim.parts):
      note += f": --preset={claim.preset} tests it"
    return row | {"note": note}
  weakest = max(deciding, key=lambda e: _doubt(str(row["verdict"]), e))
  row |= {k: weakest[k] for k in CLAIM_COLUMNS if k in weakest}
  known = any(e["n_seeds"] for e in effects)
  return row | {
    "claim": claim.id,
    "verdict": combine([str(e["verdict"]) for e in deciding]),
    "decided_by": weakest["label"],
    "figure": _figure(claim) if known else "",
  }


def _figure(claim: Claim) -> str:
  return f"figures/claim_{claim.id}.png"


def _doubt(verdict: str, effect: dict[str, object]) -> tuple[bool, float]:
  """How little a part says for its claim: the one that decides has most."""
  p = float(effect["p"])  # pyrefly: ignore
  fails = effect["verdict"] in (REFUTED, EQUIVALENT) and verdict == REFUTED
  return fails, 2.0 if math.isnan(p) else p


def _exact(claim: Claim, evidence: Evidence) -> dict[str, object]:
  """Counts the numbers that are not as claimed; one is enough to refute."""
  rows = evidence.exact[evidence.exact["check"].isin(claim.exact)]
  if rows.empty:
    return {"verdict": NOT_TESTED, "note": "no exact.csv with these checks"}
  wrong = int((rows["expected"] != rows["obtained"]).sum())
  counted = int(rows["counted"].sum())
  return {
    "verdict": REFUTED if wrong else SUPPORTED,
    "effect": float(wrong),
    "unit": "wrong",
    "rule": "exact",
    "decided_by": f"wrong numbers, of {counted} counted",
    "figure": _figure(claim),
    "note": "exact: no seeds, no interval",
  }
