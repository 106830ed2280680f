"""One progress bar for a whole study: what runs, what is left, time to go."""

import sys
from types import TracebackType
from typing import Protocol, Self

from tqdm import tqdm


class Bar(Protocol):
  """What work says of its progress; see `Progress`."""

  def start(self, what: str) -> None:
    """Names the job that runs now."""

  def compiling(self, cost: float) -> None:
    """Says that the next finished work includes a compilation."""

  def advance(self, cost: float) -> None:
    """Adds finished work."""


class Progress:
  """A bar over work of known, unequal cost.

  Costs are in arbitrary units of equal time, so that the bar moves evenly and
  its time to go is the work left over the mean speed so far.
  """

  def __init__(self, total: float, jobs: int) -> None:
    """Starts the bar.

    Args:
      total: cost of all work, done before or to do now.
      jobs: number of jobs still to do.
    """
    interactive = sys.stderr.isatty()
    self._jobs = jobs
    self._pending = 0.0
    self._bar = tqdm(
      total=total,
      smoothing=0,
      mininterval=0.2 if interactive else 15,
      bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {desc}",
      dynamic_ncols=interactive,
      leave=True,
    )

  def start(self, what: str) -> None:
    """Names the job that runs now."""
    self._jobs -= 1
    self._bar.set_description_str(f"{what} ({self._jobs} jobs left after it)")

  def compiling(self, cost: float) -> None:
    """Says that the next finished work includes a compilation."""
    self._pending += cost

  def advance(self, cost: float) -> None:
    """Adds finished work, with the compilation that came before it."""
    # Rounding must not bring the bar past its end, of which tqdm would warn.
    left = self._bar.total - self._bar.n
    self._bar.update(min(cost + self._pending, left))
    self._pending = 0.0

  def undo(self, cost: float, jobs: int) -> None:
    """Takes back finished work and started jobs that were lost.

    Args:
      cost: of the work; what is more than was done counts as all.
      jobs: how many have to be done again.
    """
    self._jobs += jobs
    self._bar.n -= min(cost, self._bar.n)
    self._bar.refresh()

  def say(self, text: str) -> None:
    """Says something in a line above the bar."""
    self._bar.write(text, file=sys.stderr)

  def __enter__(self) -> Self:
    """The bar itself."""
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Closes the bar, full only if all went well."""
    if kind is None:
      self._bar.set_description_str("done")
    self._bar.close()
