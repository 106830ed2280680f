"""Question: how fast is this, against peers and as the work grows?

peers: times our training and measuring and our peers', each in a process of its
own with the same images, weights, batches and cores, a block of one, then a
block of the other, and so on. First blocks (compilation and warm-up) are
reported apart.

accelerator: time to 99 % on MNIST, images a second of 1, 8 and 32 seeds side by
side and what an extra seed costs, beside PyTorch with torch.compile.

scaling: the roofline of this machine with the layers' kernels on it, and how
cost grows with images, transformations, layers, seeds and width.

A ratio above 1 means that ours is faster; its interval is a 95 % t interval of
the log ratio over rounds.

  make bench
  python -m experiments.benchmark --jobs=train --only=PyTorch --rounds=20
  python -m experiments.benchmark --suite=accelerator --data_dir=DIR
  python -m experiments.benchmark --suite=scaling

Expected time: 15 minutes on 2 cores (peers; needs requirements-bench.txt), 10
minutes (scaling), a few on an accelerator; --smoke: under a minute. Expected
numbers: see the README and docs/performance.md, made from what this stores.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli

_OUTPUTS = {
  "peers": "benchmark.json",
  "accelerator": "benchmark-accelerator.json",
  "scaling": "performance",
}

flags.DEFINE_enum("suite", "peers", list(_OUTPUTS), "what to run")
flags.DEFINE_list(
  "jobs",
  ["train", "measure", "overhead", "memory"],
  "of the peers: train, measure (against peers), overhead (of measuring over"
  " the bare network) and memory (of a quick study)",
)
flags.DEFINE_string(
  "only", "", "of the jobs: lines whose name or peer contains this word"
)
flags.DEFINE_list(
  "parts",
  ["roofline", "train", "measure"],
  "of scaling: roofline, and how train and measure grow, or one of their axes"
  " as train:width",
)
flags.DEFINE_integer(
  "rounds", 12, "timed blocks of each side, 5 or more", lower_bound=1
)
flags.DEFINE_integer("cores", 2, "cores that every side gets", lower_bound=1)
flags.DEFINE_string("data_dir", "", "folder with MNIST, for the accelerator")
flags.DEFINE_bool(
  "smoke", False, "try it out: tiny, on the CPU too, its numbers mean nothing"
)
flags.DEFINE_bool("redraw", False, "of scaling: only redraw the stored tables")
flags.DEFINE_string(
  "output",
  "",
  "file, or folder of scaling, to write; by default in results/, or in"
  " results/smoke/ with --smoke",
)


def main() -> None:
  """Runs a suite, prints its table and then the path of what it wrote."""
  given = flags.FLAGS
  folder = Path("results", "smoke") if given.smoke else Path("results")
  path = Path(given.output or folder / _OUTPUTS[given.suite])
  rounds = 2 if given.smoke and not given["rounds"].present else given.rounds
  if given.suite == "scaling":
    from experiments import scaling

    for line in scaling.run(
      path, given.parts, rounds, smoke=given.smoke, redraw=given.redraw
    ):
      print(line, flush=True)
  else:
    _write_rows(path, rounds)
  print(path)


def _write_rows(path: Path, rounds: int) -> None:
  """Stores each line when it is there; prints all of them as one table."""
  from experiments import pairing, store

  store.make_folder(path.parent)
  rows = []
  for row in _rows(rounds):
    print(f"measured: {row['name']}", file=sys.stderr, flush=True)
    rows.append(row)
    store.write_json(path, pairing.merged(path, rows))
  print(pairing.table(rows))


def _rows(rounds: int) -> Iterator[dict[str, Any]]:
  from experiments import accelerator, benchmarking

  given = flags.FLAGS
  if given.suite == "accelerator":
    yield from accelerator.run(rounds, given.data_dir, smoke=given.smoke)
    return
  for name in given.jobs:
    yield from benchmarking.run(
      name, rounds, given.cores, only=given.only, smoke=given.smoke
    )


if __name__ == "__main__":
  cli.run(main)
