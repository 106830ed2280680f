"""The figure of a claim that is counted, not estimated."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.base import Claim
from analysis.figures import style

_RIGHT, _WRONG = "#1b7837", "#b2182b"


def exact_figure(claim: Claim, exact: pd.DataFrame) -> Figure:
  """Every number that a claim rests on: as claimed, and as counted.

  Args:
    claim: one with exact checks.
    exact: columns check, what, expected, obtained, counted.

  Returns:
    The figure: a circle for the number claimed, a dot for the one counted, red
    where it is another.
  """
  rows = exact[exact["check"].isin(claim.exact)].to_dict("records")
  with mpl.rc_context(style.STYLE):
    height = 1.5 + 0.34 * len(rows)
    figure, axes = style.new_figure(1, 1, (11.0, height))
    axis = axes[0, 0]
    for y, row in enumerate(rows):
      right = row["expected"] == row["obtained"]
      axis.plot(
        row["expected"],
        y,
        marker="o",
        markersize=10,
        color="#444444",
        markerfacecolor="none",
        clip_on=False,
      )
      axis.plot(
        row["obtained"],
        y,
        marker="o",
        markersize=5,
        color=_RIGHT if right else _WRONG,
        clip_on=False,
      )
      layers = f", {row['counted']} layers" if row["counted"] > 1 else ""
      axis.text(
        1.02,
        y,
        f"claimed {row['expected']:,}, counted {row['obtained']:,}{layers}",
        transform=axis.get_yaxis_transform(),
        va="center",
        fontsize=8,
      )
    axis.set_yticks(
      range(len(rows)), [str(row["what"]) for row in rows], fontsize=8
    )
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xscale("symlog", linthresh=1)
    largest = max([1, *(max(r["expected"], r["obtained"]) for r in rows)])
    ticks = [0, *(10**i for i in range(len(str(largest)) + 1))]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlim(0, ticks[-1])
    axis.minorticks_off()
    axis.set_xlabel("number (linear to 1, then logarithmic)")
    style.caption(
      figure,
      "Circle: the number claimed. Dot: the number counted on real layers,"
      " green where it is the same, red where not. Exact: no seeds, no"
      " interval.",
    )
  return figure
