"""Two processes timed in turn, and the lines that come of it.

A line is an entry of results/benchmark.json: name, ours, peer, peer_name, unit,
ratio with ratio_low and ratio_high, rounds and hardware. A ratio above 1 means
that ours is faster (or smaller, or below a limit); its interval is a 95 % t
interval of the log ratio over rounds. What is not there is None.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.statistics import t_interval
from experiments import store
from experiments.errors import ExperimentError, UsageError

Row = dict[str, Any]

LEAST_ROUNDS = 5

_HEADER = ("job", "ours", "peer", "ratio", "95 % interval")


class Comparison(NamedTuple):
  """Our job against a peer's.

  Attributes:
    name: what is done.
    ours: arguments of `experiments.workloads` for our side.
    peer: and for the peer's.
    peer_name: the peer with its version's package, for tables.
    package: the peer's distribution, whose version is printed.
    unit: of the items a second.
  """

  name: str
  ours: tuple[str, ...]
  peer: tuple[str, ...]
  peer_name: str
  package: str
  unit: str

  @property
  def peer_with_version(self) -> str:
    """The peer's name for tables."""
    return f"{self.peer_name} {importlib.metadata.version(self.package)}"


def installed(package: str) -> bool:
  """Whether a peer is here."""
  return importlib.util.find_spec(package) is not None


def check_rounds(rounds: int, *, smoke: bool) -> None:
  """Refuses intervals over few rounds, but where nobody reads them.

  Raises:
    UsageError: too few.
  """
  if rounds < LEAST_ROUNDS and not smoke:
    raise UsageError(
      f"--rounds={rounds} is too few for an interval: give at least"
      f" {LEAST_ROUNDS}, or --smoke"
    )


# --- processes ---------------------------------------------------------------


class Worker:
  """A process of `experiments.workloads`."""

  def __init__(
    self, name: str, process: subprocess.Popen[str], log: Path
  ) -> None:
    """Names what `worker` started."""
    self._name, self._process, self._log = name, process, log

  def block(self) -> dict[str, Any]:
    """Lets it do one block of work.

    Raises:
      ExperimentError: it failed.
    """
    stdin, stdout = self._process.stdin, self._process.stdout
    assert stdin is not None
    assert stdout is not None
    with contextlib.suppress(BrokenPipeError):
      stdin.write("block\n")
      stdin.flush()
    answer = stdout.readline()
    if not answer:
      lines = self._log.read_text(errors="replace").strip().splitlines()
      raise ExperimentError(
        f"{self._name} failed: {lines[-1] if lines else 'no message'}"
      )
    return json.loads(answer)


def _command(arguments: Sequence[str]) -> list[str]:
  """What python runs for one side."""
  return ["-m", "experiments.workloads", *arguments]


@contextlib.contextmanager
def worker(arguments: Sequence[str], cores: Sequence[int]) -> Iterator[Worker]:
  """Starts a worker bound to some cores; ends it whatever happens."""
  environment = os.environ | {
    "NPROC": str(len(cores)),  # threads that XLA starts
    "OMP_NUM_THREADS": str(len(cores)),
    # Several workers share an accelerator's memory.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
  }
  pinned = ",".join(map(str, cores))
  with tempfile.TemporaryDirectory() as folder:
    log = Path(folder) / "stderr"
    with log.open("w") as errors:
      process = subprocess.Popen(
        [sys.executable, *_command(arguments), f"--cores={pinned}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        text=True,
      )
    try:
      yield Worker(arguments[0], process, log)
    finally:
      process.kill()
      process.communicate()


def compare(
  comparison: Comparison, rounds: int, cores: list[int], tolerance: float
) -> Iterator[Row]:
  """Times both sides in turn.

  Args:
    comparison: the two sides.
    rounds: timed blocks of each, after one that is reported apart.
    cores: the cores that both are bound to.
    tolerance: difference allowed between what they compute, relative or
      absolute (a loss gets near 0).

  Yields:
    The steady state, then the first block.

  Raises:
    ExperimentError: a side fails, or the two compute different things.
  """
  with (
    worker(comparison.ours, cores) as ours,
    worker(comparison.peer, cores) as peer,
  ):
    pairs = []
    for _ in range(rounds + 1):
      one, other = ours.block(), peer.block()
      if not np.isclose(one["value"], other["value"], tolerance, tolerance):
        raise ExperimentError(
          f"{comparison.name}: ours gives {one['value']},"
          f" {comparison.peer_name} {other['value']}: not the same job"
        )
      pairs.append(
        (one["items"] / one["seconds"], other["items"] / other["seconds"])
      )
  here = hardware(len(cores))
  name = comparison.peer_with_version
  first = f"{comparison.name}, first block with compilation"
  for what, some in ((comparison.name, pairs[1:]), (first, pairs[:1])):
    yield row(what, some, comparison.unit, name, hardware=here)


# --- lines -------------------------------------------------------------------


def row(
  name: str,
  pairs: Sequence[tuple[float, float]],
  unit: str,
  peer_name: str,
  *,
  hardware: str,
  less_is_better: bool = False,
) -> Row:
  """Medians of both sides, and their ratio with its interval.

  Args:
    name: what was done.
    pairs: (ours, peer's) of each round.
    unit: of both.
    peer_name: whom ours is held against.
    hardware: where.
    less_is_better: whether the numbers are times or sizes, not speeds.

  Returns:
    The line.
  """
  values = np.array(pairs, float).reshape(-1, 2)
  logs = np.log(values[:, 0] / values[:, 1])
  interval = t_interval(list(-logs if less_is_better else logs))
  ours, peer = np.median(values, axis=0)
  return {
    "name": name,
    "ours": digits(ours),
    "peer": digits(peer),
    "peer_name": peer_name,
    "unit": unit,
    "ratio": digits(np.exp(interval.mean)),
    "ratio_low": digits(np.exp(interval.low)),
    "ratio_high": digits(np.exp(interval.high)),
    "rounds": len(values),
    "hardware": hardware,
  }


def alone(
  name: str, values: Sequence[float], unit: str, why: str, *, hardware: str
) -> Row:
  """A line without a peer, and why there is none."""
  return {
    "name": name,
    "ours": digits(np.median(values)),
    "peer": None,
    "peer_name": why,
    "unit": unit,
    "ratio": None,
    "ratio_low": None,
    "ratio_high": None,
    "rounds": len(values),
    "hardware": hardware,
  }


def digits(value: Any) -> float | None:
  """Four significant digits; None for NaN, which JSON does not have."""
  return None if np.isnan(value) else float(f"{value:.4g}")


def hardware(cores: int) -> str:
  """The processor and how much of it, for tables."""
  return f"{cores} cores of {store.processor()}"


def cells(row: Mapping[str, Any]) -> list[str]:
  """A line for people: job, ours, peer, ratio and interval."""
  peer = row["peer_name"]
  if row["peer"] is not None:
    peer += f": {row['peer']:,g}"
  ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
  interval = ""
  if row["ratio_low"] is not None and row["rounds"] > 1:
    low, high = row["ratio_low"], row["ratio_high"]
    interval = f"{low:.2f} to {high:.2f}, n = {row['rounds']}"
  ours = "" if row["ours"] is None else f"{row['ours']:,g} {row['unit']}"
  return [row["name"], ours, peer, ratio, interval]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """All lines for people, aligned, the hardware below."""
  lines = [list(_HEADER), *(cells(row) for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in lines
  ]
  where = dict.fromkeys(row["hardware"] for row in rows)
  return "\n".join([*text, *(f"on {name}" for name in where)])


def merged(path: Path, rows: list[Row]) -> list[Row]:
  """New lines in place of the stored ones of the same comparison.

  Args:
    path: the file that they go to.
    rows: the new ones.

  Returns:
    All lines: a peer's other version does not stay beside the new one.
  """

  def key(row: Row) -> tuple[str, str]:
    words = row["peer_name"].split()
    return row["name"], " ".join(w for w in words if not w[0].isdigit())

  stored = store.read_json(path) if path.exists() else []
  return list(
    ({key(r): r for r in stored} | {key(r): r for r in rows}).values()
  )
