"""Figures of what the networks answer, and of how they learned it."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.statistics import summarize, t_interval

_MEASURES = {
  "accuracy": "accuracy (share right)",
  "consistency": "consistency (share unchanged)",
}
_CURVES = {
  "train_loss": "training loss (nats)",
  "test_loss": "test loss (nats)",
  "test_accuracy": "test accuracy (share right)",
}


def accuracy_and_consistency(table: pd.DataFrame) -> Figure:
  """Accuracy and consistency against the size of the transformation.

  Args:
    table: measurements.

  Returns:
    The figure: a row a measure, a column a transformation, trained networks.
  """
  rows = table[
    table["measure"].isin(_MEASURES)
    & (table["orbit"] == table["transform"])
    & (table["stage"] == "trained")
  ]
  summary = summarize(rows)
  styles, names = style.architectures(rows), style.families(rows)
  with mpl.rc_context(style.STYLE):
    figure, axes = style.new_figure(2, len(names), (4.2 * len(names), 6.6))
    for line, (measure, label) in zip(axes, _MEASURES.items(), strict=True):
      for axis, family in zip(line, names, strict=True):
        for architecture in styles:
          points = summary[
            (summary["measure"] == measure)
            & (summary["transform"] == family)
            & (summary["run"] == architecture.run)
          ].sort_values("dose")
          style.line_with_band(
            axis,
            points["dose"],
            points,
            architecture.colour,
            marker=architecture.marker,
          )
        axis.set_ylim(0, 1.02)
        axis.set_title(family)
        style.dose_axis(axis, family)
      line[0].set_ylabel(label)
    style.legend(figure, styles, stages=False)
    style.caption(
      figure,
      "Accuracy, and share of images whose top-1 class is the same with and"
      f" without the transformation, on {style.datasets(rows)}; a consistent"
      f" network need not be right. {style.averaged(names)}Lines and bands:"
      f" {style.replication(summary)}.",
    )
  return figure


def training_curves(curves: pd.DataFrame) -> Figure:
  """Loss and test accuracy by epoch.

  Args:
    curves: one row a run, seed and epoch.

  Returns:
    The figure: a line an architecture, its interval over seeds as a band.
  """
  styles = style.architectures(curves)
  with mpl.rc_context(style.STYLE):
    figure, axes = style.new_figure(1, len(_CURVES), (12.6, 4.2))
    for axis, (column, label) in zip(axes[0], _CURVES.items(), strict=True):
      for architecture in styles:
        own = curves[curves["run"] == architecture.run].groupby("epoch")
        points = pd.DataFrame(
          [t_interval(list(values)) for _, values in own[column]],
          index=list(own.groups),
        )
        style.line_with_band(
          axis,
          points.index,
          points,
          architecture.colour,
          marker=architecture.marker,
        )
      axis.set_xlabel("epoch")
      axis.set_ylabel(label)
      axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[0, :2]:
      axis.set_ylim(bottom=0)
    style.legend(figure, styles, stages=False)
    style.caption(
      figure,
      f"Training on {style.datasets(curves)}. Lines and bands:"
      f" {style.over_seeds(curves['seed'].nunique())}.",
    )
  return figure
