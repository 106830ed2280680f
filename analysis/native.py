"""Reductions by compiled loops on the CPU, in place of those by XLA.

What measures read of a step is little arithmetic on much memory. XLA makes a
pass over memory of most of it, and takes seconds to compile each layer's shape;
the loops here take a tile of units into the cache once and do all that is
wanted of it. `analysis.measures.reductions` says what they compute, and is what
computes it on an accelerator, on several devices, or where Numba is missing.
"""

import collections
import functools
import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import threadpoolctl

from analysis import kernels, references
from analysis.measures import Elements, Shapes, Statistics
from analysis.measures.reduced import Reductions
from models import platform

# What the loops compute; the pass adds what is not of a layer's activations.
COMPUTED = frozenset(Reductions._fields) - {"images", "ideal", "tangents"}


# Activations that several layers read before any of them goes on.
_SHARED_BYTES = 4 << 20

_LOOPS = "analysis.kernels.units"

# Does something, and returns what is to be done after it, if anything is.
Task = Callable[[], "Iterable[Task] | None"]


@functools.cache
def _loads() -> bool:
  try:
    importlib.import_module(_LOOPS)
  except ImportError:  # there is no Numba for this Python
    return False
  except RuntimeError:  # and no folder to keep compiled code in
    kernels.keep_nothing()
    importlib.import_module(_LOOPS)
  return True


def usable() -> bool:
  """Whether there are loops for the default device."""
  return platform.on_cpu() and _loads()


def threads() -> int:
  """As many as XLA takes: NPROC, or the cores that this process may use."""
  wanted = os.environ.get("NPROC", "")
  if wanted.isdigit() and int(wanted) > 0:
    return int(wanted)
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
  return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> AbstractContextManager:
  """Matrix products of NumPy and SciPy, in the block, by the thread that asks.

  Both bring an OpenBLAS with threads of its own. These keep a core busy for
  tens of milliseconds after each product, in which the loops and XLA need it:
  with all measures a pass took 15 % longer.
  """
  return _libraries().limit(limits=1, user_api="blas")


class Loops:
  """The sums of all layers over a pass."""

  def __init__(self, elements: Elements) -> None:
    """Sums of no layer.

    Args:
      elements: of the orbit.
    """
    self._elements = elements
    self._threads = threads()
    self._layers: dict[Any, Any] = {}

  def add_layer(
    self,
    key: Any,
    wanted: frozenset[str],
    shapes: Shapes,
    statistics: Statistics | None,
    *,
    rectified: bool = False,
  ) -> None:
    """A layer to sum, from the first step on.

    Args:
      key: what steps and `total` call it.
      wanted: names of reductions; those that are not of activations alone are
        left to the caller.
      shapes: of the layer.
      statistics: of the layer, if a reduction needs them.
      rectified: whether it is the ReLU of what steps give as `after`.
    """
    from analysis.layer_sums import LayerSums

    self._layers[key] = LayerSums(
      wanted & COMPUTED,
      shapes,
      self._elements,
      statistics,
      self._threads,
      rectified=rectified,
    )

  def step(
    self,
    before: Mapping[Any, Any],
    after: Mapping[Any, Any],
    index: np.ndarray,
  ) -> dict[Any, Reductions]:
    """Adds a step to all layers.

    Args:
      before: (b, u) activations by layer, of the untransformed images.
      after: (t, b, u) of the transformed ones, or a list of arrays that have
        some of the elements each; layers that are given the same are read
        together.
      index: which image of the data set each is, of those that are no
        padding.

    Returns:
      By layer, what measures that see every step may read of this one.
    """
    from analysis.kernels import blocks

    images = len(index)
    arrays, places, sharing = {}, {}, {}
    for key, sums in self._layers.items():
      if not sums.wanted:
        continue
      values = after[key] if isinstance(after[key], list) else [after[key]]
      arrays[key] = (
        # On a CPU numpy looks at the same memory.
        [_part(a, 1, images) for a in values],
        _part(before[key], 0, images),
      )
      places[key] = blocks.addresses(arrays[key][0])
      sharing.setdefault(id(after[key]), []).append(key)

    for key in arrays:
      self._layers[key].open(images)
    closed: dict[Any, Reductions] = {}

    def close(key: Any) -> None:
      closed[key] = self._layers[key].close(*arrays[key], index)

    def read(keys: list[Any], share: int, done: Any) -> list[Task]:
      # What one layer has read of memory, the next finds in the cache.
      size = sum(a.nbytes for a in arrays[keys[0]][0])
      shares = self._layers[keys[0]].shares
      parts = -(-size // (shares * _SHARED_BYTES)) if len(keys) > 1 else 1
      for part in range(parts):
        for key in keys:
          own = arrays[key][1]
          self._layers[key].add(share, places[key], own, part, parts)
      last = next(done) == shares
      return [functools.partial(close, key) for key in keys] if last else []

    tasks: list[Task] = []
    for keys in sharing.values():
      done = itertools.count(1)  # which threads may share
      tasks += [
        functools.partial(read, keys, share, done)
        for share in range(self._layers[keys[0]].shares)
      ]
    run(tasks, self._threads)
    return {key: closed[key] for key in arrays}

  def total(self, key: Any) -> Reductions:
    """The reductions of a layer over all steps."""
    return self._layers[key].total()


class References:
  """What is known of layers before a pass: see `analysis.references`."""

  def __init__(self, units: Mapping[str, int], kept: int) -> None:
    """Nothing.

    Args:
      units: of each layer.
      kept: largest values to keep of each unit.
    """
    self._threads = threads()
    self._seen = 0
    self._moments = {k: np.zeros((3, u), np.float32) for k, u in units.items()}
    self._largest = {
      k: np.full((2, kept, u), -np.inf, np.float32) for k, u in units.items()
    }

  def step(self, values: Mapping[str, Any], images: int, marks: Any) -> None:
    """Adds untransformed images.

    Args:
      values: (b, u) activations by layer.
      images: how many of the b are no padding.
      marks: (b,) 1 for the images that thresholds are read off.
    """
    from analysis.kernels import moments as loops

    marks = np.ascontiguousarray(marks[:images])

    def share(array: np.ndarray, key: str, part: int) -> None:
      first, last = (
        array.shape[1] * k // self._threads for k in (part, part + 1)
      )
      loops.add_references(
        array,
        first,
        last,
        marks,
        self._moments[key],
        self._largest[key],
        self._seen,
      )

    run(
      [
        functools.partial(share, _part(values[key], 0, images), key, part)
        for key in self._moments
        for part in range(self._threads)
      ],
      self._threads,
    )
    self._seen += images

  def statistics(self) -> dict[str, Statistics]:
    """Mean and thresholds of every layer."""
    return {
      # The origin has followed the mean: what is left of the sum is rounding.
      key: Statistics(
        moments[0] + moments[1] / self._seen,
        references.thresholds(self._largest[key]),
      )
      for key, moments in self._moments.items()
    }


def _part(values: Any, axis: int, images: int) -> np.ndarray:
  """The first images along an axis, contiguous and read-only.

  Loops are compiled for such arrays, which is what jax gives without a copy.
  """
  array = np.asarray(values)
  if images < array.shape[axis]:
    array = np.ascontiguousarray(array.take(range(images), axis))
    array.flags.writeable = False
  return array


def run(tasks: Iterable[Task], threads: int) -> None:
  """Does tasks in their order, each by a thread that is free.

  Cores are not equally fast: of what is divided beforehand, the last share is
  waited for.

  Args:
    tasks: functions; what they return are further tasks.
    threads: how many there are.
  """
  waiting = collections.deque(tasks)

  def work(_: int) -> None:
    while waiting:
      try:
        task = waiting.popleft()
      except IndexError:  # another thread was faster
        return
      waiting.extendleft(task() or ())

  if threads == 1:
    work(0)
  else:
    list(_pool(threads).map(work, range(threads)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
  return ThreadPoolExecutor(threads)
