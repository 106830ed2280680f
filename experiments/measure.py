"""Question: how invariant and equivariant is each layer of a network?

Of a trained run: measures the parameters in its folder, before and after
training, into its measurements.parquet. What is measured already with the same
flags is not measured again.

  python -m experiments.measure --workdir=runs/max --transforms=rotation:15/45

Of a network of your own, or of activations of one (see docs/own_models.md):

  python -m experiments.measure --workdir=out --model=my.py:make --images=my.npz
  python -m experiments.measure --workdir=out --activations=my.npz

Expected time: about a minute a seed on 2 cores for depth 3, width 32.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from experiments import cli, config
from experiments.errors import ExperimentError, UsageError

if TYPE_CHECKING:
  import pandas as pd

flags.DEFINE_string(
  "workdir", None, "run folder to measure, or folder to write", required=True
)
flags.DEFINE_string("data_dir", "", "where a run's images are now, if moved")
flags.DEFINE_string("model", "", "measure this network, FILE.py:FUNCTION")
flags.DEFINE_string("images", "", "its images: .npz, .npy or folder of PNGs")
flags.DEFINE_string("activations", "", "measure the activations in this .npz")
flags.DEFINE_string("layout", "NHWC", "of the activations, NHWC or NCHW")
flags.DEFINE_string("output", "", "which activations are the network's output")
config.define_flags(config.MeasureConfig, config.HostConfig)

# Flags that mean something only beside another, and those that mean nothing.
_NEEDS = {
  "model": "images",
  "images": "model",
  "layout": "activations",
  "output": "activations",
}
_EXCLUDES = {
  "model": ("activations", "data_dir", "coordinator"),
  "activations": (
    "data_dir",
    "shift_map",
    "diagonal",
    "measure_examples",
    "coordinator",
  ),
}


def main() -> None:
  """Measures a run or the user's own; prints the table's path last."""
  given = {name for name in flags.FLAGS if flags.FLAGS[name].present}
  for name, other in _NEEDS.items():
    if name in given and other not in given:
      raise UsageError(f"--{name} needs --{other}")
  for name, others in _EXCLUDES.items():
    for other in others:
      if name in given and other in given:
        raise UsageError(f"--{other} means nothing with --{name}: leave it out")
  if given & {"model", "activations"}:
    _measure_own(given)
  else:
    _measure_run()


def _measure_own(given: set[str]) -> None:
  """Measures a network or activations of the user's."""
  from experiments import (
    locks,
    user_activations,
    user_images,
    user_measuring,
    user_models,
  )

  values = flags.FLAGS
  workdir = cli.workdir(values.workdir)
  user_measuring.check_workdir(workdir)
  wanted = config.from_flags(config.MeasureConfig)
  by_name = "measures" in given and wanted.measures != "all"
  if values.activations:
    measured = user_activations.measure_activations(
      Path(values.activations),
      wanted,
      layout=values.layout,
      output=values.output,
      by_name=by_name,
      orbit_known="transforms" in given,
    )
  else:
    images = user_images.load(Path(values.images))
    if "measure_examples" not in given:
      count = min(wanted.measure_examples, len(images.images))
      wanted = dataclasses.replace(wanted, measure_examples=count)
    measured = user_measuring.measure_model(
      user_models.load(values.model), images, wanted, by_name=by_name
    )
  for line in measured.warnings:
    cli.warn(line)
  with locks.holding(workdir):
    path = user_measuring.write(measured, workdir)
  print(user_measuring.compact(measured.table))
  print(path)


def _measure_run() -> None:
  """Measures what is missing of a trained run."""
  from analysis.statistics import summarize
  from experiments import locks, reporting, runs

  path = cli.workdir(flags.FLAGS.workdir)
  wanted = config.from_flags(config.MeasureConfig)
  runs.read_configs(path)  # or there is nothing to hold a lock of
  with locks.holding(path):
    table = _measure_missing(path, wanted)
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
  print(path / "measurements.parquet")


def _measure_missing(
  path: Path, wanted: config.MeasureConfig
) -> "pd.DataFrame":
  """The table of a run, with what was missing of it."""
  from experiments import datasets, diverging, measuring, runs
  from experiments.progress import Progress

  data, architecture, train = runs.read_configs(path)
  if flags.FLAGS.data_dir:
    data = dataclasses.replace(data, data_dir=flags.FLAGS.data_dir)
  dataset = datasets.load(data)
  measuring.check(wanted, dataset)
  run = runs.make_run(path, data, architecture, train, dataset)
  measuring.check_memory(
    wanted, run.model, data.canvas, len(dataset.test.labels)
  )
  seeds = run.folder.trained_seeds()
  failed = {run.name: run.folder.failures()}
  if not seeds:
    diverging.check(failed, "nothing is left to measure")
    raise ExperimentError(
      f"{path} holds no trained seed: run python -m experiments.train first"
    )
  for part in runs.missing_parts(run, seeds, wanted, claim=False):
    runs.load_params(run, dataset, part)  # or it stops here, not half-way
  parts = runs.missing_parts(run, seeds, wanted)
  if parts:
    total = runs.expected_seconds(run, dataset, [], wanted, parts)
    with Progress(total, len(parts)) as bar:
      runs.measure(run, dataset, wanted, parts, bar)
  for found in failed[run.name]:
    cli.warn(f"left out, because its training failed: {found}")
  return runs.join(run, seeds)


if __name__ == "__main__":
  cli.run(main)
