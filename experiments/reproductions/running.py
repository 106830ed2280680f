"""Running an experiment: what is done is kept, what is missing is done.

config.json       the settings, which a second run must share
cells/NAME/       seed0.json, ...: the values of one cell and seed
results.csv       one row a value
summary.csv       published values beside ours: mean, interval, n
claims.csv        each statement, its rule and the outcome
summary.md        what is printed
provenance.json   versions, devices, commit, data, settings, seconds
"""

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import checks, checksums, cli, store
from experiments.datasets import Dataset
from experiments.errors import ExperimentError
from experiments.progress import Progress
from experiments.reproductions import tables
from experiments.reproductions.base import (
  Experiment,
  Results,
  SeedValues,
  Settings,
)

COLUMNS = ("cell", "stage", "condition", "measure", "seed", "value")


def run(experiment: Experiment, settings: Settings, workdir: Path) -> str:
  """Runs what is missing and writes the tables.

  Args:
    experiment: the experiment.
    settings: its size.
    workdir: the results folder.

  Returns:
    The tables as Markdown.

  Raises:
    UsageError: settings that cannot be run.
    ExperimentError: a folder of other settings, a damaged file, or a loss that
      is not finite.
  """
  images = experiment.load(settings)
  if isinstance(images, Dataset):
    checks.check_training(settings.train, len(images.train.labels))
  else:  # these have a size and an optimizer of their own
    checks.check_sizes(settings.train, max(settings.train.batch_size, 1))
  cells = experiment.cells(settings, images)
  _claim(workdir, experiment, settings, images.provenance)
  whole = checksums.Sums(workdir).whole
  missing = {
    name: [s for s in settings.seeds if not whole(_part(workdir, name, s))]
    for name in cells
  }
  jobs = sum(map(len, missing.values()))
  # Generators: a cell's network is built and compiled once for all its seeds.
  if jobs:
    with Progress(jobs, jobs) as bar:
      for name, seeds in missing.items():
        if not seeds:
          continue
        values = experiment.run(cells[name], seeds, settings, images)
        for seed in seeds:
          bar.start(f"{experiment.name}, {name}, seed {seed}")
          _keep(workdir, _part(workdir, name, seed), values)
          bar.advance(1)
  return _collect(experiment, list(cells), settings, images, workdir)


def _keep(workdir: Path, path: Path, values: Iterator[SeedValues]) -> None:
  """Waits for the next seed's values and stores them."""
  started = time.perf_counter()
  _, found = next(values)
  seconds = round(time.perf_counter() - started, 1)
  store.write_json(
    path,
    {"seconds": seconds, "values": [v._asdict() for v in found]},
    record=checksums.Sums(workdir).record,
  )


def _part(workdir: Path, cell: str, seed: int) -> Path:
  """Where the values of a cell and seed are."""
  folder = re.sub(r"[^\w.]+", "_", cell)
  return workdir / "cells" / folder / f"seed{seed}.json"


def _described(
  experiment: Experiment, settings: Settings, provenance: Mapping[str, Any]
) -> dict[str, Any]:
  """What cells that may be joined have in common."""
  described = dataclasses.asdict(settings)
  described.pop("seeds")
  described["data"].pop("data_dir")  # the sha256 are what counts
  hashes = {k: v for k, v in provenance.items() if k.endswith("sha256")}
  return {"experiment": experiment.name, "settings": described} | hashes


def _claim(
  workdir: Path,
  experiment: Experiment,
  settings: Settings,
  provenance: Mapping[str, Any],
) -> None:
  """Makes the folder this run's own, or checks that it is.

  Raises:
    ExperimentError: the folder holds cells of other settings or data.
  """
  path, sums = workdir / "config.json", checksums.Sums(workdir)
  cells = sorted((workdir / "cells").glob("*/*.json"))
  ours = _described(experiment, settings, provenance)
  if not path.exists() or not cells:
    store.make_folder(workdir / "cells")
    store.write_json(path, ours, record=sums.record)
    return
  if not sums.exist():
    raise ExperimentError(
      f"{workdir} is of an older format: nothing in it has a checksum; use"
      " another --workdir or remove it"
    )
  for cell in cells:
    if not sums.whole(cell):
      cli.warn(f"{cell} does not match its checksum; it is made again")
  ours, theirs = _flat(ours), _flat(store.read_json(path, read=sums.read))
  for name in sorted(set(ours) | set(theirs)):
    if ours.get(name) != theirs.get(name):
      raise ExperimentError(
        f"{workdir} holds cells with {name}={theirs.get(name)}, not"
        f" {ours.get(name)}: use another --workdir or remove it"
      )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def _collect(
  experiment: Experiment,
  cells: Sequence[str],
  settings: Settings,
  images: Any,
  workdir: Path,
) -> str:
  """Joins the cells and writes what is made of them."""
  records, seconds = [], 0.0
  sums = checksums.Sums(workdir)
  for cell in cells:
    for seed in settings.seeds:
      part = store.read_json(_part(workdir, cell, seed), read=sums.read)
      seconds += part["seconds"]
      records += [{"cell": cell, "seed": seed} | v for v in part["values"]]
  table = pd.DataFrame(records, columns=list(COLUMNS))
  verdicts = [s.judge(Results(table)) for s in experiment.statements]
  summary = tables.summarize(table, experiment.published)
  claims = tables.claims(experiment.statements, verdicts)
  provenance = store.provenance(images.provenance) | {
    "reproduction": {
      **_described(experiment, settings, {}),
      "seeds": list(settings.seeds),
      "seconds": round(seconds, 1),
    }
  }
  text = tables.markdown(experiment, summary, claims, provenance)
  for name, content in (
    ("results", table),
    ("summary", summary),
    ("claims", claims),
  ):
    path = workdir / f"{name}.csv"
    store.write_table(path, tables.rounded(content), record=sums.record)
  path = workdir / "provenance.json"
  store.write_json(path, provenance, record=sums.record)
  store.write_text(workdir / "summary.md", text)
  return text
