"""The small language in which flags name transformations.

translation:1/2/4,scaling:x1.2,reflection,matrix:mine.csv,shear:0.1+rotation:15
"""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis import transforms
from experiments import matrices
from experiments.errors import UsageError

# Families with a size that can be any number, so that it can be drawn at random
# too; and families whose few elements are an orbit of their own.
_SIZED = ("translation", "rotation", "scaling", "shear")
_DISCRETE = {
  "reflection": ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)),
  "quarter_turn": (0.0, 1.0, 2.0, 3.0),
}
_MATRIX = "matrix:"

# Transformations of an orbit: each costs a forward pass of every image.
MOST_ELEMENTS = 10_000

# Name of the orbit that `shift_grid` makes.
SHIFT_MAP = "translation_map"
DIAGONAL = "diagonal"


class Magnitudes(NamedTuple):
  """A family and the sizes of its transformations, in the family's unit."""

  family: str
  values: tuple[float, ...]


class Transformations(NamedTuple):
  """Transformations of one family, by their parameters.

  Attributes:
    family: its name is the orbit's.
    thetas: parameters of each, the identity among them.
  """

  family: transforms.Family
  thetas: tuple[Any, ...]


def parse_transforms(text: str, flag: str) -> tuple[Transformations, ...]:
  """Parses the orbits that are measured.

  They are separated by commas, each in one of these forms:

  * `family:number/number`: see `elements`;
  * `reflection`, the three mirrors, or `quarter_turn`, all four;
  * `matrix:FILE.csv`: see `matrices.read_matrices`; named after the file;
  * `part+part`, the first to be applied first, where a part is a family with
    one number, `reflection` or `quarter_turn`: the identity and every
    combination of plus and minus the numbers (translation and shear: of the
    four directions) and of all mirrors or turns, none included; each
    transformation once.

  Args:
    text: the flag's value; may be empty.
    flag: its name, for messages.

  Returns:
    The transformations, in the order given.

  Raises:
    UsageError: text of another form, a wrong number or file, or two orbits of
      one name.
  """
  result: list[Transformations] = []
  for item in filter(None, text.split(",")):
    found = _parse_orbit(item, f"--{flag}={text}")
    if found.family.name in (other.family.name for other in result):
      raise UsageError(
        f"--{flag}={text}: {item!r} is a second orbit named"
        f" {found.family.name}; join numbers by /, rename the file or measure"
        " one at a time"
      )
    result.append(found)
  return tuple(result)


def file_digests(text: str) -> dict[str, str]:
  """The sha256 of each file that the orbits are read from.

  What was measured is the file's content, which can change under its name.

  Args:
    text: as for `parse_transforms`, and parsed by it before.

  Returns:
    By path as it is written in the text; empty if no file is named.
  """
  return {p: hashlib.sha256(c).hexdigest() for p, c in files(text).items()}


def files(text: str) -> dict[str, bytes]:
  """The content of each file that the orbits are read from.

  Args:
    text: as for `parse_transforms`, and parsed by it before.

  Returns:
    By path as it is written in the text; empty if no file is named.
  """
  items = (i for i in text.split(",") if i.startswith(_MATRIX))
  paths = [item.removeprefix(_MATRIX) for item in items]
  return {path: Path(path).read_bytes() for path in paths}


def with_files_at(text: str, places: Mapping[str, str]) -> str:
  """The same orbits, read from files that lie elsewhere.

  Args:
    text: as for `parse_transforms`.
    places: where each file of `files` is; of the same name, after which its
      orbit is called.
  """
  return ",".join(
    _MATRIX + places[item.removeprefix(_MATRIX)]
    if item.startswith(_MATRIX)
    else item
    for item in text.split(",")
  )


def _parse_orbit(item: str, where: str) -> Transformations:
  if item.startswith(_MATRIX):
    return _from_file(Path(item.removeprefix(_MATRIX)), where)
  parts = re.split(r"\+(?!\d)", item)  # 1e+2 is a number
  found = [_parse_part(part, where) for part in parts]
  if len(parts) == 1:
    return found[0]
  for part, (family, _) in zip(parts, found, strict=True):
    if "/" in part:
      raise UsageError(
        f"{where}: {part!r} in a composition takes one number; write one"
        f" {family.name}:number"
      )
  return _composition(found)


def _parse_part(part: str, where: str) -> Transformations:
  if part in _DISCRETE:
    return Transformations(transforms.FAMILIES[part], _DISCRETE[part])
  family = part.partition(":")[0]
  if family in _DISCRETE:
    raise UsageError(f"{where}: {part!r}: {family} takes no number")
  if part.startswith(_MATRIX):
    raise UsageError(
      f"{where}: {part!r} cannot be part of a composition; write the products"
      " to a file"
    )
  magnitudes = _magnitudes(
    part, where, f"; {', '.join(_DISCRETE)}, matrix:FILE.csv or part+part"
  )
  return Transformations(
    transforms.FAMILIES[magnitudes.family], tuple(elements(magnitudes))
  )


def _composition(parts: list[Transformations]) -> Transformations:
  family = transforms.compose(*(part.family for part in parts))
  identity = tuple(part.thetas[0] for part in parts)
  chosen = itertools.product(
    *(p.thetas if p.family.name in _DISCRETE else p.thetas[1:] for p in parts)
  )
  thetas = [
    tuple(float(v) for theta in combination for v in np.ravel(theta))
    for combination in (identity, *chosen)
  ]
  # Two turns back and forth are the identity, which an orbit has once.
  entries = family.matrix(thetas).reshape(len(thetas), -1).round(9)
  _, first = np.unique(entries + 0.0, axis=0, return_index=True)
  return Transformations(family, tuple(thetas[i] for i in sorted(first)))


def _from_file(path: Path, where: str) -> Transformations:
  try:
    rows = matrices.read_matrices(path)
  except ValueError as error:
    raise UsageError(f"{where}: {error}") from error
  reserved = set(transforms.FAMILIES) - {"matrix"}
  if path.stem in reserved | {SHIFT_MAP, DIAGONAL}:
    raise UsageError(
      f"{where}: {path} would name its orbit {path.stem}, which means something"
      " else; name the file otherwise"
    )
  family = dataclasses.replace(transforms.matrix, name=path.stem)
  return Transformations(family, rows)


def parse_magnitudes(text: str, flag: str) -> tuple[Magnitudes, ...]:
  """Parses `family:number/number,family:number`.

  Args:
    text: the flag's value; may be empty.
    flag: its name, for messages.

  Returns:
    The families with positive magnitudes; scaling factors (x1.2) as log2.

  Raises:
    UsageError: text of another form, a family that has no size, a number that
      is not positive and finite, or anything repeated.
  """
  where = f"--{flag}={text}"
  result: list[Magnitudes] = []
  for part in filter(None, text.split(",")):
    found = _magnitudes(part, where)
    if found.family in (m.family for m in result):
      raise UsageError(f"{where}: {found.family} is there twice")
    result.append(found)
  return tuple(result)


def _magnitudes(part: str, where: str, others: str = "") -> Magnitudes:
  family, colon, numbers = part.partition(":")
  if family not in _SIZED or not colon:
    raise UsageError(
      f"{where}: {part!r} is not of the form family:number/number with family"
      f" one of {', '.join(_SIZED)}{others}"
    )
  values = tuple(_number(n, family, where) for n in numbers.split("/"))
  if len(set(values)) < len(values):
    raise UsageError(f"{where}: {part} names a number twice")
  return Magnitudes(family, values)


def _number(number: str, family: str, where: str) -> float:
  factor = family == "scaling" and number.startswith("x")
  try:
    value = float(number.removeprefix("x") if factor else number)
    value = math.log2(value) if factor else value
  except ValueError:
    value = math.nan
  if not (math.isfinite(value) and value > 0):
    raise UsageError(
      f"{where}: {number!r} is not a positive number"
      + (" or a factor above x1" if family == "scaling" else "")
    )
  return value


_BYTES = {
  **{f"{k}B": 1000**i for i, k in enumerate(("", "k", "M", "G", "T"))},
  **{f"{k}iB": 1024**i for i, k in enumerate(("K", "M", "G", "T"), start=1)},
}


def parse_bytes(text: str, flag: str) -> int | None:
  """Parses a size of memory, as in 2GiB or 500MB.

  Args:
    text: the flag's value; may be empty.
    flag: its name, for messages.

  Returns:
    Bytes; None for an empty text.

  Raises:
    UsageError: text of another form.
  """
  if not text:
    return None
  found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-zA-Z]+)", text)
  if not found or found[2] not in _BYTES or not float(found[1]):
    raise UsageError(
      f"--{flag}={text} is not a positive number with a unit, as in 2GiB; units"
      f" are {', '.join(_BYTES)}"
    )
  return int(float(found[1]) * _BYTES[found[2]])


def elements(magnitudes: Magnitudes) -> list[float | tuple[float, float]]:
  """The identity and each magnitude both ways.

  Args:
    magnitudes: sizes of one family.

  Returns:
    Parameters: for translation and shear along either axis in either direction
    (right, left, down, up), for the others plus and minus.
  """
  if len(transforms.FAMILIES[magnitudes.family].parameters) == 2:
    directions = ((1, 0), (-1, 0), (0, 1), (0, -1))
    steps = [(m * x, m * y) for m in magnitudes.values for x, y in directions]
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
  side = 2 * (int(extent) // int(step)) + 1
  if side * side > MOST_ELEMENTS:
    raise UsageError(
      f"--shift_map={text} are {side * side:,} translations: give at most"
      f" {MOST_ELEMENTS:,}"
    )
  line = range(-int(extent), int(extent) + 1, int(step))
  return [(float(dx), float(dy)) for dy in line for dx in line]
