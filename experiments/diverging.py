"""Training whose loss stops being finite: found, named, and lived with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.errors import ExperimentError

REMEDY = "try a smaller --learning_rate, in another --workdir"


class Divergence(NamedTuple):
  """Where a seed's loss stopped being finite; a line of failures.jsonl.

  Attributes:
    seed: the seed.
    epoch: from 1.
    step: from 1, over all epochs; the epoch's last for the loss of the test.
    learning_rate: the peak of the schedule.
    loss: "inf", "-inf" or "nan": JSON has no such numbers.
    of: "train" or "test", whose loss it was.
  """

  seed: int
  epoch: int
  step: int
  learning_rate: float
  loss: str
  of: str

  def __str__(self) -> str:
    """In the middle of a sentence."""
    return (
      f"the {self.of} loss of seed {self.seed} is {self.loss} at step"
      f" {self.step} (epoch {self.epoch}, learning rate"
      f" {self.learning_rate:g})"
    )


class NonFiniteLossError(ExperimentError):
  """The loss became infinite or NaN."""


def refusal(found: Divergence) -> NonFiniteLossError:
  """What to raise where one seed's failure ends the work."""
  return NonFiniteLossError(
    f"{found}; nothing of this seed is kept; try a smaller --learning_rate"
  )


def find(
  losses: Float[np.ndarray, "seeds steps"],
  test_losses: Float[np.ndarray, " seeds"],
  seeds: Sequence[int],
  epoch: int,
  learning_rate: float,
) -> list[Divergence]:
  """The seeds whose loss is not finite in an epoch, each at its first step.

  Args:
    losses: of every step of the epoch.
    test_losses: after it: the last step's update may be the one that explodes.
    seeds: the seeds.
    epoch: from 1.
    learning_rate: the peak of the schedule.
  """
  result = []
  steps = losses.shape[1]
  for seed, line, test in zip(seeds, losses, test_losses, strict=True):
    bad = np.flatnonzero(~np.isfinite(line))
    if not len(bad) and np.isfinite(test):
      continue
    step, loss = (bad[0] + 1, line[bad[0]]) if len(bad) else (steps, test)
    of = "train" if len(bad) else "test"
    at = (epoch - 1) * steps + int(step)
    result.append(Divergence(seed, epoch, at, learning_rate, str(loss), of))
  return result


def check(found: Mapping[str, Iterable[Divergence]], rest: str) -> None:
  """Raises if a seed failed.

  Args:
    found: failed seeds by the network's name.
    rest: where what did not fail is.

  Raises:
    NonFiniteLossError: one line with how many failed, where and why.
  """
  places = [(name, one) for name, failed in found.items() for one in failed]
  if not places:
    return
  shown = "; ".join(f"{name}: {one}" for name, one in places[:3])
  more = f"; and {len(places) - 3} more" if len(places) > 3 else ""
  failed = "1 training" if len(places) == 1 else f"{len(places)} trainings"
  raise NonFiniteLossError(f"{failed} failed: {shown}{more}; {rest}; {REMEDY}")
