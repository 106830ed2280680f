r"""Question: do published findings about invariance hold in this code?

Runs one published experiment, prints published and obtained numbers side by
side and says, by rules fixed beforehand, which statements are reproduced. What
is complete is not done again. NAME is one of

  red_green         padding leaks absolute position (Kayhan and van Gemert,
                    CVPR 2020)
  aps               polyphase sampling is exactly invariant to circular shifts
                    (Chaman and Dokmanic, CVPR 2021)
  antialias         blurring before sampling makes answers consistent (Zhang,
                    ICML 2019)
  learned_or_built  does pooling's advantage survive training? (Ruderman et
                    al., 2018)
  augmentation      augmentation against architecture (Kauderer-Abrams, 2017;
                    Biscione and Bowers, 2021)
  rot_mnist         group convolutions on rotated MNIST (Cohen and Welling,
                    ICML 2016); needs --dataset=mnist --data_dir=DIR

  python -m experiments.reproduce red_green
  python -m experiments.reproduce rot_mnist --dataset=mnist --data_dir=DIR

Flags that are not given have the experiment's own default, not the one listed
here; a flag that means nothing to an experiment is refused.

Expected time: 2 to 15 minutes each on 2 cores; the output says what a run of
the published size needs.
"""

import importlib

from absl import flags

from experiments import cli, config
from experiments.reproductions import NAMES

flags.DEFINE_string(
  "workdir", "", "results folder; results/reproduce/NAME if empty"
)
config.define_seed_flags(5)
config.define_flags(config.DataConfig, config.TrainConfig)
config.define_flags(
  config.ModelConfig,
  skip=config.attribute_help(config.ModelConfig).keys() - {"width"},
)
config.define_flags(
  config.MeasureConfig,
  skip=config.attribute_help(config.MeasureConfig).keys()
  - {"measure_examples"},
)


def main(name: str) -> None:
  """Runs or resumes an experiment; prints its tables and its folder last."""
  from experiments import locks
  from experiments.reproductions import base, running

  module = importlib.import_module(f"experiments.reproductions.{name}")
  experiment = module.EXPERIMENT
  fields = base.DATA_FIELDS | base.TRAIN_FIELDS | {"width", "measure_examples"}
  changes = {
    field: flags.FLAGS[field].value
    for field in sorted(fields)
    if flags.FLAGS[field].present
  }
  if flags.FLAGS["seeds"].present or flags.FLAGS["seed"].present:
    changes["seeds"] = config.seeds_from_flags()
  settings = base.resized(experiment, changes)
  workdir = cli.workdir(
    flags.FLAGS.workdir or base.default_workdir(experiment, settings)
  )
  with locks.holding(workdir):
    print(running.run(experiment, settings, workdir))
  print(workdir)


if __name__ == "__main__":
  cli.run(main, [cli.Positional("NAME", NAMES)])
