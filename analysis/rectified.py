"""Layers that are another one with its negative values made 0.

The two of them are the same numbers in memory: a pass that knows it need not
keep the second. How a network computes a layer is read off its jaxpr, so that
it holds for all images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal

# Primitives that do what the jaxpr among their parameters does.
_CALLS = {
  "checkpoint",
  "closed_call",
  "core_call",
  "custom_jvp_call",
  "custom_vjp_call",
  "custom_vjp_call_jaxpr",
  "jit",
  "pjit",
  "remat",
  "remat2",
}
# Those that leave zeros zeros.
_KEEP_ZEROS = {"broadcast_in_dim", "convert_element_type", "copy", "reshape"}

_ZEROS = object()


@dataclasses.dataclass(frozen=True)
class _Rectified:
  """The value max(source, 0)."""

  source: Any


def rectified(jaxpr: Any, names: Sequence[str]) -> dict[str, str]:
  """The layers that are the ReLU of another layer.

  Args:
    jaxpr: of a network.
    names: of the layers, which are its last outputs.

  Returns:
    By the name of each, that of the layer it is the ReLU of, which is not in
    turn the ReLU of one.
  """
  values = _outputs(jaxpr, [object() for _ in jaxpr.invars])[-len(names) :]
  named = dict(zip(names, values, strict=True))
  first = {value: name for name, value in reversed(named.items())}
  found = {}
  for name, value in named.items():
    while isinstance(value, _Rectified):
      value = value.source
      if value in first:
        found[name] = first[value]
  return found


def _outputs(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
  """What a jaxpr computes of its arguments, and of constants.

  Two values that are equal are the same arrays.
  """
  known = dict(zip(jaxpr.invars, arguments, strict=True))

  def read(variable: Any) -> Any:
    if isinstance(variable, Literal):
      zero = np.ndim(variable.val) == 0 and variable.val == 0
      return _ZEROS if zero else object()
    return known.setdefault(variable, object())

  for equation in jaxpr.eqns:
    inputs = [read(v) for v in equation.invars]
    known.update(zip(equation.outvars, _results(equation, inputs), strict=True))
  return [read(v) for v in jaxpr.outvars]


def _results(equation: Any, inputs: list[Any]) -> list[Any]:
  """What an equation computes."""
  name, inner = equation.primitive.name, _inner(equation)
  if name in _CALLS and inner is not None and len(inner.invars) == len(inputs):
    return _outputs(inner, inputs)
  if name == "max" and _ZEROS in inputs:
    first, second = inputs
    return [_Rectified(second if first is _ZEROS else first)]
  if name in _KEEP_ZEROS and inputs[0] is _ZEROS:
    return [_ZEROS]
  return [object() for _ in equation.outvars]


def _inner(equation: Any) -> Any:
  """The jaxpr among an equation's parameters."""
  for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
    if name in equation.params:
      found = equation.params[name]
      return getattr(found, "jaxpr", found)  # closed or not
  return None
