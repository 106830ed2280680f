"""Question: what do the stored tables show?

Redraws every figure and summary of a study from its stored tables; no network
is loaded and nothing is computed again. Equal tables give equal bytes.

  python -m experiments.report --workdir=results/quick

Expected time: 10 s.
"""

from absl import flags

from experiments import cli

flags.DEFINE_string("workdir", None, "results folder of a study", required=True)


def main() -> None:
  """Redraws a study's figures; prints the path of its results last."""
  from experiments import locks, reporting

  workdir = cli.workdir(flags.FLAGS.workdir)
  reporting.read(workdir)  # or there is nothing to hold a lock of
  with locks.holding(workdir):
    written = reporting.write_report(workdir)
  for path in written:
    print(path)
  print(workdir)


if __name__ == "__main__":
  cli.run(main)
