"""Question: how far are CNNs invariant, and which claims about it hold?

Trains every cell of a preset, measures every layer before and after training,
judges the claims, and leaves tables, figures and report.html in
results/<preset>/. What is complete is not done again.

  python -m experiments.study --preset=quick
  python -m experiments.study --preset=mnist --data_dir=DIR
  python -m experiments.study --preset=mnist --data_dir=DIR --dry_run

Expected time: see experiments/presets.py.
"""

import dataclasses

from absl import flags

from experiments import cli, config

flags.DEFINE_string(
  "preset", "quick", "which study; see experiments/presets.py"
)
flags.DEFINE_string("workdir", "", "results folder; results/<preset> if empty")
flags.DEFINE_bool(
  "dry_run",
  False,
  "print the cells, what is done and the time expected; nothing is downloaded"
  " or written",
)
config.define_seed_flags(None)
config.define_flags(
  config.DataConfig,
  config.ModelConfig,
  config.TrainConfig,
  config.MeasureConfig,
  config.HostConfig,
  config.LaunchConfig,
  skip=("model", "pooling", "depth"),
)


def main() -> None:
  """Runs or resumes a study; prints the path of its results last."""
  from experiments import datasets, launchers, presets, studies

  launching = config.from_flags(config.LaunchConfig)
  launch, task = launchers.choose(launching), launchers.task(launching)
  changes = {
    field.name: flags.FLAGS[field.name].value
    for cls in (
      config.DataConfig,
      config.ModelConfig,
      config.TrainConfig,
      config.MeasureConfig,
    )
    for field in dataclasses.fields(cls)
    if field.name in flags.FLAGS and flags.FLAGS[field.name].present
  }
  if flags.FLAGS["seeds"].present or flags.FLAGS["seed"].present:
    changes["seeds"] = config.seeds_from_flags()
  study = presets.build(flags.FLAGS.preset, changes)
  workdir = cli.workdir(flags.FLAGS.workdir or presets.default_workdir(study))
  if flags.FLAGS.dry_run:
    outline = datasets.outline(study.data)
    print(studies.dry_run(study, outline, workdir, task))
    return
  dataset = datasets.load(study.data)
  if task is not None:
    print(studies.run_task(study, dataset, workdir, task))
    return
  studies.run_study(study, dataset, workdir, launch)
  print(workdir)


if __name__ == "__main__":
  cli.run(main)
