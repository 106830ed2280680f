"""The one place that knows how XLA behaves on a CPU.

Three things make a CPU slow here and an accelerator not:

* XLA 0.10 hands convolutions and reductions to the YNN library, which is 1.7
  times slower than XLA's own kernels for 32-channel convolutions and about 8
  times slower for sums over a leading axis. `jit` switches that off.
* A step allocates tens of megabytes that glibc returns to the kernel at once,
  so that every step pays for fresh pages. `keep_freed_memory` keeps them.
* The stock gradients of convolution and pooling: see `models.layers`, and
  `models.native` for convolutions by loops of our own.

`python -m experiments.benchmark` measures what all this is worth.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

_CPU_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Drawing a network's parameters, XLA spends 2 to 6 seconds on random numbers
# that are needed once. At this level a half to an eighth, and the same bits.
_ONCE_OPTIONS = _CPU_COMPILER_OPTIONS | {"xla_backend_optimization_level": 1}


def on_cpu() -> bool:
  """Whether jax computes on the CPU by default."""
  return jax.default_backend() == "cpu"


@functools.cache
def compiler_options(*, once: bool = False) -> dict[str, Any]:
  """Options for `jax.jit` on this platform; empty on an accelerator.

  They may change with XLA, so an XLA that does not know them gets none.

  Args:
    once: for what runs once, where the time to compile is what counts.
  """
  if not on_cpu():
    return {}
  options = _ONCE_OPTIONS if once else _CPU_COMPILER_OPTIONS
  probe = jax.jit(lambda x: x, compiler_options=options)
  try:
    probe(0.0)
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def jit(function: Callable, *, once: bool = False, **options: Any) -> Callable:
  """`jax.jit` with this platform's compiler options.

  The options are looked up at the first call, not at import, so that importing
  a module does not start a jax backend.

  Args:
    function: the function to compile.
    once: whether it runs once, so that the time to compile is what counts.
    **options: passed on to `jax.jit`.

  Returns:
    The compiled function.
  """

  @functools.cache
  def compiled() -> Callable:
    chosen = compiler_options(once=once)
    return jax.jit(function, compiler_options=chosen, **options)

  @functools.wraps(function)
  def call(*args: Any, **kwargs: Any) -> Any:
    return compiled()(*args, **kwargs)

  return call


def keep_freed_memory() -> None:
  """Asks glibc to reuse freed memory instead of returning it to the kernel.

  Page faults took a third of a training step on the machine it was measured
  on. For programs, not for libraries: it changes the whole process. Does
  nothing where the C library is not glibc.
  """
  if not sys.platform.startswith("linux"):
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return
  trim_threshold, mmap_max = -1, -4  # parameter numbers of malloc.h
  mallopt(mmap_max, 0)
  mallopt(trim_threshold, 2**31 - 1)
