"""A network layer by layer, in numbers, checked against XLA and the arrays."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.errors import ExperimentError
from models import cost, geometry
from models.zoo import FAMILIES, Maker, Model

# How far our count of operations may be from XLA's, relative to it.
_TOLERANCE = 0.05

_HOLDS = {"zero": "zeros", "circular": "circular", "reflect": "reflected"}


class LayerRow(NamedTuple):
  """A layer, as the table prints it.

  Attributes:
    layer: its name.
    output: shape of one image's activation.
    kernel: width of the window; None without one.
    dilation: positions from one tap of the window to the next.
    stride: positions of the layer below per position; None without window.
    padding: what is added around its input, in words.
    offset: image coordinate of position 0 in pixels; None where the layer has
      no positions, NaN where it depends on the image.
    receptive_field: pixels that a position sees; the canvas without positions.
    parameters: learned numbers.
    flops: floating-point operations for one image.
  """

  layer: str
  output: tuple[int, ...]
  kernel: int | None
  dilation: int
  stride: int | None
  padding: str
  offset: float | None
  receptive_field: int
  parameters: int
  flops: int


class Totals(NamedTuple):
  """Sums over the layers, and the same from independent counts.

  Attributes:
    parameters: by the formulas.
    arrays: numbers in the initialised arrays.
    flops: by the formulas.
    xla_flops: by XLA's cost analysis of the network.
    note: why XLA counts something else, or empty.
  """

  parameters: int
  arrays: int
  flops: int
  xla_flops: int
  note: str


def layer_rows(model: Model, canvas: int, channels: int = 1) -> list[LayerRow]:
  """One row a layer, in forward order.

  Args:
    model: a network of `models`.
    canvas: width and height of its images.
    channels: of its images.

  Returns:
    The rows.

  Raises:
    ValueError: a canvas that the network cannot have.
  """
  counts = model.parameter_counts(canvas, channels)
  flops = cost.flops(model.specs, canvas, channels)
  rows = []
  for step in geometry.walk(model.specs, canvas, channels):
    spec, here = step.spec, step.here
    positions = geometry.positions(here)
    windowed = spec.kernel_size > 1 or spec.stride > 1 or spec.kind == "conv"
    rows.append(
      LayerRow(
        spec.name,
        (*(here.spatial or ()), cost.units(step) // positions),
        spec.kernel_size if windowed else None,
        spec.dilation,
        spec.stride if windowed else None,
        _padding(spec),
        here.offset if here.spatial else None,
        here.receptive_field,
        counts[spec.name],
        flops[spec.name],
      )
    )
  return rows


def _padding(spec: geometry.LayerSpec) -> str:
  if not spec.padding and not spec.extra:
    return ""
  amount = str(spec.padding)
  if spec.extra:
    amount += f"+{spec.extra}"  # one side has more
  return f"{amount} {_HOLDS[spec.border]}"


def totals(model: Model, canvas: int, channels: int = 1) -> Totals:
  """Sums by formula, checked against the arrays and against XLA.

  Args:
    model: a network of `models`.
    canvas: width and height of its images.
    channels: of its images.

  Returns:
    All four numbers.

  Raises:
    ExperimentError: parameters that are not those of the arrays, or operations
      further than 5 % from XLA's.
  """
  image = jax.ShapeDtypeStruct((1, canvas, canvas, channels), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  arrays = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  parameters = sum(model.parameter_counts(canvas, channels).values())
  if parameters != arrays:
    raise ExperimentError(
      f"formulas give {parameters} parameters, the arrays hold {arrays}: a"
      " fault of models/geometry.py"
    )
  flops = sum(cost.flops(model.specs, canvas, channels).values())
  lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, image)
  analysis: Any = lowered.cost_analysis()
  xla = int(analysis["flops"])
  note = ""
  if any(spec.kind == "local" for spec in model.specs):
    # XLA cuts patches out by a convolution with an identity kernel.
    patches = _patch_flops(model, canvas, channels)
    note = f"{patches:,} of them only to cut patches out, which we do not count"
    xla_counted = xla - patches
  else:
    xla_counted = xla
  if abs(flops - xla_counted) > _TOLERANCE * xla_counted:
    raise ExperimentError(
      f"formulas give {flops} operations, XLA counts {xla_counted}: a fault of"
      " models/cost.py"
    )
  return Totals(parameters, arrays, flops, xla, note)


def _patch_flops(model: Model, canvas: int, channels: int) -> int:
  """What XLA counts for cutting out the patches of locally connected layers."""
  total = 0
  for step in geometry.walk(model.specs, canvas, channels):
    spec = step.spec
    if spec.kind != "local":
      continue
    # The layer pads its input before it cuts patches out of it.
    side = math.isqrt(geometry.positions(step.below)) + 2 * spec.padding
    maps = jax.ShapeDtypeStruct((1, side, side, step.inputs), jnp.float32)

    def cut(x: Any, spec: Any = spec) -> Any:
      return jax.lax.conv_general_dilated_patches(
        x,
        (spec.kernel_size, spec.kernel_size),
        (spec.stride, spec.stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )

    analysis: Any = jax.jit(cut).lower(maps).cost_analysis()
    total += int(analysis["flops"])
  return total


def unshared_factor(model: Model, canvas: int, channels: int = 1) -> list[str]:
  """What sharing weights saves, in words: one line a convolution.

  Against a kernel of its own for every position, and against a dense layer of
  as many outputs.

  Args:
    model: a network of `models`.
    canvas: width and height of its images.
    channels: of its images.
  """
  lines = []
  for step in geometry.walk(model.specs, canvas, channels):
    spec = step.spec
    if spec.kind != "conv":
      continue
    shared = (spec.kernel_size**2 * step.inputs + spec.bias) * spec.features
    local = geometry.positions(step.here) * shared
    inputs = geometry.positions(step.below) * step.inputs
    dense = (inputs + spec.bias) * cost.units(step)
    lines.append(
      f"{spec.name}: {shared:,} parameters shared; {local:,}"
      f" ({local / shared:,.0f} times) locally connected; {dense:,}"
      f" ({dense / shared:,.0f} times) fully connected"
    )
  return lines


# --- families ----------------------------------------------------------------


def family_rows(name: str, canvas: int) -> list[dict[str, Any]]:
  """The networks of a family side by side.

  Args:
    name: a key of `models.zoo.FAMILIES`.
    canvas: width and height of the images.

  Returns:
    A row a network: label, depth, width, parameters, operations, and the
    resolution and receptive field of the last layer with positions.
  """
  return [
    _member(label, make, canvas) for label, make in FAMILIES[name].items()
  ]


def family_cells(name: str, canvas: int) -> list[dict[str, str]]:
  """A family's rows, as text by column."""
  return [
    {k: f"{v:,}" if isinstance(v, int) else str(v) for k, v in row.items()}
    for row in family_rows(name, canvas)
  ]


def _member(label: str, make: Maker, canvas: int) -> dict[str, Any]:
  model = make()
  where = [g for g in model.geometry(canvas).values() if g.spatial][-1]
  found = totals(model, canvas)
  fields: Any = model
  return {
    "network": label,
    "depth": fields.depth,
    "width": fields.width,
    "parameters": found.parameters,
    "flops": found.flops,
    "resolution": "x".join(map(str, where.spatial or ())),
    "stride": where.stride,
    "receptive_field": where.receptive_field,
  }


# --- printing ----------------------------------------------------------------


def layer_cells(row: LayerRow) -> dict[str, str]:
  """A layer's row, as text by column."""
  kernel = "" if row.kernel is None else f"{row.kernel}x{row.kernel}"
  if row.dilation > 1:
    kernel += f" dilated {row.dilation}"
  offset = "" if row.offset is None else f"{row.offset:g}"
  if row.offset is not None and math.isnan(row.offset):
    offset = "depends on image"
  return {
    "layer": row.layer,
    "output": "x".join(map(str, row.output)),
    "kernel": kernel,
    "stride": "" if row.stride is None else str(row.stride),
    "padding": row.padding,
    "offset (px)": offset,
    "receptive field (px)": str(row.receptive_field),
    "parameters": f"{row.parameters:,}",
    "FLOPs": f"{row.flops:,}",
  }


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
  """Columns side by side, numbers to the right."""
  return _aligned(rows, separator="  ", edge="")


def as_markdown(rows: Sequence[Mapping[str, str]]) -> str:
  """A Markdown table."""
  names = list(rows[0])
  lines = [names, ["---"] * len(names), *([*r.values()] for r in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(value: Any) -> str:
  """JSON, NaN as null."""

  def plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
      return None
    if isinstance(value, Mapping):
      return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return [plain(v) for v in value]
    return value

  return json.dumps(plain(value), indent=2, allow_nan=False)


def _aligned(
  rows: Sequence[Mapping[str, str]], separator: str, edge: str
) -> str:
  names = list(rows[0])
  numeric = {
    name: all(
      r[name] == ""
      or r[name].replace(",", "").replace(".", "").lstrip("-").isdigit()
      for r in rows
    )
    for name in names
  }
  widths = {n: max(len(n), *(len(r[n]) for r in rows)) for n in names}

  def line(cells: Mapping[str, str]) -> str:
    padded = [
      cells[n].rjust(widths[n]) if numeric[n] else cells[n].ljust(widths[n])
      for n in names
    ]
    return (edge + separator.join(padded) + edge).rstrip()

  header = {n: n for n in names}
  return "\n".join([line(header), *(line(r) for r in rows)])
