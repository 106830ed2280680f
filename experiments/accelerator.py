"""The accelerator suite: how long MNIST takes, and what more seeds cost.

Four processes take turns: ours with 1, 8 and 32 seeds side by side, and PyTorch
with torch.compile. Each trains from the start to the end in a block. Only they
touch the device: this process must not take its memory.
"""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import pairing
from experiments.errors import ExperimentError, UsageError
from experiments.pairing import Row, Worker

SEEDS = (1, 8, 32)
_SMOKE_SEEDS = (1, 2)

# What is aimed at on one data-centre GPU.
EPOCHS_LIMIT_S = 3.0
COST_LIMIT = 4.0

_AGREEMENT = 0.02  # of the accuracies after training

_TORCH = "torch"

# What each number of seeds answers in a round; "torch" for PyTorch.
Answers = Mapping[int | str, Mapping[str, Any]]


class Device(NamedTuple):
  """What jax computes on.

  Attributes:
    platform: "cpu", "gpu" or "tpu".
    kind: its name.
  """

  platform: str
  kind: str


def find_device() -> Device:
  """What jax computes on, asked in a process of its own.

  Raises:
    ExperimentError: jax does not start.
  """
  code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  if done.returncode:
    last = done.stderr.strip().splitlines()[-1:]
    raise ExperimentError(f"jax finds no device: {' '.join(last)}")
  platform, _, kind = done.stdout.strip().splitlines()[-1].partition(" ")
  return Device(platform, kind)


def run(rounds: int, data_dir: str, *, smoke: bool = False) -> Iterator[Row]:
  """Times all sides in turn.

  Args:
    rounds: blocks of each, after one that is reported apart.
    data_dir: folder with MNIST.
    smoke: whether to try it out, tiny, on whatever jax computes on.

  Yields:
    The lines of results/benchmark-accelerator.json.

  Raises:
    UsageError: too few rounds, or no accelerator.
    ExperimentError: a side fails, or the two do not learn alike.
  """
  pairing.check_rounds(rounds, smoke=smoke)
  device = find_device()
  if device.platform == "cpu" and not smoke:
    raise UsageError(
      "--suite=accelerator: jax finds no accelerator here, only the CPU;"
      " --smoke tries the suite out on it"
    )
  answers, why = _answers(rounds, data_dir, device, smoke)
  yield from rows(answers, device, why)


def _answers(
  rounds: int, data_dir: str, device: Device, smoke: bool
) -> tuple[list[Answers], str]:
  """What every side says in every round, and who PyTorch is or why not."""
  options = (f"--data_dir={data_dir}", *(("--smoke",) if smoke else ()))
  cores = sorted(os.sched_getaffinity(0))
  why = torch_missing(device)
  with contextlib.ExitStack() as stack:

    def start(*arguments: str) -> Worker:
      return stack.enter_context(pairing.worker((*arguments, *options), cores))

    sides: dict[int | str, Worker] = {
      n: start("accelerate_ours", f"--seeds={n}")
      for n in (_SMOKE_SEEDS if smoke else SEEDS)
    }
    if not why:
      sides[_TORCH] = start("accelerate_torch")
    answers: list[Answers] = [
      {name: side.block() for name, side in sides.items()}
      for _ in range(rounds + 1)
    ]
  if not (smoke or why):
    _check_alike(answers)
  return answers, why


def torch_missing(device: Device) -> str:
  """Why PyTorch is not timed on this device; empty if it is."""
  if not pairing.installed(_TORCH):
    return "PyTorch: not installed"
  if device.platform == "cpu":
    return ""
  import torch

  if torch.cuda.is_available():
    return ""
  return f"PyTorch {torch.__version__}: cannot use this device"


def _check_alike(answers: Sequence[Answers]) -> None:
  ours, peer = (
    float(np.mean([a[side]["value"] for a in answers])) for side in (1, _TORCH)
  )
  if abs(ours - peer) > _AGREEMENT:
    raise ExperimentError(
      f"ours reaches a test accuracy of {ours:.4f}, PyTorch {peer:.4f}: not the"
      " same job"
    )


def rows(
  answers: Sequence[Answers], device: Device, missing: str
) -> Iterator[Row]:
  """From what the sides said to lines.

  Args:
    answers: of the first round, with compilation, and of all others.
    device: where.
    missing: why there is no PyTorch; empty if there is.

  Yields:
    Images a second by seeds; the time of a whole run, to the target and of the
    first run; and what a seed costs that is trained beside others.
  """
  first, later = answers[:1], answers[1:]
  jax = importlib.metadata.version("jax")
  here = f"{device.kind}, jax {jax}"
  seeds = [n for n in answers[0] if isinstance(n, int)]
  peer = missing or f"PyTorch {_version()}, torch.compile"

  def against(
    name: str, key: str, unit: str, some: Sequence[Answers], n: int = 1
  ) -> Row:
    """A line of one number: ours with n seeds, PyTorch one after another."""
    speed = unit.endswith("/s")
    ours = [a[n][key] for a in some]
    if missing:
      return pairing.alone(name, ours, unit, missing, hardware=here)
    pairs = zip(ours, [a[_TORCH][key] for a in some], strict=True)
    return pairing.row(
      name, list(pairs), unit, peer, hardware=here, less_is_better=not speed
    )

  with_rates = [_with_rates(a) for a in later]
  for n in seeds:
    words = "1 seed" if n == 1 else f"{n} seeds side by side"
    yield against(f"train, {words}", "rate", "images/s", with_rates, n)
  yield against("whole run, 1 seed", "total_s", "s", later)
  yield against("whole run, 1 seed, with compilation", "total_s", "s", first)
  yield from _to_target(later, against, here)
  alone = [a[1]["total_s"] for a in later]
  yield pairing.row(
    "whole run, 1 seed",
    [(s, EPOCHS_LIMIT_S) for s in alone],
    "s",
    "limit",
    hardware=here,
    less_is_better=True,
  )
  for n in seeds[1:]:
    yield from _cost(n, later, here)


def _version() -> str:
  return importlib.metadata.version(_TORCH)


def _with_rates(answers: Answers) -> Answers:
  return {
    side: {**a, "rate": a["items"] / a["training_s"]}
    for side, a in answers.items()
  }


def _to_target(
  answers: Sequence[Answers], against: Any, here: str
) -> Iterator[Row]:
  """Time to the target, of the rounds in which every side reached it."""
  sides = [side for side in (1, _TORCH) if side in answers[0]]
  good = [
    a for a in answers if all(a[s]["target_s"] is not None for s in sides)
  ]
  reached = [
    sum(a[side]["target_s"] is not None for a in answers) for side in sides
  ]
  words = " and ".join(map(str, reached))
  name = f"to the target accuracy, reached in {words} of {len(answers)} runs"
  if good:
    yield against(name, "target_s", "s", good)
  else:
    yield {
      **pairing.alone(name, [np.nan], "s", "not reached", hardware=here),
      "rounds": 0,
    }


def _cost(n: int, answers: Sequence[Answers], here: str) -> Iterator[Row]:
  """What n seeds side by side cost over one, and each of the others."""
  times = np.array([[a[s]["training_s"] for s in (1, n)] for a in answers])
  ratio = times[:, 1] / times[:, 0]
  # A block of noise may make them cheaper than nothing.
  extra = np.maximum((ratio - 1) / (n - 1), 1e-3)
  yield pairing.row(
    f"cost of {n} seeds side by side over that of 1",
    [(r, COST_LIMIT if n == max(SEEDS) else n) for r in ratio],
    "times",
    "limit" if n == max(SEEDS) else "in turn",
    hardware=here,
    less_is_better=True,
  )
  yield pairing.row(
    f"an extra seed beside {n - 1}",
    [(e, 1.0) for e in extra],
    "times one",
    "by itself",
    hardware=here,
    less_is_better=True,
  )
