"""Vectors of float32 for Numba: what one instruction works on, by name.

Numba turns a loop into vector instructions only if it can prove that no two of
its arrays overlap, or check it at little cost; not if there are many. Loops
over these vectors need no proof, and keep them in registers. LLVM cuts them to
what the processor has.
"""

import math
import operator
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, overload, register_model

from analysis.kernels import INLINE

# Values of a vector; arrays that are loaded from hold a multiple of as many.
LANES = 16

# A floor that no value is below.
NO_FLOOR = np.float32(-np.inf)

_IR = ir.VectorType(ir.FloatType(), LANES)

# Callers leave out the first argument, which type checkers do not know.
_intrinsic: Any = extending.intrinsic


class VectorType(types.Type):
  """Numba's type of a vector."""

  def __init__(self) -> None:
    super().__init__(name=f"Float32x{LANES}")


_VECTOR = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
  def __init__(self, manager: Any, kind: Any) -> None:
    super().__init__(manager, kind, _IR)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
  """Pointer to the vector that begins at an element of a flat array."""
  data = context.make_array(kind)(context, builder, array).data
  element = builder.gep(data, [at], inbounds=True)
  return builder.bitcast(element, _IR.as_pointer())


@_intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
  """The vector at a place of a flat contiguous array."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    place = _place(context, builder, signature.args[0], *args)
    return builder.load(place, align=4)

  return _VECTOR(array, types.intp), generate


@_intrinsic
def store(typing: Any, array: Any, at: Any, value: Any) -> Any:
  """Writes a vector to a place of a flat contiguous array."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    place = _place(context, builder, signature.args[0], *args[:2])
    builder.store(args[2], place, align=4)
    return context.get_dummy_value()

  return types.void(array, types.intp, _VECTOR), generate


@numba.njit(**INLINE)
def add(array, at, value):
  """Adds a vector to the one at a place of a flat contiguous array."""
  store(array, at, load(array, at) + value)


@_intrinsic
def splat(typing: Any, value: Any) -> Any:
  """A vector of one number."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    one = builder.insert_element(
      ir.Constant(_IR, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0)
    )
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_IR, ir.Undefined), lanes)

  return _VECTOR(types.float32), generate


def _called(name: str, arguments: int, flags: tuple[str, ...] = ()) -> Callable:
  """A function of vectors that LLVM knows under a name."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind = ir.FunctionType(_IR, [_IR] * arguments)
    full = f"llvm.{name}.v{LANES}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, full)
    return builder.call(function, args, fastmath=flags)

  return generate


@_intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
  """A b + c, rounded once."""
  return _VECTOR(_VECTOR, _VECTOR, _VECTOR), _called("fma", 3)


@_intrinsic
def root(typing: Any, a: Any) -> Any:
  """Square roots."""
  return _VECTOR(_VECTOR), _called("sqrt", 1)


@_intrinsic
def above(typing: Any, a: Any, b: Any) -> Any:
  """1 where a > b, else 0."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.uitofp(builder.fcmp_ordered(">", *args), _IR)

  return _VECTOR(_VECTOR, _VECTOR), generate


@_intrinsic
def any_above(typing: Any, a: Any, b: Any) -> Any:
  """Whether a > b anywhere."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    bits = ir.IntType(LANES)
    found = builder.bitcast(builder.fcmp_ordered(">", *args), bits)
    return builder.icmp_unsigned("!=", found, ir.Constant(bits, 0))

  return types.boolean(_VECTOR, _VECTOR), generate


@_intrinsic
def at_least(typing: Any, a: Any, b: Any) -> Any:
  """The greater of a and b; NaN where a is."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

  return _VECTOR(_VECTOR, _VECTOR), generate


@numba.njit(**INLINE)
def number_at_least(a, b):
  """`at_least` of single numbers."""
  return b if a < b else a


@_intrinsic
def leading(typing: Any, a: Any, count: Any) -> Any:
  """The first so many values, and 0."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    number = ir.IntType(32)
    kind = ir.VectorType(number, LANES)
    limit = builder.insert_element(
      ir.Constant(kind, ir.Undefined),
      builder.trunc(args[1], number),
      ir.Constant(number, 0),
    )
    none, zeros = (
      ir.Constant(kind, ir.Undefined),
      ir.Constant(kind, [0] * LANES),
    )
    limits = builder.shuffle_vector(limit, none, zeros)
    lanes = ir.Constant(kind, list(range(LANES)))
    kept = builder.icmp_signed("<", lanes, limits)
    return builder.select(kept, args[0], ir.Constant(_IR, [0.0] * LANES))

  return _VECTOR(_VECTOR, types.int64), generate


# One instruction each, if it does not matter what becomes of NaN.
_NUMBERS = ("nnan", "nsz")


@_intrinsic
def least(typing: Any, a: Any, b: Any) -> Any:
  """The lesser of two numbers."""
  return _VECTOR(_VECTOR, _VECTOR), _called("minnum", 2, _NUMBERS)


@_intrinsic
def largest(typing: Any, a: Any, b: Any) -> Any:
  """The greater of two numbers."""
  return _VECTOR(_VECTOR, _VECTOR), _called("maxnum", 2, _NUMBERS)


def _arithmetic(operation: Callable, method: str) -> None:
  """Lets an operator work on vectors."""

  @_intrinsic
  def compute(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
      return getattr(builder, method)(*args)

    return _VECTOR(_VECTOR, _VECTOR), generate

  # Numba compares the names and types of the arguments of both.
  @overload(operation)
  def on_vectors(a, b):
    if isinstance(a, VectorType) and isinstance(b, VectorType):
      return lambda a, b: compute(a, b)
    return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


@_intrinsic
def total(typing: Any, a: Any) -> Any:
  """The sum of a vector's values, pair by pair."""

  def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    values, width = args[0], LANES
    none = ir.Constant(_IR, ir.Undefined)
    while width > 1:
      width //= 2
      order = [*range(width, 2 * width)]
      order += [0] * (LANES - width)
      lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
      upper = builder.shuffle_vector(values, none, lanes)
      values = builder.fadd(values, upper)
    return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))

  return types.float32(_VECTOR), generate


def padded(units: int) -> int:
  """The next multiple of a vector's values."""
  return -(-units // LANES) * LANES


def empty(*shape: int, dtype: Any = np.float32) -> np.ndarray:
  """An array of which no vector lies in two lines of the cache."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  line = 4 * LANES
  memory = np.empty(size + line, np.uint8)
  first = -memory.ctypes.data % line
  return memory[first : first + size].view(dtype).reshape(shape)


_held = threading.local()


def scratch(purpose: str, *shape: int) -> np.ndarray:
  """The thread's array for a purpose, with anything in it, as `empty` makes it.

  What is called tens of times a step would spend more on making it anew, with
  other threads waiting for the interpreter.

  Args:
    purpose: the array is overwritten by whoever asks for the same one next.
    *shape: that it should have.

  Returns:
    The array, float32.
  """
  size = math.prod(shape)
  held = _held.__dict__.get(purpose)
  if held is None or held.size < size:
    held = _held.__dict__[purpose] = empty(size)
  return held[:size].reshape(shape)


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
  """Zeros of which no vector lies in two lines of the cache."""
  result = empty(*shape, dtype=dtype)
  result[...] = 0
  return result
