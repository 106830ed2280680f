"""Question: do the stored numbers follow from the stored parameters?

Derives a sample of the numbers in a run folder, or in all runs of a study,
again: the test of a trained seed, or all rows of a network under one orbit.
Compares every joined table with its parts. Prints a line for each: how many
numbers, and the one farthest off as stored and as derived.

  python -m experiments.verify runs/max
  python -m experiments.verify results/quick --sample=20

On the same machine, with the same versions, NPROC and commit, numbers must be
equal to the last bit; else to 1e-4 (docs/reproducibility.md). Exit code 0 if
all hold, 1 if some do not. Expected time: half a minute for the default sample.
"""

from pathlib import Path

from absl import flags

from experiments import cli
from experiments.errors import ExperimentError

flags.DEFINE_integer(
  "sample",
  6,
  "how many tests and orbits to derive again; 0 for all",
  lower_bound=0,
)
flags.DEFINE_integer("sample_seed", 0, "of the choice of these", lower_bound=0)
flags.DEFINE_string("data_dir", "", "where the images are now, if moved")


def main(folder: str) -> None:
  """Prints what holds and what does not."""
  from experiments import verifying

  path = Path(folder)
  found = verifying.read(path, flags.FLAGS.data_dir)
  everything = [item for stored in found for item in verifying.items(stored)]
  chosen = verifying.sample(
    everything, flags.FLAGS.sample, flags.FLAGS.sample_seed
  )
  other = sorted({name for stored in found for name in stored.other})
  print(
    f"{len(chosen)} of {len(everything)} tests and orbits, "
    + (f"to 1e-4: {', '.join(other)} differ" if other else "to the last bit")
  )
  outcomes = []
  for outcome in verifying.outcomes(path, found, chosen):
    print(verifying.line(outcome), flush=True)
    outcomes.append(outcome)
  failed = [outcome for outcome in outcomes if not outcome.holds]
  if failed:
    raise ExperimentError(
      f"{len(failed)} of {len(outcomes)} do not hold:"
      f" {'; '.join(outcome.name for outcome in failed)}"
    )
  numbers = sum(outcome.numbers for outcome in outcomes)
  print(f"all {numbers:,} numbers hold")


if __name__ == "__main__":
  cli.run(main, [cli.Positional("RUN")])
