"""Families of transformations of images and feature maps.

Conventions, the same everywhere:

* rows `y` grow down, columns `x` grow right, pixel centres are integers and
  the centre is ((H - 1) / 2, (W - 1) / 2);
* a matrix acts on centred coordinates (x, y, 1) and says where content goes;
* a warp reads the input at the inverse of that (output-to-input resampling),
  so that every output pixel gets a value;
* whole-pixel translations, reflections and multiples of 90 degrees are exact:
  they copy pixels (a quarter turn where the canvas is square).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis import affine
from analysis.affine import affine_warp, invert, source_coordinates
from analysis.family import Family, Theta

__all__ = [
  "FAMILIES",
  "Composition",
  "Family",
  "affine_warp",
  "compose",
  "cos_sin_degrees",
  "invert",
  "log2_factor",
  "matrix",
  "quarter_turn",
  "reflection",
  "rotation",
  "scaling",
  "shear",
  "source_coordinates",
  "translation",
]


def cos_sin_degrees(angle_deg: Any, xp: Any) -> tuple[Any, Any]:
  """Cosine and sine of an angle in degrees, exact at multiples of 90."""
  quarter = xp.round(angle_deg / 90)
  rest = (angle_deg - 90 * quarter) * (np.pi / 180)
  c, s = xp.cos(rest), xp.sin(rest)
  quarter = quarter % 4
  cos = xp.where(quarter == 0, c, xp.where(quarter == 1, -s, s))
  sin = xp.where(quarter == 0, s, xp.where(quarter == 1, c, -c))
  half = quarter == 2
  return xp.where(half, -c, cos), xp.where(half, -s, sin)


def _translation(xp: Any, dx: Any, dy: Any) -> Sequence[Sequence[Any]]:
  del xp
  return (1, 0, dx), (0, 1, dy)


def _rotation(xp: Any, angle_deg: Any) -> Sequence[Sequence[Any]]:
  cos, sin = cos_sin_degrees(angle_deg, xp)
  return (cos, sin, 0), (-sin, cos, 0)


def _scaling(xp: Any, log2_factor: Any) -> Sequence[Sequence[Any]]:
  factor = xp.exp2(log2_factor)
  return (factor, 0, 0), (0, factor, 0)


def _shear(xp: Any, kx: Any, ky: Any) -> Sequence[Sequence[Any]]:
  del xp
  return (1, kx, 0), (ky, 1, 0)


def _reflection(xp: Any, flip_x: Any, flip_y: Any) -> Sequence[Sequence[Any]]:
  if xp is np:
    for name, flip in (("flip_x", flip_x), ("flip_y", flip_y)):
      _refuse(flip, (flip != 0) & (flip != 1), f"reflection {name}", "0 or 1")
  return (1 - 2 * flip_x, 0, 0), (0, 1 - 2 * flip_y, 0)


def _quarter_turn(xp: Any, k: Any) -> Sequence[Sequence[Any]]:
  if xp is np:
    _refuse(k, k != np.round(k), "quarter_turn k", "a whole number")
  return _rotation(xp, 90 * k)


def _refuse(values: Any, wrong: Any, what: str, allowed: str) -> None:
  """Refuses the first value that a discrete family does not have."""
  if np.any(wrong):
    value = np.ravel(values)[np.argmax(np.ravel(wrong))]
    raise ValueError(f"{what}={value:g} is not {allowed}")


def _matrix(xp: Any, *entries: Any) -> Sequence[Sequence[Any]]:
  del xp
  return entries[:3], entries[3:]


translation = Family(
  name="translation",
  unit="px",
  parameters=("dx", "dy"),  # + is right, + is down
  entries=_translation,
  generator=(((0, 0, 1), (0, 0, 0)), ((0, 0, 0), (0, 0, 1))),
)

rotation = Family(
  name="rotation",
  unit="degrees",
  parameters=("angle_deg",),  # + is counter-clockwise as displayed
  entries=_rotation,
  generator=(((0, 1, 0), (-1, 0, 0)),),
)

scaling = Family(
  name="scaling",
  unit="log2 factor",
  parameters=("log2_factor",),  # + magnifies
  entries=_scaling,
  generator=(((1, 0, 0), (0, 1, 0)),),
)

shear = Family(
  name="shear",
  unit="px per px",
  parameters=("kx", "ky"),  # x += kx y, y += ky x
  entries=_shear,
  generator=(((0, 1, 0), (0, 0, 0)), ((0, 0, 0), (1, 0, 0))),
)

reflection = Family(
  name="reflection",
  unit="flips",
  parameters=("flip_x", "flip_y"),  # 0 or 1: left-right, up-down
  entries=_reflection,
)

quarter_turn = Family(
  name="quarter_turn",
  unit="quarter turns",
  parameters=("k",),  # whole; + is counter-clockwise, as np.rot90
  entries=_quarter_turn,
)

# Any 2x3 matrix ((a, b, c), (d, e, f)): x' = a x + b y + c, y' = d x + e y + f.
matrix = Family(
  name="matrix",
  unit="matrix distance",
  parameters=("a", "b", "c", "d", "e", "f"),
  entries=_matrix,
  generator=tuple(
    tuple(tuple(float(3 * i + j == k) for j in range(3)) for i in range(2))
    for k in range(6)
  ),
  identity=(1, 0, 0, 0, 1, 0),
)

FAMILIES = {
  f.name: f
  for f in (
    translation,
    rotation,
    scaling,
    shear,
    reflection,
    quarter_turn,
    matrix,
  )
}


@dataclasses.dataclass(frozen=True)
class Composition(Family):
  """Families applied one after another; see `compose`.

  Attributes:
    parts: the families, the first to be applied first.
  """

  parts: tuple[Family, ...] = ()

  def magnitude(self, theta: Theta) -> float:
    """Distance of the matrix from the identity's; degrees do not add to px."""
    rows = self.matrix(theta)[:2].reshape(6)
    # Equal but for rounding is equal: opposite directions have one magnitude.
    return round(matrix.magnitude(rows), 9)


def compose(*families: Family) -> Family:
  """The family of transformations by all the given ones in turn.

  An image is resampled once, by the product of the matrices, so that less is
  lost than by warping it several times.

  Args:
    *families: at least one, the first to be applied first. Compositions are
      taken apart.

  Returns:
    A family such as "scaling+rotation" whose parameters are those of all parts
    in order, numbered where they would repeat. Its generator is that of all
    parts, empty if one of them is discrete; its magnitude is how far the 2x3
    matrix is from the identity's, as for `matrix`.

  Raises:
    ValueError: no family given.
  """
  if not families:
    raise ValueError("compose() needs at least one family, got none")
  if len(families) == 1:
    return families[0]
  parts = tuple(
    part
    for family in families
    for part in (family.parts if isinstance(family, Composition) else (family,))
  )
  names = [name for part in parts for name in part.parameters]
  discrete = not all(part.generator for part in parts)
  return Composition(
    name="+".join(part.name for part in parts),
    unit=matrix.unit,
    parameters=tuple(
      name if names.count(name) == 1 else f"{name}_{names[: i + 1].count(name)}"
      for i, name in enumerate(names)
    ),
    entries=functools.partial(_composed, parts),
    generator=() if discrete else sum((p.generator for p in parts), ()),
    identity=sum((p.identity or (0.0,) * len(p.parameters) for p in parts), ()),
    parts=parts,
  )


def _composed(
  parts: Sequence[Family], xp: Any, *parameters: Any
) -> Sequence[Sequence[Any]]:
  result, start = xp.eye(3), 0
  for part in parts:
    stop = start + len(part.parameters)
    own = parameters[start:stop]
    theta = own[0] if len(own) == 1 else xp.stack(own, axis=-1)
    result, start = affine.product(part.matrix(theta), result), stop
  return [[result[..., i, j] for j in range(3)] for i in range(2)]


def log2_factor(factor: float) -> float:
  """The scaling parameter of a magnification factor: 2.0 gives 1.0.

  Raises:
    ValueError: a factor that is not positive.
  """
  if not factor > 0:
    raise ValueError(f"scaling factor {factor} is not positive")
  return float(np.log2(factor))
