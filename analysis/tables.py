"""From the rows of measures to one tidy table."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.actions import Orbit
from analysis.measures import Elements, Measure, Row
from analysis.measures.yardstick import NOT_FINITE, YARDSTICK
from analysis.streaming import Layer

COLUMNS = (
  "layer",
  "layer_index",
  "orbit",
  "transform",
  "theta",
  "magnitude",
  "unit",
  "displacement_px",
  "lost_intensity",
  "measure",
  "value",
  "floor",
  "n_images",
  "dead_fraction",
  "total_variance",
  "protocol",
  "note",
)

# The layer of a row that says why a measure does not apply to an orbit.
ALL_LAYERS = "all layers"

_NUMBERS = ("magnitude", "displacement_px", "lost_intensity")

# What a generator's parameter is measured in, where it is not the family's.
_GENERATOR_UNITS = {
  "translation": "px",
  "rotation": "radian",
  "scaling": "natural log of the factor",
  "shear": "px per px",
}


@dataclasses.dataclass
class Result:
  """The rows of one orbit, and what every row of it shares.

  Attributes:
    orbit: the orbit, or None if only its activations are known.
    images: number of images behind every value.
    elements: the orbit's.
    layers: names in forward order; the output comes after them.
    batch: images whose pairs are compared.
    measures: in the order of the table.
    intensity: (h, w) summed intensity of the images at each pixel, if known.
  """

  orbit: Orbit | None
  images: int
  elements: Elements
  layers: list[str]
  batch: int
  measures: tuple[Measure, ...]
  intensity: Float[np.ndarray, "h w"] | None = None
  _rows: list[tuple[int, int, str, Row, dict[str, Any]]] = dataclasses.field(
    default_factory=list
  )
  _shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  _yardsticks: dict[str, tuple[float, float]] = dataclasses.field(
    default_factory=dict
  )
  _protocols: dict[str, str] = dataclasses.field(default_factory=dict)

  def add(self, layer: Layer, measure: Measure, rows: Sequence[Row]) -> None:
    """Adds what a measure found of a layer.

    Args:
      layer: the layer.
      measure: the measure; the yardstick's rows go beside those of all others.
      rows: its rows.

    Raises:
      ValueError: a value that is not finite for no stated reason, which only
        activations that are not finite give.
    """
    self._shapes[layer.key] = layer.shape
    for row in rows:
      if not np.isfinite(row.value) and not row.note:
        raise ValueError(self._not_finite(layer, measure, row))
    if measure.name == YARDSTICK:
      total, dead = (row.value for row in rows)
      self._yardsticks[layer.key] = total, dead
      return
    for row in rows:
      self._add(layer.name, layer.key, measure, row)

  def _not_finite(self, layer: Layer, measure: Measure, row: Row) -> str:
    under = ""
    if row.element is not None:
      under = f" under element {row.element + 1} of the orbit"
    if row.element is not None and self.orbit is not None:
      under = f" under {self.orbit.name} {self._describe(row)['theta']}"
    if row.measure == NOT_FINITE:
      return (
        f"layer {layer.name!r} has values that are not finite (NaN or"
        f" infinite){under}"
      )
    rate = any(need.startswith("tangents") for need in measure.needs)
    what = "a derivative" if rate else "an activation"
    return (
      f"layer {layer.name!r}: {row.measure} is {row.value}{under}, so {what} is"
      " not finite"
    )

  def add_missing(self, layer: str, measure: Measure, reason: str) -> None:
    """Adds the row that says why a measure has no value."""
    self._add(
      layer, layer, measure, Row(measure.name, float("nan"), note=reason)
    )

  def _add(self, layer: str, key: str, measure: Measure, row: Row) -> None:
    rank = self.measures.index(measure)
    index = self._index
    # The output comes last, also where a layer is called so.
    position = index.get(key, -1 if key == ALL_LAYERS else len(index))
    total, dead = self._yardsticks.get(key, (float("nan"),) * 2)
    record = {
      "layer": layer,
      "layer_index": position,
      **self._describe(row),
      "measure": row.measure,
      "value": row.value,
      "floor": row.floor,
      "n_images": self.images,
      "dead_fraction": dead
      if np.isnan(row.dead_fraction)
      else row.dead_fraction,
      "total_variance": total,
      "protocol": self._protocol(measure),
      "note": row.note,
    }
    self._rows.append((rank, position, key, row, record))

  @functools.cached_property
  def _index(self) -> dict[str, int]:
    return {name: i for i, name in enumerate(self.layers)}

  def _sorted(self) -> list[tuple[int, int, str, Row, dict[str, Any]]]:
    """By measure in the order asked for, then by layer."""
    return sorted(self._rows, key=lambda entry: entry[:2])

  def table(self) -> pd.DataFrame:
    """One row a value, columns `COLUMNS`."""
    records = [record for *_, record in self._sorted()]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))

  def units(self) -> dict[str, dict[str, np.ndarray]]:
    """{row's measure: {layer: values of the layer's units}}."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for _, _, layer, row, _ in self._sorted():
      if row.units is not None:
        values = np.asarray(row.units).reshape(self._shapes[layer])
        result.setdefault(row.measure, {})[layer] = values
    return result

  def _protocol(self, measure: Measure) -> str:
    """What identifies a value: measure, extent of the orbit, version."""
    if measure.name not in self._protocols:
      self._protocols[measure.name] = self._name(measure)
    return self._protocols[measure.name]

  def _name(self, measure: Measure) -> str:
    parts = [measure.protocol]
    if self.orbit is not None:
      rate = any(need.startswith("tangents") for need in measure.needs)
      parts.append(self.orbit.family.name if rate else extent(self.orbit))
    if "pairs" in measure.needs and self.batch < self.images:
      parts.append(f"blocks-of-{self.batch}")
    return "-".join([*parts, f"v{measure.version}"])

  def _describe(self, row: Row) -> dict[str, Any]:
    """The columns that say which transformation a row is of."""
    o, nan = self.orbit, float("nan")
    if o is None:
      theta = "all" if row.element is None else str(row.element)
      common = {"orbit": "given", "transform": "given", "theta": theta}
      numbers = {"magnitude": nan, "displacement_px": nan}
      return {**common, **numbers, "unit": row.unit, "lost_intensity": nan}
    result: dict[str, Any] = {
      "orbit": o.name,
      "transform": o.family.name,
      "unit": row.unit or o.family.unit,
    }
    if row.generator is not None:
      result["theta"] = f"d/d{o.family.parameters[row.generator]}"
      unit = _GENERATOR_UNITS.get(o.family.name, "parameter")
      result["unit"] = row.unit or f"per {unit}^2"
      return result | dict.fromkeys(_NUMBERS, nan)
    if row.radius is not None:
      at = np.isclose(self.elements.magnitude, row.radius)
      found = {k: float(v[at].mean()) for k, v in self._numbers.items()}
      return result | {"theta": "ring"} | found | {"magnitude": row.radius}
    if row.element is None:
      whole = {k: float(v.max()) for k, v in self._numbers.items()}
      return result | {"theta": "all"} | whole
    theta = np.atleast_1d(o.thetas[row.element])
    result["theta"] = ",".join(f"{v:g}" for v in theta)
    return result | {k: float(v[row.element]) for k, v in self._numbers.items()}

  @functools.cached_property
  def _numbers(self) -> dict[str, np.ndarray]:
    """Magnitude, displacement and lost intensity of every element."""
    o = self.orbit
    assert o is not None
    lost = [float("nan")] * len(o.thetas)
    moved = lost
    if self.intensity is not None:
      at = self.intensity
      lost = [o.family.lost_intensity(t, at, border=o.border) for t in o.thetas]
      moved = [o.family.displacement(t, at) for t in o.thetas]
    size = [o.family.magnitude(t) for t in o.thetas]
    columns = zip(_NUMBERS, (size, moved, lost), strict=True)
    return {name: np.asarray(values, np.float64) for name, values in columns}


def extent(o: Orbit) -> str:
  """How far an orbit goes, for the name of a protocol: "3px", "90deg"."""
  largest = float(np.abs(np.asarray(o.thetas, np.float64)).max())
  form = {
    "translation": "{:g}px",
    "rotation": "{:g}deg",
    "scaling": "x{:g}",
    "shear": "shear-{:g}",
  }
  if o.family.name == "scaling":
    largest = 2**largest
  text = form.get(o.family.name, o.family.name).format(largest)
  kind = "" if o.order == 1 else "-cubic"
  border = "" if o.border == "zero" else f"-{o.border}"
  return f"{text}{kind}{border}"


def of_elements(table: pd.DataFrame) -> pd.Series:
  """Which rows are of a single orbit element.

  Not those of a whole orbit, of a ring of a sensitivity map or of a derivative.

  Args:
    table: measurements.

  Returns:
    One boolean a row.
  """
  several = table["theta"].isin(["all", "ring"])
  return ~(several | table["theta"].str.startswith("d/d"))


# More than this share of the images leaving the canvas is worth a warning: what
# is then measured is partly the loss.
LOST_INTENSITY = 0.01


def lost_beyond(table: pd.DataFrame) -> dict[str, tuple[float, float]]:
  """Families whose transformations push image content off the canvas.

  Args:
    table: measurements.

  Returns:
    By family, the smallest magnitude at which more than `LOST_INTENSITY` of
    the intensity is lost, in the family's unit, and the largest share lost at
    any. Families that lose less are left out.
  """
  lost = table[table["lost_intensity"] > LOST_INTENSITY]
  # Of a whole orbit the largest element is described, not the first to lose.
  lost = lost[of_elements(lost)]
  return {
    str(family): (
      float(rows["magnitude"].min()),
      float(rows["lost_intensity"].max()),
    )
    for family, rows in lost.groupby("transform", sort=False)
  }
