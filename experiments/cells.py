"""The cells of a study: planned, costed, shared out, and done one by one.

However a study is run, by one process, by array tasks or by a cluster's
workers, each cell is done by `do`.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import building, locks, measuring, runs
from experiments.config import MeasureConfig, ModelConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.errors import UsageError
from experiments.presets import Cell, Study, changed
from experiments.progress import Bar
from experiments.run_folder import STAGES
from experiments.runs import Part, Run
from models import zoo


class Planned(NamedTuple):
  """A cell with all its flags, and its run.

  Attributes:
    name: the cell's.
    run: the run.
    measure: how it is measured.
  """

  name: str
  run: Run
  measure: MeasureConfig


class Work(NamedTuple):
  """What is left to do of a cell."""

  cell: Planned
  seeds: list[int]
  parts: list[Part]


class Task(NamedTuple):
  """One of several processes that share a study's cells.

  Attributes:
    index: which, from 0.
    count: how many there are.
  """

  index: int
  count: int


def plan(study: Study, dataset: Dataset, workdir: Path) -> list[Planned]:
  """Every cell with all its flags; nothing is written.

  Args:
    study: what to run.
    dataset: the images.
    workdir: the results folder.

  Returns:
    The cells.

  Raises:
    UsageError: flags that do not fit each other or the data.
  """
  cells: list[Planned] = []
  for cell in study.cells:
    measure = changed(study.measure, cell.measure)
    measuring.check(measure, dataset)
    train: TrainConfig = changed(study.train, cell.train)
    model = _architecture(cell, study, cells, dataset)
    path = workdir / "runs" / runs.run_name(model, train)
    run = runs.make_run(path, study.data, model, train, dataset, claim=False)
    measuring.check_memory(
      measure, run.model, study.data.canvas, len(dataset.test.labels)
    )
    cells.append(Planned(cell.name, run, measure))
  _check_names(cells)
  return cells


def _check_names(cells: Sequence[Planned]) -> None:
  """Two cells that share a folder would undo each other's measurements.

  Raises:
    UsageError: flags that make two cells the same network.
  """
  names: dict[Path, str] = {}
  for cell in cells:
    other = names.setdefault(cell.run.folder.path, cell.name)
    if other != cell.name:
      raise UsageError(
        f"with these flags the cells {other!r} and {cell.name!r} are the same"
        f" network, {cell.run.name}: leave them as the preset has them"
      )


def _architecture(
  cell: Cell, study: Study, before: Sequence[Planned], dataset: Dataset
) -> ModelConfig:
  """The cell's architecture; its width, where it is to match another cell's.

  Raises:
    UsageError: no width matches.
  """
  model: ModelConfig = changed(study.model, cell.model)
  if not cell.match:
    return model
  other = next(p.run for p in before if p.name == cell.match)
  channels = dataset.train.images.shape[-1]

  def maker(width: int) -> zoo.Model:
    return building.build_model(
      dataclasses.replace(model, width=width),
      num_classes=dataset.num_classes,
      canvas=study.data.canvas,
    )

  counts = other.model.parameter_counts(study.data.canvas, channels)
  try:
    width = zoo.matched_width(
      maker,
      sum(counts.values()),
      canvas=study.data.canvas,
      channels=channels,
    )
  except ValueError as error:
    raise UsageError(f"cell {cell.name!r}: {error}") from error
  return dataclasses.replace(model, width=width)


def missing(
  cells: Sequence[Planned], seeds: Sequence[int], *, claim: bool = True
) -> list[Work]:
  """What is left to do, cell by cell.

  Args:
    cells: those to do.
    seeds: those wanted of each.
    claim: whether to drop measurements made with other flags; without, nothing
      is written.
  """
  return [
    Work(
      cell,
      runs.missing_seeds(cell.run, seeds),
      runs.missing_parts(cell.run, seeds, cell.measure, claim=claim),
    )
    for cell in cells
  ]


def claim(cells: Sequence[Planned], dataset: Dataset) -> None:
  """Makes the folders of the cells' runs their own.

  Raises:
    ExperimentError: a folder in use, or of a run with other flags or data.
  """
  for cell in cells:
    with locks.holding(cell.run.folder.path):
      runs.claim_folder(cell.run, dataset)


def still_missing(work: Work) -> Work:
  """What is left to do of work that was begun."""
  seeds = sorted({*work.seeds, *(seed for seed, _ in work.parts)})
  (left,) = missing([work.cell], seeds, claim=False)
  return left


def jobs(work: Work) -> int:
  """Seeds to train, and seeds and stages to measure."""
  return len(work.seeds) + len(work.parts)


def cost(work: Work, dataset: Dataset) -> float:
  """About how many seconds it will take."""
  cell = work.cell
  return runs.expected_seconds(
    cell.run, dataset, work.seeds, cell.measure, work.parts
  )


def do(work: Work, dataset: Dataset, bar: Bar) -> None:
  """Does all that is left to do of a cell.

  Args:
    work: the cell and what is left.
    dataset: the images.
    bar: what shows how far it is.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder in use, a damaged file, or a loss that is not
      finite.
  """
  run = work.cell.run
  with locks.holding(run.folder.path):
    runs.train(run, dataset, work.seeds, bar)
    runs.measure(run, dataset, work.cell.measure, work.parts, bar)


def share(
  planned: Sequence[Planned], study: Study, dataset: Dataset, task: Task
) -> list[Planned]:
  """A task's share of a study's cells.

  By the cost of whole cells, whatever is done already: tasks that start one
  after another must find the same shares.

  Args:
    planned: the cells of the study.
    study: whose seeds are to be done.
    dataset: the images.
    task: which share.

  Returns:
    The cells, in the study's order; none where there are more tasks than cells.
  """
  parts = [(seed, stage) for seed in study.seeds for stage in STAGES]
  costs = [cost(Work(c, list(study.seeds), parts), dataset) for c in planned]
  return [planned[i] for i in shares(costs, task.count)[task.index]]


def shares(costs: Sequence[float], count: int) -> list[list[int]]:
  """Work divided among tasks, about equally by its cost.

  The dearest first, each to the task that has least (Graham's rule: the
  longest share is at most 4/3 of the shortest possible).

  Args:
    costs: of each piece of work.
    count: number of tasks.

  Returns:
    A share a task, as sorted indices: disjoint, together all.
  """
  tasks = [(0.0, task) for task in range(count)]  # a heap: least cost first
  chosen: list[list[int]] = [[] for _ in tasks]
  for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
    total, task = heapq.heappop(tasks)
    chosen[task].append(i)
    heapq.heappush(tasks, (total + costs[i], task))
  return [sorted(indices) for indices in chosen]
