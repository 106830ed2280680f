"""Checkpoints of training that several processes share.

Process 0 keeps them: it alone sees the run folder. What it finds there and
decides it tells the others, in the order in which training asks for it, which
is the same in all processes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import checkpoints
from experiments.checkpoints import Checkpoint, Checkpoints
from experiments.team import Team


class Leading:
  """The checkpoints as process 0 sees them; a `checkpoints.Keeper`."""

  def __init__(self, kept: Checkpoints, team: Team) -> None:
    """Keeps them for a team.

    Args:
      kept: where they are.
      team: the processes.
    """
    self._kept = kept
    self._team = team

  def groups(self, seeds: Sequence[int], at_once: int) -> list[list[int]]:
    """How to go on: the seeds that are trained together."""
    groups = self._kept.groups(seeds, at_once)
    self._team.tell({"kind": "groups", "groups": groups})
    return groups

  def load(self, seeds: Sequence[int], like: Any) -> Checkpoint | None:
    """Where some seeds stand, with a state like that one."""
    found = self._kept.find(seeds, like)
    if found is None:
      self._team.tell({"kind": "begin"})
      return None
    about = found._asdict()
    leaves = {f"leaf{i}": leaf for i, leaf in enumerate(about.pop("state"))}
    self._team.tell({"kind": "resume", "checkpoint": about}, **leaves)
    return checkpoints.placed(found, like)

  def due(self) -> bool:
    """Whether enough was done since the last one to write another."""
    due = self._kept.due()
    self._team.tell({"kind": "due", "due": due})
    return due

  def save(
    self,
    seeds: Sequence[int],
    epochs: int,
    state: Any,
    metrics: Sequence[Sequence[dict[str, Any]]],
  ) -> None:
    """Keeps where some seeds stand."""
    self._kept.save(seeds, epochs, state, metrics)

  def drop(self, seeds: Sequence[int]) -> None:
    """Forgets seeds that are complete, or have failed."""
    self._kept.drop(seeds)


class Following:
  """The same, as the other processes see them: what process 0 says."""

  def __init__(self, team: Team) -> None:
    """Listens to process 0.

    Args:
      team: the processes.
    """
    self._team = team

  def groups(self, seeds: Sequence[int], at_once: int) -> list[list[int]]:
    """How to go on: the seeds that are trained together."""
    del seeds, at_once
    return self._team.hear().about["groups"]

  def load(self, seeds: Sequence[int], like: Any) -> Checkpoint | None:
    """Where some seeds stand, with a state like that one."""
    del seeds
    message = self._team.hear()
    if message.about["kind"] == "begin":
      return None
    leaves: list[np.ndarray] = [
      message.arrays[f"leaf{i}"] for i in range(len(message.arrays))
    ]
    found = Checkpoint(**message.about["checkpoint"], state=leaves)
    return checkpoints.placed(found, like)

  def due(self) -> bool:
    """Whether enough was done since the last one to write another."""
    return self._team.hear().about["due"]

  def save(
    self,
    seeds: Sequence[int],
    epochs: int,
    state: Any,
    metrics: Sequence[Sequence[dict[str, Any]]],
  ) -> None:
    """Nothing: it has taken part in fetching the state."""

  def drop(self, seeds: Sequence[int]) -> None:
    """Nothing."""
