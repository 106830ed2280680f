"""One figure a claim: what was measured, and the effects read off it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.claims.base import Claim
from analysis.claims.verdicts import DECIDES
from analysis.figures import layers, style
from analysis.statistics import summarize

# Lines of a claim differ in marker too; colours that a colour-blind eye tells
# apart (Okabe and Ito), dark enough for a white page.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8f5a83", "#56606b", "#b8860b")

VERDICT_COLOURS = {
  "supported": "#1b7837",
  "refuted": "#b2182b",
  "equivalent": "#35608d",
  "inconclusive": "#6b6b6b",
}

MEASURES = {
  "invariance_error": "invariance error",
  "equivariance_error": "equivariance error",
  "normalized_variance": "normalised variance",
  "goodfellow": "Goodfellow's score",
}

# Effects are drawn in multiples of their margin, on a scale that is linear up
# to three times the margin and logarithmic beyond.
_LINEAR = 3.0
_TICKS = (1, 2, 3, 5, 10, 30, 100, 1000)


class _Line(NamedTuple):
  """A line of the upper panels."""

  cell: str
  run: str
  layer: str
  stage: str
  colour: str
  marker: str
  order: int

  @property
  def drawn(self) -> dict[str, Any]:
    trained = self.stage == "trained"
    return {
      "marker": self.marker,
      "linestyle": "solid" if trained else style.UNTRAINED,
      "markerfacecolor": self.colour if trained else "white",
      # The first named lies on top, and a value of 0 has a whole marker.
      "zorder": 3 - 0.01 * self.order,
      "clip_on": False,
    }


def claim_figure(
  claim: Claim,
  effects: pd.DataFrame,
  values: pd.DataFrame,
  measurements: pd.DataFrame,
  runs: Mapping[str, str],
) -> Figure:
  """The measurements behind a claim above its effects.

  Args:
    claim: the claim.
    effects: of `verdicts.judge`; those of the claim are drawn.
    values: of `verdicts.judge`, one a seed.
    measurements: of the study.
    runs: the run of each cell.

  Returns:
    The figure. Effects are in multiples of their smallest effect of interest:
    thick 95 % intervals, thin ones adjusted for all claims, a dot a seed.
  """
  effects = effects[(effects["claim"] == claim.id) & (effects["n_seeds"] > 0)]
  summary = _summary(claim, measurements, runs)
  panels = _panels(claim, runs, summary)
  height = 1.3 + 0.34 * len(effects)
  top = 3.5 if panels else 0.0
  with mpl.rc_context(style.STYLE):
    figure, axes = style.new_mosaic(
      max(len(panels), 1), bool(panels), (11.0, top + height), (top, height)
    )
    lines = _distinct(_lines(claim, runs), summary) if panels else []
    for axis, panel in zip(axes[:-1], panels, strict=False):
      _draw_panel(axis, claim, panel, lines, summary)
    own = values[values["claim"] == claim.id]
    _draw_effects(axes[-1], effects, own)
    if panels and claim.view.x != "displacement":
      _legend(figure, lines)
    style.caption(figure, _caption(effects, summary if panels else None))
  return figure


class _Panel(NamedTuple):
  """An upper panel: a measure under a family, or a cell."""

  measure: str
  transform: str = ""
  cell: str = ""


def _panels(
  claim: Claim, runs: Mapping[str, str], summary: pd.DataFrame
) -> list[_Panel]:
  """Those that there are measurements for."""
  view = claim.view
  cells = [cell for cell in view.cells if cell in runs]
  if not view.x or not cells:
    return []
  measures = view.measure.split("|")
  if view.x == "displacement":
    return [_Panel(measures[0], cell=cell) for cell in cells]
  known = set(zip(summary["measure"], summary["transform"], strict=True))
  return [
    _Panel(m, transform=t)
    for m in measures
    for t in view.transforms
    if (m, t) in known
  ]


def _lines(claim: Claim, runs: Mapping[str, str]) -> list[_Line]:
  view = claim.view
  result = []
  cells = [cell for cell in view.cells if cell in runs]
  shown = view.layers if view.x == "dose" else ("",)
  for i, (cell, layer) in enumerate((c, k) for c in cells for k in shown):
    colour = _COLOURS[i % len(_COLOURS)]
    marker = style.MARKERS[i % len(style.MARKERS)]
    for stage in view.stages:
      result.append(_Line(cell, runs[cell], layer, stage, colour, marker, i))
  return result


def _distinct(lines: Sequence[_Line], summary: pd.DataFrame) -> list[_Line]:
  """Without those that another covers.

  Networks that differ in their training only are the same before it.
  """
  kept, seen = [], []
  for line in lines:
    own = summary[
      (summary["run"] == line.run) & (summary["stage"] == line.stage)
    ]
    if line.layer:
      own = own[own["layer"] == line.layer]
    keys = ["measure", "transform", "layer_index", "dose"]
    means = own.sort_values(keys)["mean"].to_numpy()
    if line.stage == "init":
      if any(_equal(means, m) for m in seen):
        continue
      seen.append(means)
    kept.append(line)
  return kept


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
  """But for rounding: blocks of other sizes add up in another order."""
  return one.shape == other.shape and bool(
    np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
  )


def _summary(
  claim: Claim, measurements: pd.DataFrame, runs: Mapping[str, str]
) -> pd.DataFrame:
  view = claim.view
  own = {runs[cell] for cell in view.cells if cell in runs}
  rows = measurements[
    measurements["run"].isin(own)
    & measurements["measure"].isin(view.measure.split("|"))
    & (measurements["orbit"] == measurements["transform"])
    & measurements["transform"].isin(view.transforms)
    & measurements["stage"].isin(view.stages)
  ]
  return summarize(rows)


def _draw_panel(
  axis: Axes,
  claim: Claim,
  panel: _Panel,
  lines: Sequence[_Line],
  summary: pd.DataFrame,
) -> None:
  kind = claim.view.x
  rows = summary[summary["measure"] == panel.measure]
  axis.set_ylabel(MEASURES.get(panel.measure, panel.measure))
  if kind == "displacement":
    run = next(line.run for line in lines if line.cell == panel.cell)
    layer = claim.view.layers[0]
    rows = rows[(rows["run"] == run) & (rows["layer"] == layer)]
    _draw_displacement(axis, claim.view.transforms, rows)
    axis.set_title(f"{panel.cell}: {layer}")
  else:
    rows = rows[rows["transform"] == panel.transform]
    draw = _draw_layers if kind == "layer" else _draw_doses
    draw(axis, panel.transform, lines, rows)
  # Space for a first marker at 0, but no negative values where there are none.
  axis.set_ylim(bottom=0)


def _draw_layers(
  axis: Axes, family: str, lines: Sequence[_Line], rows: pd.DataFrame
) -> None:
  whole = len(rows["dose"].unique()) == 1
  rows, dose = style.at_reference(rows, family)
  rows = rows.dropna(subset="mean")
  positions = layers.layer_positions(rows)
  axis.set_xticks(list(positions.values()), list(positions), rotation=90)
  axis.set_title(f"{family} {'up to' if whole else 'by'} {dose}")
  for line in lines:
    own = rows[(rows["run"] == line.run) & (rows["stage"] == line.stage)]
    own = own.sort_values("layer_index")
    x = [positions[name] for name in own["layer"]]
    style.line_with_band(axis, x, own, line.colour, **line.drawn)
    if line.stage == "trained" and own["floor"].notna().any():
      axis.plot(x, own["floor"], color=line.colour, ls=":", lw=0.9)


def _draw_doses(
  axis: Axes, family: str, lines: Sequence[_Line], rows: pd.DataFrame
) -> None:
  for line in lines:
    own = rows[
      (rows["run"] == line.run)
      & (rows["layer"] == line.layer)
      & (rows["stage"] == line.stage)
    ].sort_values("dose")
    style.line_with_band(axis, own["dose"], own, line.colour, **line.drawn)
  axis.set_title(family)
  style.dose_axis(axis, family)


def _draw_displacement(
  axis: Axes, transforms: Sequence[str], rows: pd.DataFrame
) -> None:
  for i, family in enumerate(transforms):
    own = rows[(rows["transform"] == family) & (rows["dose"] >= 0)]
    own = own.sort_values("displacement_px")
    style.line_with_band(
      axis,
      own["displacement_px"],
      own,
      _COLOURS[i],
      marker=style.MARKERS[i],
      label=family,
      clip_on=False,
    )
  axis.set_xlabel("displacement of the content (px)")
  axis.legend(loc="lower right", fontsize=8)


def _legend(figure: Figure, lines: Sequence[_Line]) -> None:
  handles = []
  for line in lines:
    label = f"{line.cell}, {line.layer}" if line.layer else line.cell
    if line.layer == "logits":
      label = line.cell
    if len({other.stage for other in lines}) > 1:
      label += f", {'trained' if line.stage == 'trained' else 'untrained'}"
    handles.append(Line2D([], [], color=line.colour, label=label, **line.drawn))
  figure.legend(
    handles=handles, loc="outside upper center", ncols=min(len(handles), 4)
  )


# --- effects -----------------------------------------------------------------


def _draw_effects(
  axis: Axes, effects: pd.DataFrame, values: pd.DataFrame
) -> None:
  """A row an effect, in multiples of its margin, its number beside it."""
  axis.axvspan(-1, 1, color="#eeeeee", zorder=0)
  for edge in (-1, 0, 1):
    axis.axvline(edge, color="#999999", lw=0.7, ls="-" if edge == 0 else ":")
  rows = effects.to_dict("records")
  for y, row in enumerate(rows):
    margin = row["margin"]
    colour = VERDICT_COLOURS.get(row["verdict"], "#6b6b6b")
    own = values[
      (values["label"] == row["label"]) & (values["role"] == row["role"])
    ]
    axis.plot(
      own["value"] / margin,
      np.full(len(own), y + 0.24),
      ls="none",
      marker=".",
      color="#777777",
      markersize=3.5,
    )
    for low, high, width in (
      ("low_holm", "high_holm", 1.0),
      ("low", "high", 3),
    ):
      ends = np.array([row[low], row[high]]) / margin
      axis.plot(ends, [y, y], color=colour, lw=width, solid_capstyle="butt")
    hollow = row["role"] != DECIDES
    axis.plot(
      row["effect"] / margin,
      y,
      marker="o",
      color=colour,
      markerfacecolor="white" if hollow else colour,
    )
    axis.text(
      1.01,
      y,
      _number(row),
      transform=axis.get_yaxis_transform(),
      va="center",
      fontsize=8,
    )
  axis.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
  for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
    tick.set_fontweight("bold" if row["role"] == DECIDES else "normal")
  axis.set_ylim(len(rows) - 0.4, -0.6)
  axis.grid(visible=False)
  axis.set_xscale("symlog", linthresh=_LINEAR, linscale=2.0)
  axis.set_xlim(*_limits(effects))
  signed = [-t for t in reversed(_TICKS)] + [0, *_TICKS]
  ticks = [t for t in signed if _inside(axis, t)]
  axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
  axis.minorticks_off()
  label = "effect, in multiples of its smallest effect of interest"
  if max(map(abs, axis.get_xlim())) > _LINEAR:
    label += f" (beyond {_LINEAR:g} on a logarithmic scale)"
  axis.set_xlabel(label)


def _limits(effects: pd.DataFrame) -> tuple[float, float]:
  """So far that every 95 % interval is seen; adjusted ones may be cut."""
  margin = effects["margin"]
  ends = pd.concat(
    [effects[name] / margin for name in ("low", "high", "effect")]
  )
  low, high = float(ends.min()), float(ends.max())
  return min(-1.5, low * (1.25 if low < 0 else 1)), max(1.5, high * 1.25)


def _inside(axis: Axes, value: float) -> bool:
  low, high = axis.get_xlim()
  return bool(low <= value <= high)


def _label(row: Mapping[Any, Any]) -> str:
  sign = {
    "greater": "> 0",
    "at_least": f"≥ {row['margin']:g}",
    "at_most": f"≤ {row['margin']:g}",
    "equivalent": f"within ±{row['margin']:g}",
  }[row["rule"]]
  role = "" if row["role"] in (DECIDES, "beside") else f" ({row['role']})"
  return f"{row['label']}{role}  [{sign}]"


def _number(row: Mapping[Any, Any]) -> str:
  unit = f" {row['unit']}" if row["unit"] else ""
  text = f"{row['effect']:.3g}{unit}"
  if row["low"] == row["low"]:
    text += f" ({row['low']:.3g} to {row['high']:.3g})"
  return f"{text}, n = {row['n_seeds']}"


def _caption(effects: pd.DataFrame, summary: pd.DataFrame | None) -> str:
  text = (
    "Effects: thick, 95 % interval over seeds; thin, adjusted for all claims; a"
    " dot a seed; grey, smaller than what matters. Bold: these decide. Green"
    " supported, red refuted, blue equivalent, grey inconclusive."
  )
  if summary is None:
    return text
  floors = ""
  if (summary["measure"] == "equivariance_error").any():
    floors = " Dotted: the floor, what resampling alone costs."
  return (
    f"Above: {style.replication(summary)}, on {style.datasets(summary)}."
    f"{floors} {text}"
  )
