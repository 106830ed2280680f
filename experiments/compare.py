"""Question: do two studies agree, and does a verdict carry over?

Shows which verdicts differ between two results folders, and which numbers
changed beyond their intervals.

  python -m experiments.compare results/mnist results/fashion_mnist

Expected time: 3 s.
"""

from pathlib import Path

from absl import flags

from experiments import cli

flags.DEFINE_string("csv", "", "also write the whole comparison to this file")


def main(first: str, second: str) -> None:
  """Prints the comparison of two studies."""
  from experiments import comparing, store

  table = comparing.compare(Path(first), Path(second))
  if flags.FLAGS.csv:
    path = Path(flags.FLAGS.csv)
    store.make_folder(path.parent)
    store.write_table(path, table)
  print(comparing.describe(table, first, second), end="")


if __name__ == "__main__":
  cli.run(main, [cli.Positional("A"), cli.Positional("B")])
