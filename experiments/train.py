r"""Question: does this architecture learn, and what are its parameters?

Trains one architecture with several seeds into a run folder, which
`python -m experiments.measure` then measures. Seeds that are there already are
not trained again.

  python -m experiments.train --workdir=runs/max --pooling=max --depth=3 \\
    --dataset=mnist --data_dir=DIR --seeds=3

Expected, for depth 3, width 32, max pooling and 5 epochs of all of MNIST: 75 s
a seed on 2 cores, test accuracy 99.3 % (interval in the README).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from experiments import cli, config

if TYPE_CHECKING:
  from experiments.datasets import Dataset

flags.DEFINE_string("workdir", None, "run folder to write to", required=True)
config.define_seed_flags(1)
config.define_flags(
  config.DataConfig,
  config.ModelConfig,
  config.TrainConfig,
  config.HostConfig,
)


def main() -> None:
  """Trains the seeds that are missing; prints the run folder last."""
  from experiments import datasets, locks

  workdir = cli.workdir(flags.FLAGS.workdir)
  data = config.from_flags(config.DataConfig)
  seeds = config.seeds_from_flags()
  dataset = datasets.load(data)
  with locks.holding(workdir):
    _train(workdir, data, seeds, dataset)


def _train(
  workdir: Path,
  data: config.DataConfig,
  seeds: Sequence[int],
  dataset: "Dataset",
) -> None:
  from experiments import diverging, runs
  from experiments.config import MeasureConfig
  from experiments.progress import Progress

  run = runs.make_run(
    workdir,
    data,
    config.from_flags(config.ModelConfig),
    config.from_flags(config.TrainConfig),
    dataset,
  )
  missing = runs.missing_seeds(run, seeds)
  if missing:
    total = runs.expected_seconds(run, dataset, missing, MeasureConfig(), [])
    with Progress(total, len(missing)) as bar:
      runs.train(run, dataset, missing, bar)
  for line in run.folder.metrics():
    if line["epoch"] == run.train.epochs:
      print(
        f"seed {line['seed']}: test accuracy {line['test_accuracy']:.4f}, loss"
        f" {line['test_loss']:.4f}, {line['images_per_second']:.0f} images/s"
      )
  diverging.check(
    {run.name: runs.failures(run, seeds)},
    f"what did not fail is in {run.folder.path}",
  )
  print(run.folder.path)


if __name__ == "__main__":
  cli.run(main)
