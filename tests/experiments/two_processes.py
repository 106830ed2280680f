"""Run by test_shared.py as two processes: trains two runs, measures one."""

from pathlib import Path

from absl import flags

from experiments import cli, config, datasets, runs
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
  do(Path(flags.FLAGS.workdir))


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
  config.define_flags(config.HostConfig)
  cli.run(main)
