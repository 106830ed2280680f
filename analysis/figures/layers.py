"""Figures of invariance, layer by layer."""

import itertools
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.statistics import summarize


def _invariance(table: pd.DataFrame) -> pd.DataFrame:
  """Rows of the invariance error under the families' own orbits."""
  return table[
    (table["measure"] == "invariance_error")
    & (table["orbit"] == table["transform"])
  ]


def invariance_by_layer(table: pd.DataFrame) -> Figure:
  """Invariance error layer by layer, a panel a transformation.

  Args:
    table: measurements.

  Returns:
    The figure: a line an architecture, its interval over seeds as a band,
    dashed before training.
  """
  rows = _invariance(table)
  summary = summarize(rows)
  styles, positions = style.architectures(rows), layer_positions(rows)
  names = style.families(rows)
  with mpl.rc_context(style.STYLE):
    figure, axes = style.new_figure(1, len(names), (4.2 * len(names), 4.8))
    for axis, family in zip(axes[0], names, strict=True):
      at, dose = style.at_reference(summary, family)
      for line in styles:
        draw_layers(axis, at[at["run"] == line.run], line, positions)
      axis.set_xticks(list(positions.values()), list(positions), rotation=90)
      axis.axhline(1.0, color="#888888", lw=0.8, ls=":")
      axis.set_ylim(bottom=0)
      axis.set_title(f"{family} by {dose}")
      axis.set_xlabel("layer")
    axes[0, 0].set_ylabel("invariance error")
    style.legend(figure, styles, stages=True)
    style.caption(
      figure,
      f"Invariance error by layer on {style.datasets(rows)}: 0 is invariant, 1"
      f" (dotted) as far as another image. {style.directions(names)}Solid:"
      " trained; dashed: the same networks before training; thin lines only"
      " join layers with none between them. Lines and bands:"
      f" {style.replication(summary)}.",
    )
  return figure


def layer_positions(table: pd.DataFrame) -> dict[str, int]:
  """A shared abscissa for the layers of all architectures.

  Layers of the same block stand side by side; a network that lacks a layer
  skips its place.

  Args:
    table: measurements or a summary of them.

  Returns:
    The place of each layer by its name.
  """
  order = ("conv", "dense", "norm", "add", "", "max", "avg", "pool")

  def key(name: str) -> tuple[int, int]:
    kind = name.rstrip("0123456789")
    number = name[len(kind) :]
    # The empty name stands for whatever the activation is called.
    place = order.index(kind if kind in order else "")
    return (int(number), place) if number else (99, len(name))

  return {
    name: i for i, name in enumerate(sorted(set(table["layer"]), key=key))
  }


def draw_layers(
  axis: Axes, rows: pd.DataFrame, line: style.Style, positions: dict[str, int]
) -> None:
  """Draws one architecture layer by layer, dashed before training.

  Args:
    axis: to draw on.
    rows: of a summary, one a stage and layer.
    line: the architecture.
    positions: abscissa of each layer, see `layer_positions`.
  """
  for stage in ("init", "trained"):
    own = rows[rows["stage"] == stage].sort_values("layer_index")
    x = np.array([positions[name] for name in own["layer"]])
    trained = stage == "trained"
    linestyle = "solid" if trained else style.UNTRAINED
    # A shallow network has nothing where a deep one has layers: there its line
    # is only a thin guide for the eye, without a band.
    pieces = np.split(np.arange(len(x)), np.flatnonzero(np.diff(x) > 2) + 1)
    for piece in pieces:
      style.line_with_band(
        axis,
        x[piece],
        own.iloc[piece],
        line.colour,
        marker=line.marker,
        linestyle=linestyle,
        markerfacecolor=line.colour if trained else "white",
      )
    mean = own["mean"].to_numpy()
    faint = {"alpha": 0.35, "lw": 0.7, "zorder": 1, "linestyle": linestyle}
    for before, after in itertools.pairwise(pieces):
      ends = [before[-1], after[0]]
      axis.plot(x[ends], mean[ends], color=line.colour, **faint)


def dose_response(table: pd.DataFrame) -> Figure:
  """Invariance error against the size of the transformation, a line a layer.

  Args:
    table: measurements.

  Returns:
    The figure: a row an architecture (trained), a column a transformation.
  """
  rows = _invariance(table)
  rows = rows[rows["stage"] == "trained"]
  summary = summarize(rows)
  styles, names = style.architectures(rows), style.families(rows)
  top = 1.05 * float(summary["mean"].max())
  with mpl.rc_context(style.STYLE):
    size = (4.0 * len(names) + 1.2, 2.6 * len(styles) + 0.9)
    figure, axes = style.new_figure(len(styles), len(names), size)
    for line, architecture in zip(axes, styles, strict=True):
      own = summary[summary["run"] == architecture.run]
      for axis, family in zip(line, names, strict=True):
        _draw_doses(axis, own[own["transform"] == family])
        axis.axhline(1.0, color="#888888", lw=0.8, ls=":")
        axis.set_ylim(0, top)
        axis.set_title(f"{architecture.label}: {family}")
        style.dose_axis(axis, family)
      line[0].set_ylabel("invariance error")
      line[-1].legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, title="layer"
      )
    style.caption(
      figure,
      "Invariance error against the size of the transformation on"
      f" {style.datasets(rows)}, trained networks: 0 is invariant, 1 (dotted)"
      f" as far as another image. {style.averaged(names)}Lines and bands:"
      f" {style.replication(summary)}.",
    )
  return figure


def _draw_doses(axis: Axes, summary: pd.DataFrame) -> None:
  layers = summary.sort_values("layer_index")["layer"].unique()
  colours = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(layers)))
  for i, layer in enumerate(layers):
    points = summary[summary["layer"] == layer].sort_values("dose")
    style.line_with_band(
      axis,
      points["dose"],
      points,
      colours[i],
      marker=style.MARKERS[i % len(style.MARKERS)],
      markersize=3,
      linestyle=("-", "--", ":")[i // len(style.MARKERS) % 3],
      label=layer,
    )


def sensitivity_map(table: pd.DataFrame, layers: Sequence[str] = ()) -> Figure:
  """Invariance error over a grid of translations, pooled beside not pooled.

  Args:
    table: measurements with an orbit "translation_map".
    layers: which layers; the first and last ReLU and the logits by default.

  Returns:
    The figure: a row a layer, a column an architecture, of the deepest there
    are.
  """
  rows = table[
    (table["measure"] == "invariance_error")
    & (table["orbit"] == "translation_map")
    & (table["stage"] == "trained")
  ]
  rows = rows[rows["depth"] == rows["depth"].max()]
  styles = style.architectures(rows)
  default = dict.fromkeys(("relu1", f"relu{styles[0].depth}", "logits"))
  layers = [k for k in layers or default if k in set(rows["layer"])]
  shifts = np.array([theta.split(",") for theta in rows["theta"]], float)
  rows = rows.assign(dx=shifts[:, 0], dy=shifts[:, 1])
  rows = rows[rows["layer"].isin(layers)]
  means = rows.groupby(["run", "layer", "dy", "dx"])["value"].mean()
  with mpl.rc_context(style.STYLE | {"axes.grid": False}):
    size = (3.3 * len(styles) + 1.2, 2.9 * len(layers) + 1.1)
    figure, axes = style.new_figure(len(layers), len(styles), size)
    meshes = []
    for line, layer in zip(axes, layers, strict=True):
      for axis, architecture in zip(line, styles, strict=True):
        grid = means[architecture.run, layer].unstack("dx")
        meshes.append(_draw_map(axis, grid, float(means.max())))
        axis.set_title(f"{layer}: {architecture.label}")
    figure.colorbar(meshes[0], ax=axes, label="invariance error", shrink=0.6)
    style.caption(
      figure,
      f"Sensitivity to translation on {style.datasets(rows)}: invariance error"
      " for every shift of a grid, trained networks; the white line is at 0.5,"
      f" halfway to another image. Mean over n = {rows['seed'].nunique()}"
      f" seeds; {int(rows['n_images'].max())} test images each.",
    )
  return figure


def _draw_map(axis: Axes, grid: pd.DataFrame, top: float) -> QuadMesh:
  x, y = grid.columns.to_numpy(), grid.index.to_numpy()
  mesh = axis.pcolormesh(x, y, grid, vmin=0, vmax=top, cmap="viridis")
  if grid.to_numpy().min() < 0.5 < grid.to_numpy().max():
    axis.contour(x, y, grid, levels=[0.5], colors="white", linewidths=1.2)
  axis.invert_yaxis()
  axis.set_aspect("equal")
  axis.set_xticks(x[:: max(len(x) // 7, 1)])
  axis.set_yticks(y[:: max(len(y) // 7, 1)])
  axis.set_xlabel("dx (px, right)")
  axis.set_ylabel("dy (px, down)")
  return mesh
