"""One figure of all other measures, layer by layer."""

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.layers import draw_layers, layer_positions
from analysis.statistics import summarize

# What is drawn, if it was measured: the axis, with the value at perfect
# invariance, or equivariance.
_LABELS = {
  "equivariance_error": "equivariance error\n0 equivariant",
  "same_equivariance_variance": "same-equiv. variance\n0 equivariant",
  "normalized_variance": "normalised variance\n0 invariant",
  "normalized_distance": "normalised distance\n0 invariant",
  "goodfellow": "Goodfellow, local / global\n100 invariant",
  "anova": "anova, share of units\n0 invariant",
  "cosine": "cosine\n1 invariant",
  "cka": "CKA: information kept,\nnot invariance; 1 all",
  "equivariant_map_3x3": "R² of a 3x3 map\n1 linearly equivariant",
  "lie_derivative": "Lie derivative\n0 invariant",
  "invariance_radius_px": "invariance radius (px)\nlarger: more invariant",
}


def other_measures(table: pd.DataFrame) -> list[str]:
  """The measures that `measures_by_layer` can draw, in its order."""
  present = set(table["measure"][_drawable(table)])
  return [name for name in _LABELS if name in present]


def _drawable(table: pd.DataFrame) -> pd.Series:
  own = table["orbit"] == table["transform"]
  return own & table["measure"].isin(_LABELS) & table["value"].notna()


def measures_by_layer(table: pd.DataFrame) -> Figure:
  """Every measure of layers but the invariance error, layer by layer.

  Args:
    table: measurements that hold one of them at least.

  Returns:
    The figure: a row a measure, a column a transformation; a line an
    architecture, its interval over seeds as a band, dashed before training.
  """
  rows = table[_drawable(table)]
  measures = other_measures(table)
  summary = summarize(rows)
  styles, positions = style.architectures(rows), layer_positions(rows)
  # Derivatives alone have no dose.
  names = style.families(rows) or list(rows["transform"].unique())
  whole = set(rows["measure"][rows["theta"] == "all"])
  with mpl.rc_context(style.STYLE):
    size = (4.2 * len(names), 1.9 * len(measures) + 2.4)
    figure, axes = style.new_figure(len(measures), len(names), size)
    for line, measure in zip(axes, measures, strict=True):
      own = summary[summary["measure"] == measure]
      for axis, family in zip(line, names, strict=True):
        if axis is not line[0]:
          axis.sharey(line[0])  # before anything is drawn, to hold it all
        at = own[own["transform"] == family]
        what = ": whole orbit"
        if measure not in whole:
          at, what = _at(at, family)
        for architecture in styles:
          shown = at[at["run"] == architecture.run]
          draw_layers(axis, shown, architecture, positions)
          _draw_floor(axis, shown, architecture, positions)
        axis.set_title(f"{family}{what}")
        axis.set_xlim(-0.5, len(positions) - 0.5)
        axis.set_xticks(list(positions.values()), [])
        axis.label_outer()
      line[0].set_ylabel(_LABELS[measure], fontsize=8)
    for axis in axes[-1]:
      axis.set_xticks(list(positions.values()), list(positions), rotation=90)
    style.legend(figure, styles, stages=True)
    style.caption(
      figure,
      f"Other measures by layer on {style.datasets(rows)}, for the size of the"
      " transformation in the title or the whole orbit."
      f" {style.directions(names)}Solid: trained; dashed: the same networks"
      " before training; dotted: the floor of the equivariance error, what"
      " resampling alone costs. Layers without a value, such as those whose"
      " receptive field leaves the canvas, have no mark. Lines and bands:"
      f" {style.replication(summary)}.",
    )
  return figure


def _draw_floor(
  axis: Axes, rows: pd.DataFrame, line: style.Style, positions: dict[str, int]
) -> None:
  """The floor of equivariance errors, which is the same before training."""
  own = rows[(rows["stage"] == "trained") & rows["floor"].notna()]
  if own.empty:
    return
  own = own.sort_values("layer_index")
  x = [positions[name] for name in own["layer"]]
  axis.plot(x, own["floor"], color=line.colour, lw=1.0, ls=":")


def _at(rows: pd.DataFrame, family: str) -> tuple[pd.DataFrame, str]:
  """The rows of one size, and what it is, in words for a title."""
  if rows["dose"].isna().all():
    return rows, "" if rows.empty else ": derivative"
  at, dose = style.at_reference(rows, family)
  return at, f" by {dose}"
