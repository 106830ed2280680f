"""How a pass is cut into steps, by the memory that it may take.

What is estimated is an upper bound, read off passes whose peak was measured
(docs/performance.md): the process itself, sums kept of every unit and element,
and copies of a step's activations. None of it grows with the number of images.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from analysis.actions import Orbit
from analysis.measures import Measure
from models import platform

# Bytes of activations a step, images, and images whose pairs are compared. On a
# CPU a step of more than some 16 images no longer fits the cache and is slower;
# on an accelerator a larger step is faster. How many images are compared is
# part of what measures of pairs mean: it does not follow what is fastest.
_STEP_CPU = (128 * 2**20, 16, 8)
_STEP_ACCELERATOR = (2 * 2**30, 256, 256)

# Fewer images than this have no unbiased HSIC: the least whose pairs are
# compared.
_LEAST_PAIRED = 4

# A process that has loaded and compiled all that it needs.
_PROCESS = 768 * 2**20

# Copies of a step's activations: the network's, and those of the step before.
_COPIES = 3

# Numbers kept of each unit and element. What must know a layer beforehand keeps
# its largest values or its neighbourhoods besides.
_SUMS, _SUMS_KNOWING = 12, 24

# Part of the machine's memory, or of a device's, that is taken by default.
_SHARE = 0.75

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class MemoryLimitError(ValueError):
  """A step of the least size does not fit."""


class Sizes(NamedTuple):
  """How a pass is cut.

  Attributes:
    batch: images a step, whose pairs are compared.
    chunk: images a forward pass, at most.
    batches: number of steps.
  """

  batch: int
  chunk: int
  batches: int


def default_limit() -> int:
  """Three quarters of what the machine, its container, or the device has."""
  if not platform.on_cpu():
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
      return int(_SHARE * stats["bytes_limit"])
  sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
  for name in ("memory.max", "memory/memory.limit_in_bytes"):
    try:
      sizes.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    except (OSError, ValueError):
      continue  # no such group, or one without a limit
  return int(_SHARE * min(sizes))


def choose_sizes(
  images: int,
  o: Orbit,
  units: int,
  measures: Sequence[Measure],
  *,
  wanted: int | None,
  limit: int,
  devices: int = 1,
) -> Sizes:
  """Sizes of steps that fit in memory.

  With measures of pairs a step holds all images if they fit in one, and the
  caller's wish only bounds the images of a forward pass, so that no value
  depends on it. Nor does one depend on the limit: pairs meet it or are refused.

  Args:
    images: number of images.
    o: the orbit.
    units: of all layers together.
    measures: those asked for.
    wanted: images a step that the caller asked for, if any.
    limit: bytes: see `images_a_step`.
    devices: that a step's images are divided among.

  Returns:
    The sizes; steps differ by less than an image.

  Raises:
    MemoryLimitError: the limit is too small for one image, or for the images
      whose pairs are compared.
  """
  made = [m for m in measures if not m.refuses(o)]
  paired = any("pairs" in m.needs for m in made)
  elements = len(o.thetas)
  try:
    affordable = images_a_step(limit, units, elements, made, devices=devices)
  except MemoryLimitError as error:
    raise MemoryLimitError(f"{o.name}: {error}") from error
  target, most, compared = _STEP_CPU if platform.on_cpu() else _STEP_ACCELERATOR
  fitting = target // (4 * units * elements)
  if paired and fitting < images:
    batch = max(_LEAST_PAIRED, min(fitting, compared))
  elif paired:
    batch = images
  else:
    batch = min(wanted or int(np.clip(fitting, 1, most)), affordable)
  batches = -(-images // min(batch, images))
  batch = -(-images // batches)
  batch = -(-batch // devices) * devices
  if batch > affordable:
    raise MemoryLimitError(
      f"{shown(limit)} of memory are too little for measures of pairs, which"
      f" compare {batch} images under the {elements} transformations of"
      f" {o.name} at a time, where {affordable} fit: allow more, leave these"
      " measures out, or measure fewer transformations at a time"
    )
  return Sizes(batch, min(wanted or batch, batch), -(-images // batch))


def images_a_step(
  limit: int,
  units: int,
  elements: int,
  measures: Sequence[Measure] = (),
  *,
  devices: int = 1,
) -> int:
  """How many images a step may have.

  Args:
    limit: bytes that may be used at most: of the process on a CPU, of each
      device elsewhere.
    units: of all layers together.
    elements: of the orbit.
    measures: that are made.
    devices: that a step's images are divided among.

  Returns:
    The number, a multiple of `devices`.

  Raises:
    MemoryLimitError: it would be 0. The message says what is needed.
  """
  shared = devices if platform.on_cpu() else 1
  knows = any(m.needs - {"labels", "images", "aligned"} for m in measures)
  fixed = 4 * units * elements * (_SUMS_KNOWING if knows else _SUMS)
  if platform.on_cpu():
    fixed += _PROCESS
  image = 4 * units * (elements + 1) * _COPIES
  count = max(0, limit - fixed) // (image * shared)
  if not count:
    raise MemoryLimitError(
      f"{shown(limit)} of memory are too little: one image under"
      f" {elements} transformations, {units:,} activations each, takes about"
      f" {shown(fixed + image * shared)}; allow more, or measure fewer"
      " transformations or measures at a time"
    )
  return count * devices


def shown(size: float) -> str:
  """A number of bytes for people."""
  power = 0
  while size >= 1000 and power < len(_UNITS) - 1:
    size, power = size / 1024, power + 1
  return f"{size:.3g} {_UNITS[power]}"
