"""A real tiny study as a process of its own, to be killed.

  python -m tests.experiments.killed_study WORKDIR LOG [POINT]

Every epoch trained, seed stored and part stored is a line of LOG. With POINT,
the process kills itself there, as in epoch:2, before anything is kept of the
second epoch. STRATEGY and CELLS in the environment say what is run.
"""

import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import compilations, interrupts, presets
from experiments.presets import Cell, Study

EPOCHS = 3
SEEDS = (0, 1)
CELLS = (
  Cell("pooled", {"model": "mlp", "depth": 1, "width": 8}),
  Cell("unpooled", {"model": "mlp", "depth": 1, "width": 6}),
)


def study(strategy: str, cells: int) -> Study:
  """One or two networks of two seeds, on few images."""
  changes = {
    **{"epochs": EPOCHS, "train_examples": 200, "test_examples": 60},
    **{"transforms": "rotation:15", "shift_map": "", "diagonal": 0},
    **{"measures": "invariance_error", "measure_examples": 8},
    **{"strategy": strategy, "seeds": SEEDS},
  }
  built = presets.build("quick", changes)
  return dataclasses.replace(built, cells=CELLS[:cells], overview=("pooled",))


def main(workdir: Path, log: Path, point: str) -> None:
  """Runs or resumes the study."""
  from experiments import (
    checkpoints,
    datasets,
    reporting,
    run_folder,
    runs,
    store,
    studies,
    training,
  )

  kind, _, number = point.partition(":")
  seen: dict[str, int] = {}

  def reach(what: str, **details: Any) -> None:
    with log.open("a") as file:
      file.write(f"{what} {' '.join(map(str, details.values()))}\n")
    seen[what] = seen.get(what, 0) + 1
    if what == kind and seen[what] == int(number):
      os.kill(os.getpid(), signal.SIGKILL)

  def told(function: Callable, before: str = "", after: str = "") -> Callable:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
      # Paths and arrays are left out: of a folder, seeds and stages.
      details = [a for a in args if isinstance(a, int | str)]
      where = getattr(args[0], "path", "") and args[0].path.name
      if before:
        reach(before, where=where, details=details)
      result = function(*args, **kwargs)
      if after:
        reach(after, where=where, details=details)
      return result

    return call

  folder = run_folder.RunFolder
  folder.add_seed = told(folder.add_seed, after="seed")
  folder.add_part = told(folder.add_part, "measured", "part")
  store.save_params = told(store.save_params, before="params")
  studies.networks = told(studies.networks, before="collect")
  make_trainer = training.make_trainer

  def counted(*args: Any) -> Any:
    trainer = make_trainer(*args)
    return trainer._replace(train_epoch=told(trainer.train_epoch, "", "epoch"))

  patch = pytest.MonkeyPatch()
  patch.setattr(training, "make_trainer", counted)
  # Every epoch is kept, however short; drawing takes long and is tested.
  always = functools.partial(
    checkpoints.Checkpoints, every=0.0, share=float("inf")
  )
  patch.setattr(runs, "Checkpoints", always)
  patch.setattr(reporting, "_draw", lambda *args: {})
  planned = study(os.environ["STRATEGY"], int(os.environ["CELLS"]))
  studies.run_study(planned, datasets.load(planned.data), workdir)


if __name__ == "__main__":
  folder, log, *rest = sys.argv[1:]
  with interrupts.ending_soon():
    compilations.keep()
    main(Path(folder), Path(log), rest[0] if rest else "")
