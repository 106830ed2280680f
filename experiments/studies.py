"""Running a study: its runs one after another, then its tables and figures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import measuring, reporting, runs, store
from experiments.datasets import Dataset
from experiments.presets import Study
from experiments.progress import Progress
from experiments.runs import Run


def run_study(study: Study, dataset: Dataset, workdir: Path) -> None:
  """Trains and measures what is missing, then writes tables and figures.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder; runs go to `runs/` inside.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder of another study, a damaged file, or a loss that
      is not finite.
  """
  measuring.check(study.measure, dataset)
  cells = [
    runs.make_run(
      workdir / "runs" / runs.run_name(config),
      study.data,
      config,
      study.train,
      dataset,
    )
    for config in study.models
  ]
  work = [
    (
      run,
      runs.missing_seeds(run, study.seeds),
      runs.missing_parts(run, study.seeds, study.measure),
    )
    for run in cells
  ]
  jobs = sum(len(seeds) + len(parts) for _, seeds, parts in work)
  total = sum(
    runs.cost(run, dataset, seeds, study.measure, parts)
    for run, seeds, parts in work
  )
  if jobs:
    with Progress(total, jobs) as bar:
      for run, seeds, parts in work:
        runs.train(run, dataset, seeds, bar)
        runs.measure(run, dataset, study.measure, parts, bar)
  collect(cells, study, dataset, workdir)


def collect(
  cells: Sequence[Run], study: Study, dataset: Dataset, workdir: Path
) -> None:
  """Joins the runs' tables and draws the figures from the joined ones."""
  tables = [runs.join(run, study.seeds) for run in cells]
  curves = [
    pd.DataFrame(
      [
        run.columns | m
        for m in run.folder.metrics()
        if m["seed"] in study.seeds
      ]
    )
    for run in cells
  ]
  store.write_table(
    workdir / "measurements.parquet", pd.concat(tables, ignore_index=True)
  )
  store.write_table(workdir / "training.csv", pd.concat(curves))
  provenance = store.provenance(dataset.provenance)
  store.write_json(
    workdir / "provenance.json", provenance | {"study": _describe(study, cells)}
  )
  reporting.write_report(workdir)


def _describe(study: Study, cells: Sequence[Run]) -> dict[str, Any]:
  """The study's flags and how long it took, without the path of the data."""
  data = dataclasses.asdict(study.data)
  data.pop("data_dir")
  models = [
    dataclasses.asdict(run.config)
    | {
      "run": run.name,
      "parameters": sum(run.model.parameter_counts(study.data.canvas).values()),
      "seconds": run.folder.seconds(),
    }
    for run in cells
  ]
  return {
    "preset": study.preset,
    "data": data,
    "models": models,
    "train": dataclasses.asdict(study.train),
    "measure": dataclasses.asdict(study.measure),
    "seeds": list(study.seeds),
  }
