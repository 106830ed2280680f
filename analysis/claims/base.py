"""What a claim is: a statement, where it is from, contrasts, and a rule.

A claim is data. Each of its parts is a weighted sum of selected values, one
number a seed, and a rule that reads a verdict off the interval of its mean; all
parts have to hold. Effects are signed so that the predicted one is positive.

Rules, with the margin d > 0 (the smallest effect of interest) and an interval
(low, high): for support that of Holm's procedure over the claims, for the rest
a wider one, by Bonferroni over all parts (see `verdicts.judge`):

  greater     supported: low > 0 (and not equivalent); refuted: high < d;
              equivalent: -d < low and high < d, an effect too small to matter
  at_least    supported: low > d; refuted: high < d
  at_most     supported: high < d; refuted: low > d
  equivalent  supported: -d < low and high < d; refuted: low > d or high < -d

and inconclusive otherwise.
"""

from typing import NamedTuple

from analysis.statistics import REFERENCE_DOSES

SUPPORTED, REFUTED = "supported", "refuted"
EQUIVALENT, INCONCLUSIVE = "equivalent", "inconclusive"
NOT_TESTED = "not tested"
VERDICTS = (SUPPORTED, REFUTED, EQUIVALENT, INCONCLUSIVE, NOT_TESTED)

RULES = ("greater", "at_least", "at_most", "equivalent")


class At(NamedTuple):
  """Where a value is read: a transformation and how much of it.

  Attributes:
    transform: a family's name; empty for a value of the network itself.
    dose: as of `statistics.dose`; None for the value of the whole orbit.
    displacement: read at so many pixels of displacement instead, by linear
      interpolation between doses (0 at 0).
  """

  transform: str = ""
  dose: float | None = None
  displacement: float | None = None


# A small change of each family that should not matter; means over the three
# are over a shift of 2 px, a rotation by 15 degrees and a factor of 1.2.
TRANSLATION, ROTATION, SCALING = (
  At(name, REFERENCE_DOSES[name][0])
  for name in ("translation", "rotation", "scaling")
)
REFERENCES = (TRANSLATION, ROTATION, SCALING)


class Select(NamedTuple):
  """One number a seed: the mean over layers and transformations.

  Attributes:
    cell: the study's name for the network.
    measure: a row name of the measurements, or a column of networks.csv.
    at: where it is read.
    layers: names of layers.
    stage: "trained" or "init".
    above_floor: take the row's floor away.
  """

  cell: str
  measure: str = "invariance_error"
  at: tuple[At, ...] = REFERENCES
  layers: tuple[str, ...] = ("logits",)
  stage: str = "trained"
  above_floor: bool = False


class Term(NamedTuple):
  """A selection and its weight in a contrast."""

  weight: float
  select: Select


class Part(NamedTuple):
  """A contrast and the rule for it.

  Attributes:
    label: what the number is, in a few words.
    terms: the contrast: their weighted sum.
    rule: one of `RULES`.
    margin: the smallest effect of interest, or the bound, in the effect's unit.
    unit: of the effect; empty for shares and ratios.
  """

  label: str
  terms: tuple[Term, ...]
  rule: str = "greater"
  margin: float = 0.05
  unit: str = ""


class View(NamedTuple):
  """What a claim's figure shows beside its effects.

  Attributes:
    x: "layer", "dose" or "displacement"; empty for effects only.
    cells: a line each.
    measure: on the ordinate.
    transforms: a panel each; a line each for "displacement".
    layers: those shown, for "dose" and "displacement"; all for "layer" if
      empty.
    stages: solid for trained, dashed for untrained.
  """

  x: str = ""
  cells: tuple[str, ...] = ()
  measure: str = "invariance_error"
  transforms: tuple[str, ...] = ("translation", "rotation", "scaling")
  layers: tuple[str, ...] = ("logits",)
  stages: tuple[str, ...] = ("trained",)


class Claim(NamedTuple):
  """A statement that the study decides on.

  Attributes:
    id: a short name.
    statement: what is claimed.
    source: who says so.
    quantity: what the effect is, in plain words.
    reason: why the margins are what they are; fixed before the runs.
    parts: all have to hold.
    beside: reported with it; they decide nothing.
    exact: names of checks in exact.csv, for what needs no statistics.
    confounded: whether networks of other accuracy are compared, so that
      accuracy-adjusted and accuracy-matched effects are reported too.
    view: the figure's left half.
    preset: the preset that tests it.
  """

  id: str
  statement: str
  source: str
  quantity: str
  reason: str
  parts: tuple[Part, ...] = ()
  beside: tuple[Part, ...] = ()
  exact: tuple[str, ...] = ()
  confounded: bool = False
  view: View = View()
  preset: str = "mnist"


def difference(more: Select, less: Select) -> tuple[Term, ...]:
  """The contrast `more` minus `less`."""
  return (Term(1.0, more), Term(-1.0, less))


def value(select: Select) -> tuple[Term, ...]:
  """The contrast that is a value itself."""
  return (Term(1.0, select),)


def by_family(
  label: str, more: Select, less: Select, margin: float = 0.05
) -> tuple[Part, ...]:
  """The same difference for each of the three families, to report beside."""
  return tuple(
    Part(
      f"{label}: {at.transform}",
      difference(more._replace(at=(at,)), less._replace(at=(at,))),
      margin=margin,
    )
    for at in REFERENCES
  )
