"""The small language in which flags name transformations.

translation:1/2/4,rotation:15/30,scaling:x1.2
"""

import math
from typing import NamedTuple

from experiments.errors import UsageError

_FAMILIES = ("translation", "rotation", "scaling")


class Magnitudes(NamedTuple):
  """A family and the sizes of its transformations, in the family's unit."""

  family: str
  values: tuple[float, ...]


def parse_magnitudes(text: str, flag: str) -> tuple[Magnitudes, ...]:
  """Parses `family:number/number,family:number`.

  Args:
    text: the flag's value; may be empty.
    flag: its name, for messages.

  Returns:
    The families with positive magnitudes; scaling factors (x1.2) as log2.

  Raises:
    UsageError: text of another form, an unknown family, a number that is not
      positive and finite, or anything repeated.
  """
  result = []
  for part in filter(None, text.split(",")):
    family, colon, numbers = part.partition(":")
    if family not in _FAMILIES or not colon:
      raise UsageError(
        f"--{flag}={text}: {part!r} is not of the form family:number/number"
        f" with family one of {', '.join(_FAMILIES)}"
      )
    if family in (m.family for m in result):
      raise UsageError(f"--{flag}={text}: {family} is there twice")
    values = tuple(_number(n, family, text, flag) for n in numbers.split("/"))
    if len(set(values)) < len(values):
      raise UsageError(f"--{flag}={text}: {part} names a number twice")
    result.append(Magnitudes(family, values))
  return tuple(result)


def _number(number: str, family: str, text: str, flag: str) -> float:
  factor = family == "scaling" and number.startswith("x")
  try:
    value = float(number.removeprefix("x") if factor else number)
    value = math.log2(value) if factor else value
  except ValueError:
    value = math.nan
  if not (math.isfinite(value) and value > 0):
    raise UsageError(
      f"--{flag}={text}: {number!r} is not a positive number"
      + (" or a factor above x1" if family == "scaling" else "")
    )
  return value


def elements(magnitudes: Magnitudes) -> list[float | tuple[float, float]]:
  """The identity and each magnitude both ways; translations in 4 directions."""
  if magnitudes.family == "translation":
    directions = ((1, 0), (-1, 0), (0, 1), (0, -1))
    steps = [
      (m * dx, m * dy) for m in magnitudes.values for dx, dy in directions
    ]
    return [(0.0, 0.0), *steps]
  return [0.0, *(s * m for m in magnitudes.values for s in (1, -1))]


def shift_grid(text: str) -> list[tuple[float, float]]:
  """All translations of a square grid, from `extent:step` in pixels.

  Args:
    text: the flag's value; may be empty.

  Returns:
    (dx, dy) row by row; no element for an empty text.

  Raises:
    UsageError: text of another form, or an extent that is no multiple of the
      step.
  """
  if not text:
    return []
  extent, colon, step = text.partition(":")
  whole = extent.isdecimal() and step.isdecimal()
  if not (colon and whole and int(step) > 0):
    raise UsageError(
      f"--shift_map={text} is not of the form extent:step in whole pixels, as"
      " in 6:2"
    )
  if int(extent) % int(step) or int(extent) == 0:
    raise UsageError(
      f"--shift_map={text}: the extent must be a multiple of the step, so that"
      " the grid holds the identity"
    )
  line = range(-int(extent), int(extent) + 1, int(step))
  return [(float(dx), float(dy)) for dy in line for dx in line]
