"""How all figures look, and which run has which line.

Lines differ in marker and dash as well as in colour, and colours in lightness,
so that grey prints work.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from PIL import Image

from analysis import statistics

UNITS = {
  "translation": "shift (px)",
  "rotation": "angle (degrees)",
  "scaling": "scaling (log2 of the factor)",
  "shear": "shear (px per px)",
  "reflection": "mirror",
  "quarter_turn": "quarter turns (counter-clockwise)",
}

# Compositions and matrices that users give have no size of their own.
_OTHER_UNIT = "distance of the matrix from the identity"

# Doses that are kinds, not sizes: see `statistics.dose`.
_KINDS = {
  "reflection": ("none", "left-right", "up-down", "both"),
  "quarter_turn": ("0", "1", "2", "3"),
}

# What a mean over the elements of one dose is over. Each mirror, each quarter
# turn and each scaling, whose dose has a sign, is a dose of its own.
_AVERAGED = {
  "translation": "right, left, down and up",
  "rotation": "both directions",
  "shear": "both axes and directions",
}
_OTHER_AVERAGED = "all as far from the identity"

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNTRAINED = (0, (4, 2))

_COLOURS = {
  "max": "#08306b",
  "none": "#e6550d",
  "avg": "#41ab5d",
  "stride": "#ce6dbd",
}

# For other kinds of downsampling, in the order of a table.
_MORE_COLOURS = ("#636363", "#8c6d31", "#17becf", "#9467bd", "#ad494a")

_POOLINGS = {
  "none": "no pooling",
  "stride": "strided convolution",
  "dilate": "dilated convolution",
  "aps": "adaptive polyphase",
  "lps": "learned polyphase",
}

_MODELS = {
  "local": "untied weights",
  "pyramid": "scale pyramid",
  "p4cnn": "p4 group",
  "p4mcnn": "p4m group",
}

DATASETS = {
  "digits": "scikit-learn's digits",
  "mnist": "MNIST",
  "fashion_mnist": "Fashion-MNIST",
  "kmnist": "KMNIST",
}

STYLE = {
  "font.size": 9,
  "axes.titlesize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#dddddd",
  "grid.linewidth": 0.6,
  "legend.frameon": False,
  "lines.linewidth": 1.4,
  "lines.markersize": 4,
  "figure.dpi": 100,
  "savefig.dpi": 150,
  "svg.hashsalt": "partial-invariance",
  "svg.fonttype": "path",
}


class Style(NamedTuple):
  """How one architecture is drawn.

  Attributes:
    run: the run's name.
    label: the architecture in words.
    depth: its depth.
    colour: by pooling.
    marker: by depth, or by pooling where all are equally deep.
  """

  run: str
  label: str
  depth: int
  colour: str
  marker: str


def render(figure: Figure, *, few_colours: bool = False) -> dict[str, bytes]:
  """A figure as files, without dates or random identifiers.

  Args:
    figure: the figure.
    few_colours: whether 256 colours are enough, which makes a PNG of lines a
      third of its size; shades of a colour map would show steps.

  Returns:
    Content by suffix: ".png" and ".svg".
  """
  files = {}
  for suffix, metadata in (
    (".png", {"Software": None}),
    (".svg", {"Date": None, "Creator": None}),
  ):
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
      figure.savefig(buffer, format=suffix[1:], metadata=metadata)
    files[suffix] = buffer.getvalue()
  if few_colours:
    files[".png"] = _with_palette(files[".png"])
  return files


def _with_palette(png: bytes) -> bytes:
  """The same picture with a palette of its 256 most useful colours."""
  picture = Image.open(io.BytesIO(png)).convert("RGB")
  buffer = io.BytesIO()
  picture.quantize(
    256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
  ).save(buffer, "PNG")
  return buffer.getvalue()


def new_figure(
  rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, Any]:
  """An empty figure and its (rows, columns) axes; size in inches."""
  layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06)
  figure = Figure(figsize=size, layout=layout)
  return figure, figure.subplots(rows, columns, squeeze=False)


def new_mosaic(
  columns: int,
  panels: bool,
  size: tuple[float, float],
  heights: tuple[float, float],
) -> tuple[Figure, list[Any]]:
  """An empty figure with panels side by side above one of full width.

  Args:
    columns: number of panels above.
    panels: whether there are any.
    size: in inches.
    heights: of both rows, in any unit.

  Returns:
    The figure, and its axes: the panels, then the full-width one.
  """
  layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06)
  figure = Figure(figsize=size, layout=layout)
  if not panels:
    return figure, [figure.subplots()]
  # Figures of their own: long labels below must not squeeze what is above.
  parts: Any = figure.subfigures(2, 1, height_ratios=heights)
  above, below = parts
  axes = above.subplots(1, columns, squeeze=False)[0]
  return figure, [*axes, below.subplots()]


def caption(figure: Figure, text: str) -> None:
  """Puts a wrapped caption below everything else."""
  width = int(figure.get_figwidth() * 15.5)
  figure.supxlabel(
    textwrap.fill(text, width), fontsize=8, x=0.01, ha="left", color="#333333"
  )


def architectures(table: pd.DataFrame) -> list[Style]:
  """The runs of a table, in its order.

  Args:
    table: measurements, training curves or a summary of them.

  Returns:
    One style a run. Labels name the width too where two runs would share one.
  """
  runs = table.drop_duplicates("run").to_dict("records")
  depths = sorted({row["depth"] for row in runs})
  labels = [_label(row) for row in runs]
  kinds = dict.fromkeys(row["pooling"] for row in runs)
  others = [kind for kind in kinds if kind not in _COLOURS]
  colours = _COLOURS | {
    kind: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, kind in enumerate(others)
  }
  return [
    Style(
      row["run"],
      label if labels.count(label) == 1 else f"{label} ({row['run']})",
      int(row["depth"]),
      colours[row["pooling"]],
      MARKERS[
        (
          depths.index(row["depth"])
          if len(depths) > 1
          else list(kinds).index(row["pooling"])
        )
        % len(MARKERS)
      ],
    )
    for row, label in zip(runs, labels, strict=True)
  ]


def _label(row: Mapping[Any, Any]) -> str:
  if row["model"] == "mlp":
    return f"fully connected, depth {row['depth']}"
  kind = row["pooling"]
  # As in max_blur:3: what comes first, and the size.
  words = kind.replace("_", " + ").replace(":", " ")
  pooling = _POOLINGS.get(kind, f"{words} pooling")
  parts = [_MODELS.get(row["model"], ""), pooling, f"depth {row['depth']}"]
  return ", ".join(filter(None, parts))


def legend(figure: Figure, styles: list[Style], *, stages: bool) -> None:
  """One legend above all panels."""
  handles = [
    Line2D([], [], color=s.colour, marker=s.marker, label=s.label)
    for s in styles
  ]
  if stages:
    handles += [
      Line2D([], [], color="#444444", label="trained"),
      Line2D([], [], color="#444444", ls=UNTRAINED, label="untrained"),
    ]
  columns = 4 if len(handles) in (4, 7, 8) else 3
  figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def line_with_band(
  axis: Axes, x: Any, rows: pd.DataFrame, colour: Any, **line: Any
) -> None:
  """Draws the mean as a line and the interval over seeds as a band."""
  axis.plot(x, rows["mean"], color=colour, **line)
  low, high = rows["low"], rows["high"]
  if len(rows) == 1:  # a band has no width there
    axis.vlines(x, low, high, color=colour, alpha=0.3, lw=4, zorder=1)
  else:
    axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def dose_axis(axis: Axes, family: str) -> None:
  """Names the abscissa of a dose-response curve; ticks that do not touch."""
  axis.set_xlabel(UNITS.get(family, _OTHER_UNIT))
  if family in _KINDS:
    axis.set_xticks(range(len(_KINDS[family])), _KINDS[family])
  else:
    axis.locator_params(axis="x", nbins=6)


def families(table: pd.DataFrame) -> list[str]:
  """The families of a table that have doses, in the order of the figures.

  Args:
    table: measurements or a summary of them.

  Returns:
    Names: the built-in families first, then others in the table's order.
  """
  dose = table["dose" if "dose" in table else "magnitude"]
  present = list(table["transform"][dose > 0].unique())
  others = [name for name in present if name not in UNITS]
  return [name for name in UNITS if name in present] + others


def at_reference(
  summary: pd.DataFrame, family: str
) -> tuple[pd.DataFrame, str]:
  """One family's rows at its reference dose, or at the nearest there is.

  A family without a reference, such as a composition, has its smallest dose.

  Args:
    summary: of `statistics.summarize`.
    family: the family's name.

  Returns:
    The rows, and the dose in words.
  """
  rows = summary[summary["transform"] == family]
  wanted, name = statistics.REFERENCE_DOSES.get(family, (0.0, ""))
  doses = rows["dose"][rows["dose"] > 0]
  nearest = float(doses.iloc[int((doses - wanted).abs().argmin())])
  if not (name and np.isclose(nearest, wanted, atol=1e-3)):
    name = f"{nearest:.3g} {rows['unit'].iloc[0]}"
    if family == "reflection":
      name = f"{_KINDS[family][int(nearest)]} mirror"
  return rows[rows["dose"] == nearest], name


def directions(names: Sequence[str]) -> str:
  """What is averaged over, for captions of figures at the reference doses.

  Args:
    names: of the families that are shown.

  Returns:
    A sentence and a space; empty if there is nothing to say.
  """
  parts = [
    f"{name} over {_AVERAGED.get(name, _OTHER_AVERAGED)}"
    for name in _several(names)
  ]
  parts = [", ".join(parts).replace(" over ", " is averaged over ", 1)]
  parts += ["scaling magnifies"] if "scaling" in names else []
  text = "; ".join(filter(None, parts))
  return f"{text[:1].upper()}{text[1:]}. " if text else ""


def averaged(names: Sequence[str]) -> str:
  """The same without the details, for figures of all doses."""
  *rest, last = _several(names) or [""]
  if not last:
    return ""
  text = f"{', '.join(rest)} and {last} are" if rest else f"{last} is"
  return f"{text[:1].upper()}{text[1:]} averaged over directions. "


def _several(names: Sequence[str]) -> list[str]:
  """Families that have several elements of one dose."""
  return [name for name in names if name in _AVERAGED or name not in UNITS]


def replication(table: pd.DataFrame) -> str:
  """Seeds, interval and images of a summary, for captions."""
  seeds, images = int(table["n_seeds"].max()), int(table["n_images"].max())
  return f"{over_seeds(seeds)}; {images} test images each"


def over_seeds(seeds: int) -> str:
  """What the lines and bands are, for captions."""
  if seeds == 1:
    return "1 seed, so no interval"
  return f"mean and 95 % t interval over n = {seeds} seeds"


def datasets(table: pd.DataFrame) -> str:
  """The data sets of a table, for captions."""
  names = sorted(set(table["dataset"]))
  return ", ".join(DATASETS.get(name, name) for name in names)
