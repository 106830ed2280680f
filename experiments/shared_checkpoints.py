"""Checkpoints of training that several processes share.

Process 0 keeps them: it alone sees the run folder. What it finds there and
decides it tells the others, in the order in which training asks for it, which
is the same in all processes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from experiments import checkpoints
from experiments.checkpoints import Checkpoint, Checkpoints
from experiments.team import Message, Team


class SharedCheckpoints:
  """As `Checkpoints`, for `training.train` in every process of a team."""

  def __init__(self, team: Team, kept: Checkpoints | None = None) -> None:
    """Shares the checkpoints that process 0 keeps.

    Args:
      team: the processes.
      kept: where they are, in process 0.
    """
    self._team = team
    self._kept = kept

  def groups(self, seeds: Sequence[int], at_once: int) -> list[list[int]]:
    """How to go on: the seeds that are trained together."""
    return self._told(lambda kept: kept.groups(seeds, at_once))

  def load(self, seeds: Sequence[int], like: Any) -> Checkpoint | None:
    """Where some seeds stand, with a state like that one."""
    message = self._agreed(lambda kept: _packed(kept.find(seeds, like)))
    about = message.about["said"]
    if about is None:
      return None
    leaves = [message.arrays[f"leaf{i}"] for i in range(len(message.arrays))]
    return checkpoints.placed(Checkpoint(**about, state=leaves), like)

  def due(self) -> bool:
    """Whether enough was done since the last one to write another."""
    return self._told(lambda kept: kept.due())

  def save(self, *state: Any) -> None:
    """Keeps where some seeds stand; all have taken part in fetching it."""
    if self._kept is not None:
      self._kept.save(*state)

  def drop(self, seeds: Sequence[int]) -> None:
    """Forgets seeds that are complete, or have failed."""
    if self._kept is not None:
      self._kept.drop(seeds)

  def _told(self, ask: Callable[[Checkpoints], Any]) -> Any:
    """What process 0 answers, in all of them."""
    return self._agreed(lambda kept: _message(ask(kept))).about["said"]

  def _agreed(self, ask: Callable[[Checkpoints], Message]) -> Message:
    if self._kept is None:
      return self._team.hear()
    message = ask(self._kept)
    self._team.tell(message.about, **message.arrays)
    return message


def _message(said: Any) -> Message:
  return Message({"kind": "checkpoints", "said": said}, {})


def _packed(found: Checkpoint | None) -> Message:
  """Where seeds stand, its state beside it."""
  if found is None:
    return _message(None)
  about = found._asdict()
  leaves = {f"leaf{i}": leaf for i, leaf in enumerate(about.pop("state"))}
  return _message(about)._replace(arrays=leaves)
