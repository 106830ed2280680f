"""What `experiments.benchmark` compares on a CPU, and the peak memory of it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from experiments import pairing
from experiments.errors import ExperimentError, UsageError
from experiments.pairing import Comparison, Row

# Both sides of a comparison must have computed the same thing: the loss to
# float32 rounding; normalised variances to the difference between our bilinear
# rotation and tmeasures' own; accuracies up to a tie.
_AGREEMENT = {"train": 2e-3, "measure": 0.05, "overhead": 1e-3}
# Of few elements, the two divide by other numbers: by n, and by n - 1.
_SMOKE_AGREEMENT = _AGREEMENT | {"measure": 0.5}

_STUDY = "peak memory of a quick study"
_PASS = "peak memory of all measures, {:,} images x 48 transformations"
_MEMORY_LIMIT_GIB = 3.0
_PASS_LIMIT_GIB = 2.0


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


def _against_forward(name: str, measures: str, pooling: str) -> Comparison:
  words = {"max": "max pooling", "none": "no pooling"}[pooling]
  options = (f"--pooling={pooling}", "--images=1000")
  return Comparison(
    f"{name}, {words}, 1,000 images x 48 transformations",
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
    _against_forward(name, measures, pooling)
    for pooling in ("max", "none")
    for name, measures in (
      ("normalized variance and invariance error", "both"),
      ("normalized variance alone", "normalized_variance"),
      ("all measures at once", "all"),
    )
  ],
}


def run(
  job: str, rounds: int, cores: int, *, only: str = "", smoke: bool = False
) -> Iterator[Row]:
  """Runs the comparisons of a job.

  Args:
    job: "train", "measure", "overhead" or "memory".
    rounds: timed blocks of each side.
    cores: cores that every process is bound to.
    only: lines whose name or peer contains this; all if empty.
    smoke: whether to try it out: tiny networks and few images, one comparison
      with each peer that is installed. Its numbers mean nothing.

  Yields:
    Lines of results/benchmark.json as they are there.

  Raises:
    UsageError: an unknown job, too few rounds, more cores than there are, or
      peers that are not installed.
    ExperimentError: a side fails, or the two compute different things.
  """
  if job not in (*COMPARISONS, "memory"):
    raise UsageError(
      f"--jobs={job} is unknown; known are {', '.join(COMPARISONS)}, memory"
    )
  pairing.check_rounds(rounds, smoke=smoke)
  bound = bound_cores(cores)
  if job == "memory":
    if only in _STUDY and not smoke:
      yield peak_memory()
    for images in (250, 1000):
      if only in _PASS.format(images):
        yield _pass_memory(images, bound, smoke)
    return
  tolerance = (_SMOKE_AGREEMENT if smoke else _AGREEMENT)[job]
  for comparison in _tried(job) if smoke else COMPARISONS[job]:
    if only not in comparison.name and only not in comparison.peer_name:
      continue
    if not pairing.installed(comparison.package):
      raise UsageError(
        f"{comparison.package} is not installed: run make bench, or pip install"
        " -r requirements-bench.txt"
      )
    yield from pairing.compare(comparison, rounds, bound, tolerance)


def bound_cores(cores: int) -> list[int]:
  """The first so many cores that this process may use.

  Raises:
    UsageError: more than there are, or no way to bind processes to them.
  """
  if not hasattr(os, "sched_getaffinity"):
    raise UsageError("timing binds processes to cores, which needs Linux")
  available = sorted(os.sched_getaffinity(0))
  if cores > len(available):
    raise UsageError(f"--cores={cores} is more than the {len(available)} here")
  return available[:cores]


def _tried(job: str) -> list[Comparison]:
  """The first comparison with each peer that is here, tiny."""
  first = {c.peer_name: c for c in reversed(COMPARISONS[job])}
  return [
    c._replace(ours=(*c.ours, "--smoke"), peer=(*c.peer, "--smoke"))
    for c in reversed(first.values())
    if pairing.installed(c.package)
  ]


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
  return _memory_row(_STUDY, gib, _MEMORY_LIMIT_GIB)


def _pass_memory(images: int, cores: list[int], smoke: bool) -> Row:
  """Largest resident memory of a process that measures with all measures."""
  arguments = ("measure_network", "--measures=all", f"--images={images}")
  arguments += ("--smoke",) if smoke else ()
  with pairing.worker(arguments, cores) as worker:
    gib = worker.block()["gib"]
  return _memory_row(_PASS.format(images), gib, _PASS_LIMIT_GIB)


def peak_gib(usage: Any) -> float:
  """Largest resident memory in GiB, of what `os.wait4` or `resource` tell."""
  unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
  return usage.ru_maxrss * unit / 2**30


def _memory_row(name: str, gib: float, limit: float) -> Row:
  return pairing.row(
    name,
    [(gib, limit)],
    "GiB",
    "limit",
    hardware=pairing.hardware(len(os.sched_getaffinity(0))),
    less_is_better=True,
  )
