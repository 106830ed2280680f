"""Figures of speed: kernels under a roofline, and how cost grows."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.figures import style

_NETWORKS = {"max": "max pooling", "none": "no pooling"}
_DIRECTIONS = {"forward": "o", "backward": "^"}
_COLOURS = {
  "conv": "#e6550d",
  "conv+relu": "#08306b",
  "pool": "#41ab5d",
  "logits": "#ce6dbd",
}
_STEP = "#000000"
# Kernels this close, of each axis's logarithm, have one name.
_NEAR = 0.15
_PARTS = {"train": "training an epoch", "measure": "measuring"}
_PART_COLOURS = {"train": "#08306b", "measure": "#e6550d"}
_AXES = {
  "images": "images",
  "transformations": "transformations",
  "layers": "convolutions",
  "seeds": "seeds",
  "width": "channels",
}


# What the machine can do at most is the best that was seen of it.
_LIMITS = ("peak", "memory", "cache")


def rates(table: pd.DataFrame) -> pd.DataFrame:
  """One row an item of a roofline table, with one of its times.

  Args:
    table: of `experiments.roofline`; of a limit the shortest time is taken, of
      anything else the median.

  Returns:
    The items with `seconds`, `intensity` (FLOP a byte) and `rate` (FLOP/s), in
    the table's order.
  """
  keys = ["kind", "network", "name", "direction", "images", "flops", "bytes"]
  # An empty word may have been read back as not there.
  filled = table.fillna({"network": "", "direction": ""})
  seconds = filled.groupby(keys, sort=False)["seconds"].agg(["median", "min"])
  rows = seconds.reset_index()
  best = rows["kind"].isin(_LIMITS)
  rows["seconds"] = rows.pop("median").where(~best, rows.pop("min"))
  rows["intensity"] = rows["flops"] / rows["bytes"]
  rows["rate"] = rows["flops"] / rows["seconds"]
  return rows


def roofline(table: pd.DataFrame) -> Figure:
  """The layers' kernels under what the machine can do at most.

  Args:
    table: of `experiments.roofline`.

  Returns:
    The figure: a panel a network; arithmetic intensity against GFLOP/s, both
    logarithmic; lines for the peak and for the bandwidths.
  """
  rows = rates(table)
  kernels = rows[rows["kind"] == "kernel"]
  networks = list(dict.fromkeys(kernels["network"]))
  with mpl.rc_context(style.STYLE):
    figure, axes = style.new_figure(
      1, len(networks), (6.3 * len(networks), 5.4)
    )
    for axis, network in zip(axes[0], networks, strict=True):
      _roofs(axis, rows)
      own = kernels[kernels["network"] == network]
      for item in own.to_dict("records"):
        _point(axis, item)
      _name(axis, own)
      for item in rows[
        (rows["kind"] == "step") & (rows["network"] == network)
      ].to_dict("records"):
        axis.plot(
          item["intensity"], item["rate"] / 1e9, "*", color=_STEP, ms=11
        )
      axis.set_title(_NETWORKS.get(network, network))
      axis.set_xlabel("arithmetic intensity (FLOP per byte)")
    axes[0, 0].set_ylabel("GFLOP/s")
    _same_limits(axes[0])
    _legend(figure, kernels)
    repeats = int(table["repeat"].nunique())
    images = int(kernels["images"].max())
    style.caption(
      figure,
      "Forward and backward kernels of every layer, as training runs them, on"
      f" {images} images at once; the star is a whole training step. Bytes"
      " count every input and output once, so that a kernel whose data stays"
      " in a cache may lie above the line of the memory. Medians of"
      f" {repeats} repeats; of the lines the best.",
    )
  return figure


def _roofs(axis: Axes, rows: pd.DataFrame) -> None:
  """The peak, and below it what each bandwidth allows."""
  peak = rows[rows["kind"] == "peak"]["rate"].max()
  x = np.logspace(-2, 3, 200)
  for kind, dash, at in (("memory", "-", 0.12), ("cache", "--", 0.7)):
    item = rows[rows["kind"] == kind].iloc[0]
    bandwidth = item["bytes"] / item["seconds"]
    axis.loglog(
      x, np.minimum(peak, bandwidth * x) / 1e9, dash, color="#888888", zorder=1
    )
    # To the left, where no kernel can be.
    axis.annotate(
      f"{kind} {bandwidth / 1e9:.0f} GB/s",
      (at, bandwidth * at / 1e9),
      xytext=(-5, 5),
      textcoords="offset points",
      ha="right",
      va="bottom",
      fontsize=8,
      color="#555555",
    )
  axis.annotate(
    f"peak of a matrix product {peak / 1e9:.0f} GFLOP/s",
    (900, peak / 1e9),
    xytext=(0, 12),  # above the names of kernels that reach it
    textcoords="offset points",
    ha="right",
    fontsize=8,
    color="#555555",
  )


def _point(axis: Axes, item: dict[Any, Any]) -> None:
  colour = _COLOURS.get(_kind(item["name"]), "#636363")
  forward = item["direction"] == "forward"
  axis.plot(
    item["intensity"],
    item["rate"] / 1e9,
    _DIRECTIONS[item["direction"]],
    color=colour,
    mfc=colour if forward else "white",
    ms=6,
  )


def _name(axis: Axes, kernels: pd.DataFrame) -> None:
  """Names the convolutions, once where several lie on each other.

  What other kernels are, the colour says: they are one, or too close.
  """
  convolutions = kernels[kernels["name"].str.startswith("conv")]
  for direction, own in convolutions.groupby("direction"):
    forward = direction == "forward"
    items = own.sort_values("rate").to_dict("records")
    while items:
      first = items[0]
      near = [
        i
        for i in items
        if max(abs(np.log(i[k] / first[k])) for k in ("intensity", "rate"))
        < _NEAR
      ]
      items = [i for i in items if i not in near]
      axis.annotate(
        ", ".join(sorted(i["name"].partition("+")[0] for i in near)),
        (first["intensity"], first["rate"] / 1e9),
        xytext=(7 if forward else -7, 0),
        textcoords="offset points",
        ha="left" if forward else "right",
        va="center",
        fontsize=8,
        color=_COLOURS.get(_kind(first["name"]), "#636363"),
        bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8},
      )


def _kind(name: str) -> str:
  """What a layer is, without its number."""
  return "".join(c for c in name if not c.isdigit())


def _same_limits(axes: Any) -> None:
  low = min(a.dataLim.y0 for a in axes)
  high = max(a.dataLim.y1 for a in axes)
  points = [
    np.asarray(line.get_ydata()).min()
    for a in axes
    for line in a.lines
    if len(np.atleast_1d(line.get_xdata())) == 1
  ]
  low = max(low, min(points, default=low) / 3)
  for axis in axes:
    axis.set_xlim(0.01, 1000)
    axis.set_ylim(low, 2.2 * high)


def _legend(figure: Figure, kernels: pd.DataFrame) -> None:
  kinds = dict.fromkeys(_kind(name) for name in kernels["name"])
  handles = [
    Line2D([], [], color=_COLOURS.get(k, "#636363"), marker="s", ls="", label=k)
    for k in kinds
  ]
  handles += [
    Line2D(
      [],
      [],
      color="#444444",
      marker=marker,
      ls="",
      label=direction,
      mfc="#444444" if direction == "forward" else "white",
    )
    for direction, marker in _DIRECTIONS.items()
  ]
  handles.append(
    Line2D([], [], color=_STEP, marker="*", ls="", ms=9, label="whole step")
  )
  columns = len(handles) if figure.get_figwidth() > 9 else 4
  figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def growth(table: pd.DataFrame) -> Figure:
  """How the time of training and of measuring grows, one axis a panel.

  Args:
    table: of `experiments.scaling`.

  Returns:
    The figure: seconds against the amount of work, both logarithmic, with the
    range of the repeats, and a dotted line of proportional growth.
  """
  timed = table[table["repeat"] > 0]
  axes_there = [a for a in _AXES if (timed["axis"] == a).any()]
  parts = [p for p in _PARTS if (timed["part"] == p).any()]
  with mpl.rc_context(style.STYLE):
    figure, panels = style.new_figure(
      1, len(axes_there), (2.75 * len(axes_there), 3.9)
    )
    for panel, name in zip(panels[0], axes_there, strict=True):
      for part in parts:
        own = timed[(timed["part"] == part) & (timed["axis"] == name)]
        if len(own):
          _grown(panel, own, _PART_COLOURS[part])
      panel.set_xscale("log", base=2)
      panel.set_yscale("log")
      ticks = sorted(timed["value"][timed["axis"] == name].unique())
      panel.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
      panel.xaxis.set_minor_locator(NullLocator())
      panel.set_ylim(*_around(timed["seconds"]))
      panel.set_xlabel(_AXES[name])
    panels[0, 0].set_ylabel("seconds")
    handles = [
      Line2D([], [], color=_PART_COLOURS[p], marker="o", label=_PARTS[p])
      for p in parts
    ]
    handles.append(
      Line2D([], [], color="#888888", ls=":", label="proportional")
    )
    figure.legend(
      handles=handles, loc="outside upper center", ncols=len(handles)
    )
    repeats = int(timed["repeat"].max())
    style.caption(
      figure,
      "Time against one kind of work, everything else fixed. Lines are medians"
      f" of {repeats} repeats, bars their range; without the first, which"
      " compiles.",
    )
  return figure


def _around(seconds: pd.Series) -> tuple[float, float]:
  """Limits of all panels."""
  return 0.7 * seconds.min(), 1.4 * seconds.max()


def _grown(panel: Axes, rows: pd.DataFrame, colour: str) -> None:
  seconds = rows.groupby("value")["seconds"]
  amounts = np.unique(np.asarray(rows["value"]))
  middle, low, high = (
    np.asarray(values)
    for values in (seconds.median(), seconds.min(), seconds.max())
  )
  panel.errorbar(
    amounts,
    middle,
    yerr=np.stack([middle - low, high - middle]),
    color=colour,
    marker="o",
    capsize=2,
  )
  each = middle[-1] / amounts[-1]
  panel.plot(amounts, each * amounts, ":", color="#888888")
