"""The innermost loops: a tile of the result is summed up in registers.

Each is compiled to a function of words. Pointers are in bytes, steps in floats.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from models.kernels.writer import (
  FLOAT,
  LANES,
  REGISTERS,
  VECTOR,
  Word,
  Writer,
)

_VECTORS = 2  # of output channels in a tile
BLOCK = _VECTORS * LANES

# Three registers are left for what is multiplied. Positions in a row of a tile
# of the output: even parts of the usual sizes of maps.
POSITIONS = 8 if REGISTERS == 32 else 4
# Weights of a tile of the gradient: kernel columns times input channels.
WEIGHTS = 12 if REGISTERS == 32 else 6


def convolve_tile(module: Any) -> Any:
  """`POSITIONS` neighbours of the output, `BLOCK` channels of each.

  out[p, o] = bias[o] + sum over r, k of x[r, p, k] weights[r, k, o], where
  positions of x are x_step apart, rows x_row, and k counts the floats of a row
  under the kernel, its width times the input channels. Then, if asked,
  negative ones are made 0.
  """
  w = Writer(module, "convolve_tile", 10, public=False)
  out, out_step, x, x_row, x_step, weights, rows, columns, bias, rectify = (
    w.arguments
  )
  sums = [w.variable(v) for v in _vectors(w, bias) * POSITIONS]
  with w.loop(rows) as r:
    at, row = x + r * x_row * 4, weights + r * columns * (4 * BLOCK)
    with w.loop(columns) as k:
      add_products(
        w, sums, at + k * 4, x_step, _vectors(w, row + k * (4 * BLOCK))
      )
  values = [w.builder.load(s) for s in sums]
  zero = ir.Constant(VECTOR, None)
  asked = rectify.is_("!=", 0)
  for i, value in enumerate(values):
    negative = w.builder.fcmp_ordered("<", value, zero)
    positive = w.builder.select(negative, zero, value)  # NaN stays
    values[i] = w.builder.select(asked, positive, value)
  _write(w, values, out, out_step)
  return w.close()


def gradient_tile(module: Any) -> Any:
  """Adds to the gradient of `WEIGHTS` weights, `BLOCK` channels of each.

  total[k, o] += sum over r, p of x[r, p, k] g[r, p, o], where positions p are
  x_step and g_step apart, rows r x_row and g_row.
  """
  w = Writer(module, "gradient_tile", 10, public=False)
  total, total_step, x, x_row, x_step, g, g_row, g_step, rows, columns = (
    w.arguments
  )
  sums = [
    w.variable(v)
    for i in range(WEIGHTS)
    for v in _vectors(w, total + total_step * (4 * i))
  ]
  with w.loop(rows) as r:
    at, row = x + r * x_row * 4, g + r * g_row * 4
    with w.loop(columns) as p:
      values = _vectors(w, row + p * g_step * 4)
      add_products(w, sums, at + p * x_step * 4, w.word(1), values)
  _write(w, [w.builder.load(s) for s in sums], total, total_step)
  return w.close()


def add_products(
  w: Writer, sums: Sequence[Any], address: Word, step: Word, row: list[Any]
) -> None:
  """Adds the outer product of single floats, a step apart, and a row."""
  for i in range(len(sums) // _VECTORS):
    value = _broadcast(w, w.load(address + step * (4 * i), FLOAT))
    for v in range(_VECTORS):
      place = sums[i * _VECTORS + v]
      before = w.builder.load(place)
      after = w.builder.call(_multiply_add(w), [value, row[v], before])
      w.builder.store(after, place)


def _vectors(w: Writer, address: Word) -> list[Any]:
  return [w.load(address + 4 * LANES * v, VECTOR) for v in range(_VECTORS)]


def _write(w: Writer, values: list[Any], address: Word, step: Word) -> None:
  for i, value in enumerate(values):
    row = address + step * (4 * (i // _VECTORS))
    w.store(value, row + 4 * LANES * (i % _VECTORS))


def _broadcast(w: Writer, value: Any) -> Any:
  nothing = ir.Constant(VECTOR, ir.Undefined)
  vector = w.builder.insert_element(nothing, value, ir.IntType(32)(0))
  first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
  return w.builder.shuffle_vector(vector, nothing, first)


def _multiply_add(w: Writer) -> Any:
  name = f"llvm.fmuladd.v{LANES}f32"
  kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
  found = w.builder.module.globals.get(name)
  return found or ir.Function(w.builder.module, kind, name)
