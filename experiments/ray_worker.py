"""What a worker of a Ray cluster does: one cell, in a folder of its own.

The folder is a copy of the run folder. What changes in it is sent to whoever
asked, so that a worker needs no file system in common with it, and what was
finished before a worker was lost is not lost with it.
"""

import dataclasses
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cells, compilations, mirror, runs, specs, store
from experiments.cells import Planned, Work
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.datasets import Dataset
from experiments.errors import ExperimentError, UsageError
from experiments.runs import Part
from models import platform

_PAUSE = 1.0  # seconds between reports of progress


class Order(NamedTuple):
  """Work as a worker gets it.

  Attributes:
    name: the cell's.
    data: where the images came from.
    model: the architecture.
    train: how it is trained.
    measure: how it is measured.
    seeds: to train.
    parts: to measure.
    files: of the run folder, by path inside it.
    matrices: files that the flags for measuring name, by path as written there.
  """

  name: str
  data: DataConfig
  model: ModelConfig
  train: TrainConfig
  measure: MeasureConfig
  seeds: list[int]
  parts: list[Part]
  files: Mapping[str, bytes]
  matrices: Mapping[str, bytes]


class Report(NamedTuple):
  """What a worker says.

  Attributes:
    kind: changed (value: what changed in the folder), failed (value: the
      error), or a method of `experiments.progress.Bar` (value: its argument).
    value: as above.
  """

  kind: str
  value: Any


def order(work: Work) -> Order:
  """Work to send to a worker."""
  run = work.cell.run
  return Order(
    work.cell.name,
    run.data,
    run.config,
    run.train,
    work.cell.measure,
    work.seeds,
    work.parts,
    mirror.read(run.folder.path),
    specs.files(work.cell.measure.transforms),
  )


def serve(given: Order, dataset: Dataset) -> Iterator[Report]:
  """Does the work, and reports on it meanwhile.

  Args:
    given: what to do.
    dataset: the images.

  Yields:
    Reports, each as soon as something has happened, at most about two a second.
  """
  _set_up()
  reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
  with tempfile.TemporaryDirectory(
    prefix="partial-invariance-", ignore_cleanup_errors=True
  ) as scratch:
    # Work reports through callbacks, Ray through a generator.
    thread = threading.Thread(
      target=_work, args=(given, dataset, Path(scratch), reports), daemon=True
    )
    thread.start()
    while (report := reports.get()) is not None:
      yield report
    thread.join()


def _set_up() -> None:
  """What a command does to its process; see `experiments.cli`."""
  platform.keep_freed_memory()
  compilations.keep("")


def _work(
  given: Order, dataset: Dataset, scratch: Path, reports: queue.SimpleQueue
) -> None:
  try:
    work = _unpack(given, dataset, scratch)
    bar = _Relay(work.cell.run.folder.path, reports)
    _sign(work.cell.run, dataset)
    cells.do(work, dataset, bar)
    bar.flush()
  except Exception as error:
    reports.put(Report("failed", _portable(error)))
  finally:
    reports.put(None)


def _portable(error: Exception) -> Exception:
  """An error that can be sent, and that means the same where it arrives."""
  if isinstance(error, UsageError | ExperimentError):
    kind = UsageError if isinstance(error, UsageError) else ExperimentError
    return kind(str(error))
  if isinstance(error, OSError):
    return ExperimentError(f"a worker failed: {error}")
  # Not every error can be sent, and none takes its traceback along.
  return RuntimeError(f"a worker failed:\n{traceback.format_exc()}")


def _unpack(given: Order, dataset: Dataset, scratch: Path) -> Work:
  """The work, with its files in folders here."""
  for i, (name, content) in enumerate(given.matrices.items()):
    store.write_bytes(scratch / str(i) / Path(name).name, content)
  places = {
    name: str(scratch / str(i) / Path(name).name)
    for i, name in enumerate(given.matrices)
  }
  transforms = specs.with_files_at(given.measure.transforms, places)
  folder = scratch / "run"
  folder.mkdir()
  mirror.apply(folder, mirror.Changes(dict(given.files), []))
  run = runs.make_run(
    folder, given.data, given.model, given.train, dataset, claim=False
  )
  measure = dataclasses.replace(given.measure, transforms=transforms)
  return Work(Planned(given.name, run, measure), given.seeds, given.parts)


def _sign(run: runs.Run, dataset: Dataset) -> None:
  """Says what machine computes the run, unless another one began it.

  The source here is a copy outside of git: its commit is the sender's.
  """
  if run.folder.holds_work() or run.folder.failures():
    return
  path = run.folder.path / "provenance.json"
  commit = store.read_json(path)["git_commit"]
  own = store.provenance(dataset.provenance) | {"git_commit": commit}
  store.write_json(path, own, record=run.folder.sums.record)


class _Relay:
  """A bar that tells another one far away, and sends what was written."""

  def __init__(self, folder: Path, reports: queue.SimpleQueue) -> None:
    self._mirror = mirror.Mirror(folder)
    self._reports = reports
    self._advanced = 0.0
    self._sent = time.monotonic()

  def start(self, what: str) -> None:
    self.flush()
    self._reports.put(Report("start", what))

  def compiling(self, cost: float) -> None:
    self._reports.put(Report("compiling", cost))

  def advance(self, cost: float) -> None:
    self._advanced += cost
    if time.monotonic() - self._sent > _PAUSE:
      self.flush()

  def flush(self) -> None:
    """Sends the work done and the files written since the last time."""
    self._sent = time.monotonic()
    if self._advanced:
      self._reports.put(Report("advance", self._advanced))
      self._advanced = 0.0
    changes = self._mirror.changes()
    if changes.written or changes.removed:
      self._reports.put(Report("changed", changes))
