"""What an experiment is: cells to run, published numbers, and rules."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pandas as pd

from analysis import statistics
from experiments.config import DataConfig, TrainConfig
from experiments.errors import UsageError

# What a run may be given beside --seeds, as far as an experiment takes it.
DATA_FIELDS = frozenset(f.name for f in dataclasses.fields(DataConfig))
TRAIN_FIELDS = frozenset(f.name for f in dataclasses.fields(TrainConfig))


@dataclasses.dataclass(frozen=True)
class Settings:
  """The size of an experiment.

  Attributes:
    data: the images.
    train: how every network is trained.
    width: channels of each convolution.
    measure_examples: so many test images, evenly spread, are transformed.
    seeds: the replicates.
  """

  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  width: int = 16
  measure_examples: int = 128
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


class Images(Protocol):
  """What an experiment loads: anything that says where it is from."""

  @property
  def provenance(self) -> Mapping[str, Any]:
    """Source, sizes and sha256 of the arrays."""
    ...


class Value(NamedTuple):
  """One number of one network.

  Attributes:
    measure: a key of the experiment's `quantities`.
    value: the number.
    condition: what it is measured under, as a displacement; may be empty.
    stage: "init" or "trained".
  """

  measure: str
  value: float
  condition: str = ""
  stage: str = "trained"


class Published(NamedTuple):
  """A published number, and its spread as published."""

  cell: str
  measure: str
  value: float
  condition: str = ""
  stage: str = "trained"
  spread: float | None = None


class Verdict(NamedTuple):
  """What a rule found.

  Attributes:
    outcome: "yes", "no", or "undecided" where the interval does not say.
    effect: the number that decided.
    low: of its 95 % interval over seeds; NaN where the rule is for each seed.
    high: of the same.
    n_seeds: number of seeds.
    clearance: how far all that counts lies on the right side of the margin;
      negative if not all of it does, NaN if nothing is known.
  """

  outcome: str
  effect: float
  low: float
  high: float
  n_seeds: int
  clearance: float


class Results:
  """The values of all cells and seeds."""

  def __init__(self, table: pd.DataFrame) -> None:
    """Takes a table with the columns of results.csv."""
    self.table = table

  def of(
    self,
    cell: str,
    measure: str,
    condition: str = "",
    stage: str = "trained",
  ) -> pd.Series:
    """One value a seed, indexed by seed.

    Raises:
      KeyError: no such value.
    """
    wanted = {
      "cell": cell,
      "measure": measure,
      "condition": condition,
      "stage": stage,
    }
    rows = self.table
    for column, value in wanted.items():
      rows = rows[rows[column] == value]
    if rows.empty:
      raise KeyError(f"no value of {wanted}")
    return rows.set_index("seed")["value"].sort_index()


class Statement(NamedTuple):
  """A published statement, and the rule that decides on it.

  Attributes:
    text: the statement.
    source: who says so; "ours" for what nobody published.
    rule: what has to be found for a yes, fixed before the runs.
    judge: that rule.
  """

  text: str
  source: str
  rule: str
  judge: Callable[[Results], Verdict]


class Quantity(NamedTuple):
  """How a measure is printed: its name with unit, and its format."""

  label: str
  form: str = ".1f"


SeedValues = tuple[int, Sequence[Value]]


class Experiment(NamedTuple):
  """A published experiment.

  Attributes:
    name: as given on the command line.
    text: question, protocol, source, differences and full size.
    settings: the default size.
    takes: fields of settings that flags may change.
    load: the images of a size.
    cells: what is compared, by name.
    run: (cell, seeds, settings, images) -> the values of each seed, in this
      order, as soon as they are there.
    quantities: what is measured.
    published: numbers to put ours beside.
    statements: what is claimed.
    large: what changes for another data set than the default one.
  """

  name: str
  text: str
  settings: Settings
  takes: frozenset[str]
  load: Callable[[Settings], Any]
  cells: Callable[[Settings, Any], Mapping[str, Any]]
  run: Callable[[Any, Sequence[int], Settings, Any], Iterator[SeedValues]]
  quantities: Mapping[str, Quantity]
  statements: Sequence[Statement]
  published: Sequence[Published] = ()
  large: Mapping[str, Any] = {}


def resized(experiment: Experiment, changes: Mapping[str, Any]) -> Settings:
  """The experiment's settings with some fields changed.

  Args:
    experiment: the experiment.
    changes: values by field name; each goes to the section that has the field.

  Returns:
    The settings.

  Raises:
    UsageError: a field that the experiment does not take.
  """
  settings = experiment.settings
  for name in changes:
    if name not in {*experiment.takes, "seeds"}:
      taken = ", ".join(f"--{n}" for n in sorted(experiment.takes))
      raise UsageError(
        f"--{name} means nothing to {experiment.name}, which takes {taken}"
      )
  if changes.get("dataset", settings.data.dataset) != settings.data.dataset:
    changes = {**experiment.large, **changes}

  def changed(section: Any) -> Any:
    names = {field.name for field in dataclasses.fields(section)}
    return dataclasses.replace(
      section, **{k: v for k, v in changes.items() if k in names}
    )

  return dataclasses.replace(
    changed(settings),
    data=changed(settings.data),
    train=changed(settings.train),
  )


def default_workdir(experiment: Experiment, settings: Settings) -> str:
  """results/reproduce/NAME, and -<data set> for another than its own."""
  name = settings.data.dataset.replace(":", "-").replace("/", "-")
  own = settings.data.dataset == experiment.settings.data.dataset
  return f"results/reproduce/{experiment.name}{'' if own else f'-{name}'}"


# --- rules -------------------------------------------------------------------


def above(differences: pd.Series, margin: float = 0.0) -> Verdict:
  """Whether a mean over seeds lies above a margin, by its 95 % t interval.

  Yes if the whole interval does, no if none of it does, else undecided. Seeds
  that all give the same number decide by that number; one seed decides
  nothing.
  """
  values = differences.dropna()
  if values.empty:
    nan = float("nan")
    return Verdict("undecided", nan, nan, nan, 0, nan)
  interval = statistics.t_interval(list(values))
  outcome = "undecided"
  if interval.low > margin:
    outcome = "yes"
  elif interval.high <= margin:
    outcome = "no"
  return Verdict(outcome, *interval, len(values), interval.low - margin)


def below(differences: pd.Series, margin: float = 0.0) -> Verdict:
  """Whether a mean over seeds lies below a margin; see `above`."""
  verdict = above(-differences, -margin)
  return verdict._replace(
    effect=-verdict.effect, low=-verdict.high, high=-verdict.low
  )


def at_least(values: pd.Series, margin: float) -> Verdict:
  """Whether a number is at least `margin` in every seed; the smallest.

  For what holds seed by seed, and needs no interval to say so.

  Args:
    values: one number a seed.
    margin: the smallest allowed.
  """
  smallest, nan = float(values.min()), float("nan")
  outcome = "yes" if smallest >= margin else "no"
  return Verdict(outcome, smallest, nan, nan, len(values), smallest - margin)


def at_most(values: pd.Series, margin: float) -> Verdict:
  """Whether a number is at most `margin` in every seed; the largest."""
  verdict = at_least(-values, -margin)
  return verdict._replace(effect=-verdict.effect)


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
  """Yes if all are, no if one is, else undecided; the least clear of those.

  Every part has to hold, so nothing is gained by asking for several, and no
  correction is due.
  """
  ranks = ("no", "undecided", "yes")

  def key(verdict: Verdict) -> tuple[int, float]:
    known = not math.isnan(verdict.clearance)
    rank = ranks.index(verdict.outcome)
    return rank, verdict.clearance if known else -math.inf

  return min(verdicts, key=key)
