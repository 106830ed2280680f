r"""Question: does the lecture's arithmetic hold for real digits and layers?

Slides a kernel over a digit, compares output sizes and parameters with real
layers, pools, trains the lecture's one-layer network and asks whether its
filters are edge detectors. Leaves one page with its figures and numbers.

  python -m experiments.lecture
  python -m experiments.lecture --dataset=mnist --data_dir=DIR \\
    --workdir=results/lecture-mnist

Expected time: 1 minute on 2 cores with the digits, 3 with MNIST. Expected: the
learned filters are better explained as edges than random ones; see the page.
"""

import dataclasses

from absl import flags

from experiments import cli, config

flags.DEFINE_string("workdir", "results/lecture", "results folder")
config.define_seed_flags(5)
config.define_flags(config.DataConfig, config.TrainConfig)


def main() -> None:
  """Trains, computes, draws; prints every number and the page last."""
  from experiments import datasets, lecture_page, locks, store

  data = config.from_flags(config.DataConfig)
  train = config.from_flags(config.TrainConfig)
  seeds = config.seeds_from_flags()
  dataset = datasets.load(data)
  if not flags.FLAGS["epochs"].present and data.dataset == "digits":
    train = dataclasses.replace(train, epochs=20)  # it has few images
  workdir = cli.workdir(flags.FLAGS.workdir)
  with locks.holding(workdir):
    arrays, numbers = lecture_page.compute(workdir, data, train, seeds, dataset)
    provenance = store.provenance(dataset.provenance)
    provenance["lecture"] = {
      "dataset": data.dataset,
      "train_examples": len(dataset.train.labels),
      "epochs": train.epochs,
      "seeds": list(seeds),
    }
    page = lecture_page.write(workdir, arrays, numbers, provenance)
  for line in numbers.to_dict("records"):
    print(f"{line['section']}: {line['quantity']}: {lecture_page.shown(line)}")
  print(page)


if __name__ == "__main__":
  cli.run(main)
