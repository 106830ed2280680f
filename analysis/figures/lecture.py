"""The lecture's page: what a kernel, a stack of them and pooling compute."""

from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures import style

_PLAIN = style.STYLE | {"axes.grid": False}
_BOX = "#e6550d"


def _image(
  axis: Axes,
  values: Any,
  title: str = "",
  cmap: str = "gray",
  limits: tuple[float, float] | None = None,
) -> None:
  """A picture without ticks."""
  low, high = limits or (None, None)
  axis.imshow(values, cmap, interpolation="nearest", vmin=low, vmax=high)
  axis.set_title(title, fontsize=8)
  axis.set_xticks([])
  axis.set_yticks([])


def _signed(axis: Axes, values: Any, title: str = "") -> None:
  """A picture of weights: white is 0, blue negative, red positive."""
  top = float(np.abs(values).max()) or 1.0
  _image(axis, values, title, "RdBu_r", (-top, top))


def _numbers(axis: Axes, values: Any, form: str = ".2f") -> None:
  """The values as text in their cells."""
  backdrop = {"fc": "white", "ec": "none", "alpha": 0.6, "pad": 1}
  for (i, j), value in np.ndenumerate(values):
    text = f"{value:{form}}".replace("-0.00", "0.00")
    middle = {"ha": "center", "va": "center"}
    axis.text(j, i, text, fontsize=6.5, bbox=backdrop, **middle)


def _box(axis: Axes, row: float, column: float, size: int) -> None:
  axis.add_patch(
    Rectangle((column - 0.5, row - 0.5), size, size, ec=_BOX, fc="none", lw=1.8)
  )


def weighted_sum(
  image: Float[np.ndarray, "h w"],
  kernel: Float[np.ndarray, "k k"],
  patch: Float[np.ndarray, "k k"],
  products: Float[np.ndarray, "k k"],
  feature_map: Float[np.ndarray, "p q"],
  at: tuple[int, int],
) -> Figure:
  """The sum behind one number of a feature map.

  Args:
    image: the digit.
    kernel: the detector.
    patch: what it sees at `at`.
    products: patch times kernel.
    feature_map: all its sums.
    at: (row, column) of the number in the map.

  Returns:
    The figure: digit, patch, kernel, products and map in a row.
  """
  with mpl.rc_context(_PLAIN):
    figure, axes = style.new_figure(1, 5, (13.0, 3.6))
    digit, seen, weights, terms, result = axes[0]
    _image(digit, image, "digit and receptive field")
    _box(digit, *at, len(kernel))
    _image(seen, patch, "what the kernel sees", limits=(0, 1))
    _numbers(seen, patch)
    _signed(weights, kernel, "times its weights")
    _numbers(weights, kernel)
    _signed(terms, products, f"add up to {products.sum():.3f}")
    _numbers(terms, products)
    _signed(result, feature_map, "one number of the feature map")
    _box(result, *at, 1)
    height, width = feature_map.shape
    style.caption(
      figure,
      f"A {len(kernel)}x{len(kernel)} kernel on a real digit of"
      f" {image.shape[0]}x{image.shape[1]} pixels: each number of the"
      f" {height}x{width} feature map is the sum of products at one place."
      " The kernel is not flipped: layers compute the cross-correlation. Blue"
      " is negative, red positive.",
    )
  return figure


def detectors(
  digits: Float[np.ndarray, "2 h w"],
  kernels: Float[np.ndarray, "n k k"],
  still: Float[np.ndarray, "n p q"],
  moved: Float[np.ndarray, "n p q"],
  shift: int,
) -> Figure:
  """Learned filters, and their maps of a digit and its shifted copy.

  Args:
    digits: the digit and its copy.
    kernels: the filters.
    still: their maps of the digit.
    moved: their maps of the copy.
    shift: pixels to the right.

  Returns:
    The figure: a column a filter.
  """
  count = len(kernels)
  with mpl.rc_context(_PLAIN):
    figure, axes = style.new_figure(3, count + 1, (1.35 * (count + 1), 4.9))
    axes[0, 0].axis("off")
    _image(axes[1, 0], digits[0], "digit")
    _image(axes[2, 0], digits[1], f"{shift} px to the right")
    for i, kernel in enumerate(kernels, start=1):
      _signed(axes[0, i], kernel, f"filter {i}")
      _signed(axes[1, i], still[i - 1])
      _signed(axes[2, i], moved[i - 1])
    style.caption(
      figure,
      "Several detectors, several feature maps: learned filters of the first"
      " layer (top), their maps of a digit (middle) and of the same digit"
      f" shifted by {shift} px (bottom). Each map moves along: equivariant, not"
      " invariant. Blue is negative, red positive; each map has its own scale.",
    )
  return figure


def pooling(
  maps: Float[np.ndarray, "3 9 9"],
  largest: Float[np.ndarray, "3 3 3"],
  means: Float[np.ndarray, "3 3 3"],
) -> Figure:
  """3x3 pooling of a map whose largest value moves.

  Args:
    maps: as it is, moved inside its window, and across its border.
    largest: their maximum over each window.
    means: their mean over each window.

  Returns:
    The figure: a row a map.
  """
  titles = ("the 8 in the middle", "elsewhere in its window", "in the next one")
  with mpl.rc_context(_PLAIN):
    figure, axes = style.new_figure(3, 3, (8.4, 8.8))
    for line, title, *values in zip(
      axes, titles, maps, largest, means, strict=True
    ):
      for axis, value, name, form in zip(
        line,
        values,
        (f"map: {title}", "max pooling", "average pooling"),
        ("g", "g", ".2f"),
        strict=True,
      ):
        _image(axis, value, name, "Blues", (0, 12))
        _numbers(axis, value, form)
      for border in (2.5, 5.5):
        line[0].axhline(border, color=_BOX, lw=1.2)
        line[0].axvline(border, color=_BOX, lw=1.2)
    style.caption(
      figure,
      "3x3 pooling with stride 3: where in its window the 8 sits does not"
      " matter to the maximum, nor, if it changes places with a neighbour, to"
      " the mean; across the border both change. Invariance is local.",
    )
  return figure


def edges(
  kernels: Float[np.ndarray, "n k k"],
  fitted: Float[np.ndarray, "n k k"],
  r_squared: Float[np.ndarray, " n"],
  orientation: Float[np.ndarray, " n"],
  populations: dict[str, Float[np.ndarray, " m"]],
  level: float,
) -> Figure:
  """Learned filters beside their fits, and R-squared against random filters.

  Args:
    kernels: the filters of one network.
    fitted: the best derivative of a Gaussian for each.
    r_squared: of each fit.
    orientation: of each fit, in degrees.
    populations: R-squared of all filters, by what they are.
    level: R-squared that an edge detector exceeds.

  Returns:
    The figure: filters in falling order of R-squared, and distributions.
  """
  order = np.argsort(-np.asarray(r_squared))
  with mpl.rc_context(_PLAIN):
    figure, axes = style.new_figure(1, 1, (11.0, 6.6))
    axes[0, 0].remove()
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = parts
    # Two rows of filters, each above its fits.
    columns = -(-len(kernels) // 2)
    grid = left.subplots(4, columns, squeeze=False)
    for axis in grid.flat:
      axis.axis("off")
    for place, i in enumerate(order):
      line, column = 2 * (place // columns), place % columns
      _signed(grid[line, column], kernels[i], f"filter {i + 1}")
      title = f"R² {r_squared[i]:.2f}, {orientation[i]:.0f}°"
      _signed(grid[line + 1, column], fitted[i], title)
    axis = right.subplots()
    colours = ("#bdbdbd", "#e6550d", "#08306b")
    for (name, values), colour, dash in zip(
      populations.items(), colours, ("-", "--", "-"), strict=True
    ):
      x = np.sort(np.asarray(values))
      axis.step(
        x,
        np.arange(1, len(x) + 1) / len(x),
        where="post",
        color=colour,
        ls=dash,
        lw=1.8,
        label=f"{name} (n = {len(x)})",
      )
    axis.axvline(level, color="#444444", lw=0.9, ls=":")
    axis.set_xlabel("R² of the best derivative of a Gaussian")
    axis.set_ylabel("share of filters below")
    axis.set_xlim(0, 1)
    axis.legend(fontsize=7, loc="upper left")
    style.caption(
      figure,
      "Are the learned filters edge detectors? Left: the filters of one"
      " network, and below each the derivative of a Gaussian that is closest to"
      " it, with the direction in which it rises. Right: how well it explains"
      " them, beside random filters fitted the same way; dotted: the 95th"
      " percentile of random filters.",
    )
  return figure
