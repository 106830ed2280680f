"""Run by test_shared.py as two processes: trains two runs, measures one."""

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from experiments import cli, config, datasets, runs, training
from experiments.checkpoints import Checkpoints
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.progress import Progress
from experiments.run_folder import STAGES

DATA = DataConfig(train_examples=256, test_examples=96)
MODEL = ModelConfig(model="mlp", depth=1, width=8)
TRAIN = TrainConfig(epochs=2, batch_size=60, strategy="loop")
MEASURE = MeasureConfig(
  transforms="rotation:15", shift_map="", measure_examples=11
)
# One seed a process; three seeds, of which each has half of every batch.
SEEDS = {"seeds": [0, 1], "batches": [0, 1, 2]}


def main() -> None:
  """Trains and measures what is missing in --workdir."""
  if flags.FLAGS.log:
    _watch(Path(flags.FLAGS.log), flags.FLAGS.die_after)
  do(Path(flags.FLAGS.workdir))


def _watch(log: Path, die_after: int) -> None:
  """Keeps every epoch, logs it, and kills this process after one of them."""
  patch = pytest.MonkeyPatch()
  make_trainer, kept = training.make_trainer, 0

  class Watched(Checkpoints):
    def save(self, seeds: Any, epochs: int, state: Any, metrics: Any) -> None:
      nonlocal kept
      super().save(seeds, epochs, state, metrics)
      kept += 1
      if kept == die_after:
        os.kill(os.getpid(), signal.SIGKILL)

  def counted(*args: Any) -> Any:
    trainer = make_trainer(*args)

    def train_epoch(*args: Any) -> Any:
      with log.open("a") as file:
        file.write("epoch\n")
      return trainer.train_epoch(*args)

    return trainer._replace(train_epoch=train_epoch)

  patch.setattr(training, "make_trainer", counted)
  always = functools.partial(Watched, every=0.0, share=float("inf"))
  patch.setattr(runs, "Checkpoints", always)


def do(workdir: Path) -> None:
  """The same, called."""
  dataset = datasets.load(DATA)
  with Progress(1.0, 1) as bar:
    for name, seeds in SEEDS.items():
      run = runs.make_run(workdir / name, DATA, MODEL, TRAIN, dataset)
      runs.train(run, dataset, runs.missing_seeds(run, seeds), bar)
    run = runs.make_run(workdir / "seeds", DATA, MODEL, TRAIN, dataset)
    # Three networks for two processes: one of them has nothing to do at last.
    parts = runs.missing_parts(run, SEEDS["seeds"], MEASURE)
    runs.measure(run, dataset, MEASURE, parts[:3], bar)
    runs.measure(run, dataset, MEASURE, parts[3:], bar)
    runs.join(run, SEEDS["seeds"])
  assert len(parts) == len(SEEDS["seeds"]) * len(STAGES)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "results folder", required=True)
  flags.DEFINE_string("data_dir", "", "unused")
  flags.DEFINE_string("log", "", "file for a line an epoch; keeps each")
  flags.DEFINE_integer("die_after", 0, "kept epochs, of process 0")
  config.define_flags(config.HostConfig)
  cli.run(main)
