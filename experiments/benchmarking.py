"""Paired timing of two processes, and the peak memory of one."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.statistics import t_interval
from experiments import store
from experiments.errors import ExperimentError, UsageError

Row = dict[str, Any]  # a line of results/benchmark.json

# Both sides of a comparison must have computed the same thing: the loss to
# float32 rounding; normalised variances to the difference between our bilinear
# rotation and tmeasures' own; accuracies up to a tie.
_AGREEMENT = {"train": 2e-3, "measure": 0.05, "overhead": 1e-3}

_MEMORY_LIMIT_GIB = 3.0
_PASS_LIMIT_GIB = 2.0


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


def _training(pooling: str, peer: str, name: str, package: str) -> Comparison:
  option = f"--pooling={pooling}"
  words = {"max": "max pooling", "none": "no pooling"}[pooling]
  return Comparison(
    f"train, {words}",
    ("train_ours", option),
    (peer, option),
    name,
    package,
    "images/s",
  )


def _against_forward(
  name: str, measures: str, pooling: str, images: int
) -> Comparison:
  words = {"max": "max pooling", "none": "no pooling"}[pooling]
  options = (f"--pooling={pooling}", f"--images={images}")
  return Comparison(
    f"{name}, {words}, {images:,} images x 48 transformations",
    ("measure_network", f"--measures={measures}", *options),
    ("forward_network", *options),
    "bare forward passes, jax",
    "jax",
    "transformed images/s",
  )


COMPARISONS: dict[str, list[Comparison]] = {
  "train": [
    _training(pooling, *peer)
    for pooling in ("max", "none")
    for peer in (
      ("train_torch", "PyTorch", "torch"),
      ("train_torch_channels_last", "PyTorch channels_last", "torch"),
      ("train_flax", "stock flax.linen", "flax"),
    )
  ],
  "measure": [
    Comparison(
      "normalized variance, 10 layers",
      ("measure_ours",),
      ("measure_tmeasures",),
      "tmeasures",
      "tmeasures",
      "transformed images/s",
    )
  ],
  "overhead": [
    _against_forward(name, measures, pooling, images)
    for pooling, images in (("max", 1000), ("none", 100))
    for name, measures in (
      ("normalized variance and invariance error", "both"),
      ("normalized variance alone", "normalized_variance"),
      ("all measures at once", "all"),
    )
  ],
}


def run(job: str, rounds: int, cores: int) -> Iterator[Row]:
  """Runs the comparisons of a job.

  Args:
    job: "train", "measure", "overhead" or "memory".
    rounds: timed blocks of each side.
    cores: cores that every process is bound to.

  Yields:
    Lines of results/benchmark.json as they are there.

  Raises:
    UsageError: an unknown job, more cores than there are, or peers that are
      not installed.
    ExperimentError: a side fails, or the two compute different things.
  """
  if job not in (*COMPARISONS, "memory"):
    raise UsageError(
      f"--jobs={job} is unknown; known are {', '.join(COMPARISONS)}, memory"
    )
  if not hasattr(os, "sched_getaffinity"):
    raise UsageError("timing binds processes to cores, which needs Linux")
  available = sorted(os.sched_getaffinity(0))
  if cores > len(available):
    raise UsageError(f"--cores={cores} is more than the {len(available)} here")
  if job == "memory":
    yield peak_memory()
    for images in (250, 1000):
      yield _pass_memory(images, available[:cores])
    return
  for comparison in COMPARISONS[job]:
    if importlib.util.find_spec(comparison.package) is None:
      raise UsageError(
        f"{comparison.package} is not installed: run make bench, or pip install"
        " -r requirements-bench.txt"
      )
    yield from compare(comparison, rounds, available[:cores], _AGREEMENT[job])


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
    _worker(comparison.ours, cores) as ours,
    _worker(comparison.peer, cores) as peer,
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
  yield _row(comparison, comparison.name, pairs[1:])
  first = f"{comparison.name}, first block with compilation"
  yield _row(comparison, first, pairs[:1])


def _row(
  comparison: Comparison, name: str, pairs: list[tuple[float, float]]
) -> Row:
  """Medians of both sides, and their ratio with its interval."""
  rates = np.array(pairs)
  logs = t_interval(list(np.log(rates[:, 0] / rates[:, 1])))
  version = importlib.metadata.version(comparison.package)
  return {
    "name": name,
    "ours": _digits(np.median(rates[:, 0])),
    "peer": _digits(np.median(rates[:, 1])),
    "peer_name": f"{comparison.peer_name} {version}",
    "unit": comparison.unit,
    "ratio": _digits(np.exp(logs.mean)),
    "ratio_low": _digits(np.exp(logs.low)),
    "ratio_high": _digits(np.exp(logs.high)),
    "rounds": len(pairs),
  }


def _digits(value: Any) -> float | None:
  """Four significant digits; None for NaN, which JSON does not have."""
  return None if np.isnan(value) else float(f"{value:.4g}")


class _Worker:
  """A process of `experiments.workloads`."""

  def __init__(
    self, name: str, process: subprocess.Popen[str], log: Path
  ) -> None:
    self._name, self._process, self._log = name, process, log

  def block(self) -> dict[str, float]:
    """Lets it do one block of work."""
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


def _command(arguments: tuple[str, ...]) -> list[str]:
  """What python runs for one side."""
  return ["-m", "experiments.workloads", *arguments]


@contextlib.contextmanager
def _worker(arguments: tuple[str, ...], cores: list[int]) -> Iterator[_Worker]:
  """Starts a worker bound to some cores; ends it whatever happens."""
  environment = os.environ | {
    "NPROC": str(len(cores)),  # threads that XLA starts
    "OMP_NUM_THREADS": str(len(cores)),
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
      yield _Worker(arguments[0], process, log)
    finally:
      process.kill()
      process.communicate()


def peak_memory() -> Row:
  """Largest resident memory of a quick study in a process of its own.

  Returns:
    The line; the ratio is limit over use, so above 1 is within the limit.

  Raises:
    ExperimentError: the study fails.
  """
  with tempfile.TemporaryDirectory() as folder:
    process = subprocess.Popen(
      [
        sys.executable,
        *("-m", "experiments.study", "--preset=quick"),
        f"--workdir={folder}/quick",
      ],
      stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise ExperimentError(
      f"the quick study ended with exit code {process.returncode}"
    )
  gib = peak_gib(usage)
  return _memory_row("peak memory of a quick study", gib, _MEMORY_LIMIT_GIB)


def _pass_memory(images: int, cores: list[int]) -> Row:
  """Largest resident memory of a process that measures with all measures."""
  arguments = ("measure_network", "--measures=all", f"--images={images}")
  with _worker(arguments, cores) as worker:
    gib = worker.block()["gib"]
  name = f"peak memory of all measures, {images:,} images x 48 transformations"
  return _memory_row(name, gib, _PASS_LIMIT_GIB)


def peak_gib(usage: Any) -> float:
  """Largest resident memory in GiB, of what `os.wait4` or `resource` tell."""
  unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
  return usage.ru_maxrss * unit / 2**30


def _memory_row(name: str, gib: float, limit: float) -> Row:
  ratio = _digits(limit / gib)
  return {
    "name": name,
    "ours": _digits(gib),
    "peer": limit,
    "peer_name": "limit",
    "unit": "GiB",
    "ratio": ratio,
    "ratio_low": ratio,
    "ratio_high": ratio,
    "rounds": 1,
  }


def line(row: Row) -> str:
  """A line of the table for people."""
  interval = ""
  if row["ratio_low"] is not None and row["rounds"] > 1:
    interval = (
      f" ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}, n ="
      f" {row['rounds']})"
    )
  return (
    f"{row['name']}: ours {row['ours']:,g} {row['unit']}, {row['peer_name']}"
    f" {row['peer']:,g}: ratio {row['ratio']:.2f}{interval}"
  )


def merged(path: Path, rows: list[Row]) -> list[Row]:
  """New lines in place of the stored ones of the same comparison."""

  def key(row: Row) -> tuple[str, str]:
    return row["name"], row["peer_name"]

  stored = store.read_json(path) if path.exists() else []
  return list(
    ({key(r): r for r in stored} | {key(r): r for r in rows}).values()
  )
