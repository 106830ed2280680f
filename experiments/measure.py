"""Question: how invariant and equivariant is each layer of a trained run?

Measures the parameters in a run folder, before and after training, into its
measurements.parquet. What is measured already with the same flags is not
measured again.

  python -m experiments.measure --workdir=runs/max --transforms=rotation:15/45

Expected time: about a minute a seed on 2 cores for depth 3, width 32.
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments import cli, config

flags.DEFINE_string("workdir", None, "run folder to measure", required=True)
flags.DEFINE_string("data_dir", "", "where the images are now, if they moved")
config.define_flags(config.MeasureConfig)


def main() -> None:
  """Measures what is missing; prints the table's path last."""
  from analysis.statistics import summarize
  from experiments import datasets, measuring, reporting, runs
  from experiments.errors import ExperimentError
  from experiments.progress import Progress

  path = Path(flags.FLAGS.workdir)
  wanted = config.from_flags(config.MeasureConfig)
  data, architecture, train = runs.read_configs(path)
  if flags.FLAGS.data_dir:
    data = dataclasses.replace(data, data_dir=flags.FLAGS.data_dir)
  dataset = datasets.load(data)
  measuring.check(wanted, dataset)
  run = runs.make_run(path, data, architecture, train, dataset)
  seeds = run.folder.trained_seeds()
  if not seeds:
    raise ExperimentError(
      f"{path} holds no trained seed: run python -m experiments.train first"
    )
  parts = runs.missing_parts(run, seeds, wanted)
  if parts:
    total = runs.cost(run, dataset, [], wanted, parts)
    with Progress(total, len(parts)) as bar:
      runs.measure(run, dataset, wanted, parts, bar)
  table = runs.join(run, seeds)
  lost = reporting.lost_intensity(table)
  if lost:
    cli.warn(lost)
  summary = summarize(table)
  last = summary[summary["layer"].isin(["logits", "output"])]
  columns = ["stage", "layer", "transform", "dose", "unit", "measure", "mean"]
  columns += ["low", "high", "n_seeds"]
  print(
    last[last["orbit"] == last["transform"]][columns].to_string(index=False)
  )
  print(run.folder.path / "measurements.parquet")


if __name__ == "__main__":
  cli.run(main)
