"""Whether stored numbers follow from stored parameters.

A sample of a run is derived again by the code that made it: the test loss and
accuracy of a trained seed, or all rows of one network under one orbit. Beside
that, every joined table is compared with what it was joined from. Nothing is
written.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments import datasets, evaluating, measuring, runs, specs, store
from experiments.config import DataConfig, MeasureConfig
from experiments.datasets import Dataset
from experiments.errors import ExperimentError
from experiments.run_folder import STAGES
from experiments.runs import Run
from models import platform

# What numbers may be off by if anything of the provenance is other than it was:
# relative, absolute below 1; shares of images, besides, by one image.
TOLERANCE = 1e-4

# Numbers that were written as text and read again.
_TEXT = 1e-12

TRAINING = "training"

# What names a row of measurements.
_KEYS = ("layer", "orbit", "transform", "theta", "unit", "measure", "protocol")


class Stored(NamedTuple):
  """A run with what is needed to derive its numbers again.

  Attributes:
    run: the run.
    dataset: its images.
    measure: how it was measured, if it was.
    other: what of its provenance is otherwise here and now.
  """

  run: Run
  dataset: Dataset
  measure: MeasureConfig | None
  other: tuple[str, ...]


class Item(NamedTuple):
  """What is derived in one go.

  Attributes:
    stored: the run.
    seed: which of its networks.
    stage: "init" or "trained".
    what: an orbit's name, or `TRAINING` for the seed's test.
  """

  stored: Stored
  seed: int
  stage: str
  what: str

  @property
  def name(self) -> str:
    """What messages call it."""
    folder = self.stored.run.folder.path.name
    return f"{folder} seed {self.seed} {self.stage}, {self.what}"


class Outcome(NamedTuple):
  """What came out of comparing.

  Attributes:
    name: of the item or the table.
    numbers: how many were compared.
    failed: how many of them do not hold.
    worst: which number is the farthest off.
    stored: its value as stored.
    derived: its value as derived.
    note: why nothing could be compared.
  """

  name: str
  numbers: int = 0
  failed: int = 0
  worst: str = ""
  stored: float = float("nan")
  derived: float = float("nan")
  note: str = ""

  @property
  def holds(self) -> bool:
    """Whether every number does."""
    return not self.failed and not self.note


# --- what is there -----------------------------------------------------------


def read(folder: Path, data_dir: str = "") -> list[Stored]:
  """Reads a run, or all runs of a study.

  Args:
    folder: a run folder or a study's results folder.
    data_dir: where the images are now, if moved.

  Returns:
    The runs.

  Raises:
    ExperimentError: neither is there, or a run of another format, other images
      or other matrix files.
  """
  paths = [folder]
  if not (folder / "config.json").exists():
    paths = sorted(p.parent for p in folder.glob("runs/*/config.json"))
  if not paths:
    raise ExperimentError(
      f"{folder} holds neither a run (config.json) nor the runs of a study"
      " (runs/*/config.json): parameters are where the study was run"
    )
  loaded: dict[DataConfig, Dataset] = {}
  return [_read_run(path, data_dir, loaded) for path in paths]


def _read_run(
  path: Path, data_dir: str, loaded: dict[DataConfig, Dataset]
) -> Stored:
  data, model, train = runs.read_configs(path)
  if data_dir:
    data = dataclasses.replace(data, data_dir=data_dir)
  if data not in loaded:
    loaded[data] = datasets.load(data)
  dataset = loaded[data]
  provenance = store.read_json(path / "provenance.json")
  images = provenance.pop("data", {})
  for name in ("train_sha256", "test_sha256"):
    if images.get(name) != dataset.provenance.get(name):
      raise ExperimentError(
        f"{path} was made of other images than are here: their {name} is"
        f" {images.get(name)}, here {dataset.provenance.get(name)}"
      )
  here = store.provenance({})
  other = tuple(k for k, v in provenance.items() if here.get(k) != v)
  if not platform.on_cpu() and len(jax.local_devices()) > 1:
    other += ("devices",)  # how many shared the work is not known
  run = runs.make_run(path, data, model, train, dataset, claim=False)
  return Stored(run, dataset, _measure_config(path), other)


def _measure_config(path: Path) -> MeasureConfig | None:
  file = path / "measurements" / "config.json"
  if not file.exists():
    return None
  content = store.read_json(file)
  try:
    config = MeasureConfig(**content["measure"])
  except (KeyError, TypeError) as error:
    raise ExperimentError(f"{file} is of another version: {error}") from error
  if specs.file_digests(config.transforms) != content.get("files", {}):
    raise ExperimentError(
      f"{path} was measured with other files than those that"
      f" --transforms={config.transforms} names now"
    )
  return config


def items(stored: Stored) -> list[Item]:
  """All that can be derived of a run, in a fixed order."""
  folder = stored.run.folder
  found = []
  last = stored.run.train.epochs
  lines = [line for line in folder.metrics() if line["epoch"] == last]
  for seed in sorted({int(line["seed"]) for line in lines}):
    found.append(Item(stored, seed, "trained", TRAINING))
    for stage in STAGES:
      if stored.measure and folder.part_path(seed, stage).exists():
        orbits = measuring.jobs(stored.measure, stage)
        found += [Item(stored, seed, stage, o.name) for o, _ in orbits]
  return found


def sample(found: Sequence[Item], count: int, seed: int) -> list[Item]:
  """So many of the items, in their order; all for 0 or if there are fewer.

  A test and an orbit are among them, if there is room for both.
  """
  if not count or count >= len(found):
    return list(found)
  order = np.random.default_rng(seed).permutation(len(found)).tolist()
  tests = [i for i in order if found[i].what == TRAINING]
  orbits = [i for i in order if found[i].what != TRAINING]
  order.sort(key=lambda i: i not in (*tests[:1], *orbits[:1]))
  return [found[i] for i in sorted(order[:count])]


# --- derived again -----------------------------------------------------------


def derive(item: Item) -> Outcome:
  """Derives an item from its parameters and compares it with what is stored."""
  return _checked(
    item.name, _derive_test if item.what == TRAINING else _derive_orbit, item
  )


def _checked(name: str, check: Callable[..., Outcome], *args: Any) -> Outcome:
  try:
    return check(*args)
  except ExperimentError as error:
    return Outcome(name, note=str(error))


def _derive_test(item: Item) -> Outcome:
  stored, folder = item.stored, item.stored.run.folder
  params = store.load_params(folder.params_path(item.seed, item.stage))
  data = evaluating.on_device(stored.dataset.test)
  derived = evaluating.evaluate_sums(stored.run.model, params, data)
  lines = [line for line in folder.metrics() if line["seed"] == item.seed]
  last = max(lines, key=lambda line: line["epoch"])
  names = ["test_loss", "test_accuracy"]
  table = pd.DataFrame({"measure": names, "value": [last[n] for n in names]})
  again = table.assign(value=[float(x) for x in jax.device_get(derived)])
  # Seeds that were trained side by side were tested side by side.
  exact = not stored.other and stored.run.train.strategy != "scan"
  return compare(
    item.name,
    table,
    again,
    tolerance=0.0 if exact else TOLERANCE,
    share=1 / len(stored.dataset.test.labels),
  )


def _derive_orbit(item: Item) -> Outcome:
  stored, run = item.stored, item.stored.run
  assert stored.measure is not None
  table = measuring.measure_network(
    run.model,
    store.load_params(run.folder.params_path(item.seed, item.stage)),
    stored.dataset,
    stored.measure,
    item.stage,
    only=item.what,
  )
  table = measuring.tagged(table, run.columns, item.seed, item.stage)
  before = store.read_table(run.folder.part_path(item.seed, item.stage))
  return compare(
    item.name,
    before[before["orbit"] == item.what],
    _as_read(table),
    tolerance=TOLERANCE if stored.other else 0.0,
    share=1 / len(measuring.examples(stored.measure, stored.dataset)),
  )


def _as_read(table: pd.DataFrame) -> pd.DataFrame:
  """The table as if it had been written and read."""
  file = io.BytesIO()
  table.to_parquet(file, index=False)
  return pd.read_parquet(io.BytesIO(file.getvalue()))


def outcomes(
  folder: Path, found: Sequence[Stored], chosen: Sequence[Item]
) -> Iterator[Outcome]:
  """Checks checksums and all joined tables, then derives the chosen items."""
  for stored in found:
    for path in stored.run.folder.damaged():
      yield Outcome(str(path), note="it does not match its checksum")
  yield from check_tables(folder, found)
  yield from map(derive, chosen)


def line(outcome: Outcome) -> str:
  """An outcome for people."""
  if outcome.note:
    return f"FAILS  {outcome.name}: {outcome.note}"
  head = f"holds  {outcome.name}: {outcome.numbers:,} numbers"
  if outcome.failed:
    count = f"{outcome.failed:,} of {outcome.numbers:,} numbers"
    head = f"FAILS  {outcome.name}: {count}"
  off = abs(outcome.stored - outcome.derived)
  return (
    f"{head}; {outcome.worst}: stored {outcome.stored:.9g}, derived"
    f" {outcome.derived:.9g}, difference {off:.3g}"
  )


# --- joined tables -----------------------------------------------------------


def check_tables(folder: Path, found: Sequence[Stored]) -> Iterator[Outcome]:
  """Compares the joined tables of a run or a study with their parts.

  Args:
    folder: the run's, or the study's with `runs/`.
    found: its runs.

  Yields:
    What came out, table by table.
  """
  parts = [(s.run, part) for s in found for part in _parts(s)]
  for stored in found:
    own = [part for part in parts if part[0] is stored.run]
    path = stored.run.folder.path / "measurements.parquet"
    if path.exists():
      yield _checked(str(path), _check_joined, path, own)
  path = folder / "measurements.parquet"
  if path.exists() and folder not in [s.run.folder.path for s in found]:
    yield _checked(str(path), _check_joined, path, parts)
  path = folder / "training.csv"
  if path.exists():
    yield _checked(str(path), _check_curves, path, found)


def _parts(stored: Stored) -> list[runs.Part]:
  items_ = [i for i in items(stored) if i.what != TRAINING]
  return list(dict.fromkeys((i.seed, i.stage) for i in items_))


def _check_joined(path: Path, parts: list[tuple[Run, runs.Part]]) -> Outcome:
  joined = store.read_table(path)
  order = ["run", "seed", "stage"]
  present = set(joined[order].itertuples(index=False, name=None))
  tables = [
    store.read_table(run.folder.part_path(*part))
    for run, part in parts
    if (run.name, *part) in present
  ]
  if not tables:
    return Outcome(str(path), note="it is not of the runs that are there")
  before, after = (
    t.sort_values(order, kind="stable")
    for t in (joined, pd.concat(tables, ignore_index=True))
  )
  return compare(str(path), before, after)


def _check_curves(path: Path, found: Sequence[Stored]) -> Outcome:
  table = store.read_table(path)
  lines = [
    {"run": s.run.name} | line for s in found for line in s.run.folder.metrics()
  ]
  after = pd.DataFrame(lines)
  keys = ["run", "seed", "epoch"]
  present = set(table["run"] + " " + table["seed"].astype(str))
  after = after[
    [f"{r} {s}" in present for r, s in after[keys[:2]].to_numpy().tolist()]
  ]
  before, after = (t.sort_values(keys)[list(after)] for t in (table, after))
  return compare(str(path), before, after, tolerance=_TEXT)


# --- comparing ---------------------------------------------------------------


def compare(
  name: str,
  before: pd.DataFrame,
  after: pd.DataFrame,
  *,
  tolerance: float = 0.0,
  share: float = 0.0,
) -> Outcome:
  """Compares two tables number by number.

  Args:
    name: what they are of.
    before: as stored.
    after: as derived.
    tolerance: what numbers may be off by, relative, absolute below 1.
    share: what one image is of a share of images.

  Returns:
    What came out.
  """
  before, after = (t.reset_index(drop=True) for t in (before, after))
  keys = [key for key in _KEYS if key in before]
  if list(before) != list(after) or not before[keys].equals(after[keys]):
    note = f"{len(before)} rows are stored, {len(after)} others are derived"
    return Outcome(name, note=note)
  columns = list(before.select_dtypes("number"))
  a, b = (t[columns].to_numpy(np.float64) for t in (before, after))
  off = np.abs(a - b)
  off = np.where(
    np.isnan(off), np.where(np.isnan(a) & np.isnan(b), 0, 1e9), off
  )
  allowed = tolerance * np.fmax(np.abs(np.nan_to_num(a)), 1)
  if tolerance and share:
    counted = before["measure"].str.contains("accuracy|consistency")
    allowed = allowed + share * counted.to_numpy(np.float64)[:, None]
  if not off.size:
    return Outcome(name)
  row, column = divmod(int(np.argmax(off - allowed)), len(columns))
  number = [str(before[key].iloc[row]) for key in keys]
  return Outcome(
    name,
    numbers=int((~np.isnan(a)).sum()),
    failed=int((off > allowed).sum()),
    worst=" ".join([*filter(None, number), str(columns[column])]),
    stored=float(a[row, column]),
    derived=float(b[row, column]),
  )
