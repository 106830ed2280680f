"""Question: how fast is this against PyTorch, stock flax and tmeasures?

Times our training and measuring and our peers', each in a process of its own
with the same images, weights, batches and cores, a block of one, then a block
of the other, and so on. A ratio above 1 means that ours is faster; its interval
is a 95 % t interval of the log ratio over rounds. First blocks (compilation and
warm-up) are reported apart.

  make bench
  python -m experiments.benchmark --jobs=train --rounds=20

Expected time: 15 minutes on 2 cores; needs requirements-bench.txt. Expected
numbers: see the README, made from results/benchmark.json.
"""

from pathlib import Path

from absl import flags

from experiments import cli

flags.DEFINE_list(
  "jobs",
  ["train", "measure", "overhead", "memory"],
  "what to run: train, measure (against peers), overhead (of measuring over the"
  " bare network) and memory (of a quick study)",
)
flags.DEFINE_integer("rounds", 12, "timed blocks of each side", lower_bound=2)
flags.DEFINE_integer("cores", 2, "cores that every side gets", lower_bound=1)
flags.DEFINE_string("output", "results/benchmark.json", "file to write")


def main() -> None:
  """Runs the comparisons, prints a line each and writes the table."""
  from experiments import benchmarking, store

  rows = []
  for name in flags.FLAGS.jobs:
    for row in benchmarking.run(name, flags.FLAGS.rounds, flags.FLAGS.cores):
      print(benchmarking.line(row), flush=True)
      rows.append(row)
  path = Path(flags.FLAGS.output)
  store.make_folder(path.parent)
  store.write_json(path, benchmarking.merged(path, rows))
  print(path)


if __name__ == "__main__":
  cli.run(main)
