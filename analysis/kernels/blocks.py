"""Activations under every transformation, wherever in memory they lie.

A network runs over some transformations at a time, so that what a layer hands
to the next is still in the cache. What it leaves are several arrays; loops find
the activations under a transformation by their address.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import types

from analysis.kernels import INLINE

# Callers leave out the first argument, which type checkers do not know.
_intrinsic: Any = extending.intrinsic


def addresses(parts: Sequence[np.ndarray]) -> np.ndarray:
  """Where the blocks (b, u) of some arrays lie.

  Args:
    parts: each (k, b, u), float32; to be kept as long as the addresses.

  Returns:
    One integer a transformation, in order.

  Raises:
    ValueError: an array of another type, or that is not contiguous.
  """
  for part in parts:
    if part.dtype != np.float32 or not part.flags.c_contiguous:
      raise ValueError(f"{part.dtype} array that loops cannot read")
  return np.concatenate(
    [
      p.ctypes.data + np.arange(len(p), dtype=np.int64) * p[0].nbytes
      for p in parts
    ]
  )


@_intrinsic
def _pointer(typing: Any, address: Any) -> Any:
  """An integer as a pointer."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

  return types.voidptr(types.int64), generate


@numba.njit(**INLINE)
def floats(address, size):
  """The float32 numbers at an address, as a flat array."""
  return numba.carray(_pointer(address), (size,), np.float32)
