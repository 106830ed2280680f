"""From the rows of measures to one tidy table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.actions import Orbit
from analysis.measures import Measure, Row

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
  "note",
)


def collect_rows(
  measures: Sequence[Measure],
  states: Sequence[Any],
  layers: Sequence[str],
  reasons: Mapping[str, str],
) -> list[Row]:
  """The rows of all measures, layers in forward order.

  Args:
    measures: the measures.
    states: their final states, on the host.
    layers: names in forward order.
    reasons: why a layer has no map, for the measures that need one.

  Returns:
    All rows.

  Raises:
    ValueError: a value that is not finite for no stated reason, which only
      activations that are not finite give.
  """
  rows = []
  for m, state in zip(measures, states, strict=True):
    found = m.finalize(state)
    for row in found:
      if not np.isfinite(row.value) and not row.note:
        raise ValueError(
          f"layer {row.layer!r}: {row.measure} is {row.value}, so an activation"
          " is not finite"
        )
    if "maps" in m.needs:
      nan = float("nan")
      found += [Row(k, m.name, nan, note=why) for k, why in reasons.items()]
    position = {name: i for i, name in enumerate(layers)}
    rows += sorted(found, key=lambda r: position.get(r.layer, len(position)))
  return rows


def table(
  rows: Sequence[Row],
  layers: Sequence[str],
  n_images: int,
  describe: Callable[[int | None], dict[str, Any]],
) -> pd.DataFrame:
  """One row a value, columns `COLUMNS`.

  Args:
    rows: the values.
    layers: names in forward order; the output comes after them.
    n_images: number of images behind every value.
    describe: the columns of an orbit element, or of the whole orbit for None.

  Returns:
    The table.
  """
  index = {name: i for i, name in enumerate(layers)}
  records = [
    {
      "layer": row.layer,
      "layer_index": index.get(row.layer, len(index)),
      **describe(row.element),
      "measure": row.measure,
      "value": row.value,
      "floor": row.floor,
      "n_images": n_images,
      "dead_fraction": row.dead_fraction,
      "total_variance": row.total_variance,
      "note": row.note,
    }
    for row in rows
  ]
  return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def describe_orbit(
  o: Orbit, intensity: Float[np.ndarray, "h w"]
) -> Callable[[int | None], dict[str, Any]]:
  """Columns of each element of an orbit, and of the orbit as a whole.

  Args:
    o: the orbit.
    intensity: summed intensity of the images at each pixel.

  Returns:
    From an element's index, or None for the whole orbit, to its columns. The
    whole has the largest magnitude, displacement and loss of its elements.
  """
  elements = [
    {
      "theta": ",".join(f"{v:g}" for v in np.atleast_1d(theta)),
      "magnitude": o.family.magnitude(theta),
      "displacement_px": o.family.displacement(theta, intensity),
      "lost_intensity": o.family.lost_intensity(
        theta, intensity, border=o.border
      ),
    }
    for theta in o.thetas
  ]
  numbers = ("magnitude", "displacement_px", "lost_intensity")
  whole = {"theta": "all"} | {k: max(e[k] for e in elements) for k in numbers}
  common = {"orbit": o.name, "transform": o.family.name, "unit": o.family.unit}
  return lambda element: (
    common | (whole if element is None else elements[element])
  )


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
  lost = lost[lost["theta"] != "all"]
  return {
    str(family): (
      float(rows["magnitude"].min()),
      float(rows["lost_intensity"].max()),
    )
    for family, rows in lost.groupby("transform", sort=False)
  }


def describe_given(element: int | None) -> dict[str, Any]:
  """Columns of an orbit that is known only by its activations."""
  nan = float("nan")
  return {
    "orbit": "given",
    "transform": "given",
    "theta": "all" if element is None else str(element),
    "magnitude": nan,
    "unit": "",
    "displacement_px": nan,
    "lost_intensity": nan,
  }
