"""The lecture's arithmetic on real digits and real layers, as numbers.

Each function computes one of the lecture's statements twice, by hand and by the
layer that networks are made of, and returns what a page needs to show it.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import signal

from analysis import filters
from analysis.statistics import t_interval
from models import layers
from models.geometry import output_size
from models.zoo import MODELS

# Pixels that the copy of the digit is shifted to the right.
SHIFT = 4

_WIDTHS, _KERNELS = (7, 9, 12, 28, 32), (1, 2, 3, 5, 7)
_PADDINGS, _STRIDES = (0, 1, 2), (1, 2, 3)


class Sum(NamedTuple):
  """How one number of a feature map comes about.

  Attributes:
    patch: (k, k) what the kernel sees: the receptive field.
    products: (k, k) patch times kernel.
    value: their sum.
    row: of the number in the map, which is that of the patch's first row.
    column: likewise.
  """

  patch: Float[np.ndarray, "k k"]
  products: Float[np.ndarray, "k k"]
  value: float
  row: int
  column: int


def weighted_sum(
  image: Float[np.ndarray, "h w"],
  kernel: Float[np.ndarray, "k k"],
  row: int,
  column: int,
) -> Sum:
  """One number of a feature map, in float64.

  Args:
    image: a digit.
    kernel: the detector.
    row: of the number in the map.
    column: likewise.
  """
  size = len(kernel)
  patch = image[row : row + size, column : column + size].astype(np.float64)
  products = patch * kernel
  return Sum(patch, products, float(products.sum()), row, column)


def slide(
  image: Float[np.ndarray, "h w"], kernel: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "p q"]:
  """The weighted sum at every place where the kernel fits: a feature map."""
  height, width = (output_size(n, len(kernel)) for n in image.shape)
  return np.array(
    [
      [weighted_sum(image, kernel, i, j).value for j in range(width)]
      for i in range(height)
    ]
  )


def layer_map(
  image: Float[np.ndarray, "h w"], kernel: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "p q"]:
  """The same by the layer that networks are made of, in float32."""
  maps = layers.convolution(
    jnp.asarray(image, jnp.float32)[None, :, :, None],
    jnp.asarray(kernel, jnp.float32)[:, :, None, None],
    jnp.zeros(1),
  )
  return np.asarray(maps)[0, :, :, 0]


def row(
  section: str, quantity: str, value: float, note: str = "", **more: Any
) -> dict[str, Any]:
  """A line of the table of numbers."""
  empty = {"low": float("nan"), "high": float("nan"), "n": 1}
  line = {"section": section, "quantity": quantity, "value": float(value)}
  return line | empty | more | {"note": note}


def convolution_numbers(
  image: Float[np.ndarray, "h w"], kernel: Float[np.ndarray, "k k"]
) -> list[dict[str, Any]]:
  """The layer against the sum by hand and against SciPy, both ways round."""
  ours, by_hand = layer_map(image, kernel), slide(image, kernel)
  correlated = signal.correlate2d(image, kernel, mode="valid")
  flipped = signal.convolve2d(image, kernel, mode="valid")
  turned = layer_map(image, kernel[::-1, ::-1].copy())

  def apart(one: Any, other: Any) -> float:
    return float(np.abs(one - other).max())

  name = "convolution"
  return [
    row(
      name,
      "layer against the weighted sum, largest difference",
      apart(ours, by_hand),
    ),
    row(
      name, "layer against SciPy's cross-correlation", apart(ours, correlated)
    ),
    row(
      name,
      "layer against SciPy's convolution",
      apart(ours, flipped),
      "not the same: no layer flips its kernel",
    ),
    row(
      name,
      "layer with the kernel flipped against SciPy's convolution",
      apart(turned, flipped),
    ),
  ]


def size_table() -> pd.DataFrame:
  """Output width by the formula and of a real layer, for a grid of sizes."""
  lines = []
  for width, kernel, padding, stride in itertools.product(
    _WIDTHS, _KERNELS, _PADDINGS, _STRIDES
  ):
    shape = jax.eval_shape(
      lambda x, k, b, s=stride, p=padding: layers.convolution(
        x, k, b, stride=s, padding=p
      ),
      jax.ShapeDtypeStruct((1, width, width, 1), jnp.float32),
      jax.ShapeDtypeStruct((kernel, kernel, 1, 1), jnp.float32),
      jax.ShapeDtypeStruct((1,), jnp.float32),
    ).shape
    formula = output_size(width, kernel, padding, stride)
    lines.append((width, kernel, padding, stride, formula, shape[1]))
  columns = ["width", "kernel", "padding", "stride", "formula", "layer"]
  return pd.DataFrame(lines, columns=columns)


def size_numbers(table: pd.DataFrame) -> list[dict[str, Any]]:
  """LeNet-5's first layer, and how often the formula is wrong."""
  lenet = table.query("width == 32 and kernel == 5 and padding == 0")
  lenet = lenet[lenet["stride"] == 1].iloc[0]
  wrong = int((table["formula"] != table["layer"]).sum())
  return [
    row("output size", "32 wide, kernel 5: the formula", lenet["formula"]),
    row("output size", "32 wide, kernel 5: a real layer", lenet["layer"]),
    row(
      "output size",
      "layers of another size than the formula's",
      wrong,
      f"of {len(table)} widths, kernels, paddings and strides",
      n=len(table),
    ),
  ]


def parameter_numbers() -> list[dict[str, Any]]:
  """A convolution's parameters against a dense layer's, from real arrays."""
  image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)

  def learned(model: Any, layer: str) -> dict[str, int]:
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return {k: v.size for k, v in shapes["params"][layer].items()}

  conv = learned(MODELS["lecture"](), "conv1")
  dense = learned(MODELS["mlp"](depth=1, width=10), "dense1")
  name, weights = "parameters", sum(conv.values())
  return [
    row(
      name,
      "5x5 convolution from 1 to 8 channels",
      weights,
      "8 x 1 x 5 x 5 weights and 8 biases",
    ),
    row(name, "dense layer of 10 units, weights", dense["kernel"], "784 x 10"),
    row(name, "their ratio", dense["kernel"] / weights),
    row(
      name,
      "dense layer with as many outputs as the convolution, ratio",
      (28 * 28 + 1) * 24 * 24 * 8 / weights,
    ),
  ]


# --- pooling -----------------------------------------------------------------


def pooled(
  maps: Float[np.ndarray, "h w"], kind: str
) -> Float[np.ndarray, "p q"]:
  """3x3 windows, stride 3: "max" or "avg"."""
  pool = {"max": layers.max_pool, "avg": layers.avg_pool}[kind]
  x = jnp.asarray(maps, jnp.float32)[None, :, :, None]
  return np.asarray(pool(x, window=3, stride=3))[0, :, :, 0]


def pooling_maps() -> Float[np.ndarray, "3 9 9"]:
  """A 9x9 map, its 8 moved inside its window, and across the border."""
  quiet = np.random.default_rng(0).integers(0, 5, (9, 9)).astype(np.float64)
  quiet[3:6, 3:6] = np.minimum(quiet[3:6, 3:6], 3)
  quiet[4, 4] = 8
  maps = np.stack([quiet] * 3)
  # It changes places with another value.
  for i, place in ((1, (5, 3)), (2, (5, 2))):
    maps[i][4, 4], maps[i][place] = maps[i][place], maps[i][4, 4]
  return maps


def pooling_numbers(
  maps: Float[np.ndarray, "h w"],
) -> list[dict[str, Any]]:
  """The lecture's example, and a real map shifted by a pixel at a time.

  Args:
    maps: a real feature map after its ReLU.
  """
  start = pooling_maps()[0].copy()
  start[4, 4] = 0
  same = 0
  places = list(itertools.product(range(3, 6), range(3, 6)))
  outputs = []
  for place in places:
    moved = start.copy()
    moved[place] = 8
    outputs.append(pooled(moved, "max"))
  same = sum(np.array_equal(outputs[0], other) for other in outputs)
  before, _, across = (pooled(m, "max") for m in pooling_maps())
  name = "max pooling"
  rows = [
    row(
      name,
      "places of the 8 in its window with the same output",
      same,
      "of 9",
      n=9,
    ),
    row(
      name,
      "outputs that change when it crosses the border",
      int((before != across).sum()),
      "of 9",
      n=9,
    ),
  ]
  side = 3 * (min(maps.shape) // 3)
  for kind, shift in itertools.product(("max", "avg"), (1, 2, 3)):
    one, other = (
      pooled(np.roll(maps[:side, :side], s, axis=1), kind) for s in (0, shift)
    )
    change = float(np.linalg.norm(other - one) / np.linalg.norm(one))
    rows.append(
      row(
        "pooling a real map",
        f"{kind}: change for {shift} px",
        change,
        "norm of the difference over that of the output",
      )
    )
  return rows


# --- learned filters ---------------------------------------------------------


def shifted(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
  """The image `SHIFT` pixels further right, zeros coming in."""
  moved = np.zeros_like(image)
  moved[:, SHIFT:] = image[:, :-SHIFT]
  return moved


def feature_maps(
  image: Float[np.ndarray, "h w"], kernels: Float[np.ndarray, "n k k"]
) -> Float[np.ndarray, "n p q"]:
  """One map a detector."""
  return np.stack([layer_map(image, kernel) for kernel in kernels])


def shift_numbers(
  image: Float[np.ndarray, "h w"], kernels: Float[np.ndarray, "n k k"]
) -> list[dict[str, Any]]:
  """Do the maps move along with the digit?"""
  still = feature_maps(image, kernels)
  moved = feature_maps(shifted(image), kernels)
  name = "shift"
  return [
    row(
      name,
      f"maps of the digit shifted by {SHIFT} px against maps shifted,"
      " largest difference",
      float(np.abs(moved[..., SHIFT:] - still[..., :-SHIFT]).max()),
      "equivariant",
    ),
    row(
      name,
      "the same against maps not shifted",
      float(np.abs(moved - still).max()),
      "not invariant",
    ),
  ]


def fits(kernels: Float[np.ndarray, "n k k"]) -> list[filters.EdgeFit]:
  """The best derivative of a Gaussian for each filter."""
  return [filters.fit_edge(kernel) for kernel in kernels]


def edge_numbers(
  by_seed: dict[str, Float[np.ndarray, "s n"]],
  random: Float[np.ndarray, " r"],
) -> list[dict[str, Any]]:
  """How well filters are explained as edge detectors, over seeds.

  Args:
    by_seed: R-squared of each seed's filters, "trained" and "untrained".
    random: those of random filters.
  """
  name = "edge detectors"
  level = float(np.percentile(random, filters.PERCENTILE))
  rows = [
    row(
      name,
      "random filters, median R-squared",
      float(np.median(random)),
      "no interval: a fixed sample",
      n=len(random),
    ),
    row(
      name,
      f"random filters, {filters.PERCENTILE}th percentile",
      level,
      "the level of an edge detector",
      n=len(random),
    ),
  ]
  for stage, values in by_seed.items():
    for quantity, of_seed in (
      ("median R-squared", np.median(values, axis=1)),
      ("share of edge detectors", (values > level).mean(axis=1)),
    ):
      found = t_interval(list(of_seed))
      rows.append(
        row(
          name,
          f"{stage} filters, {quantity}",
          found.mean,
          "mean and 95 % t interval over seeds",
          low=found.low,
          high=found.high,
          n=len(of_seed),
        )
      )
  return rows


def learning_number(
  untrained: Float[np.ndarray, "s n k k"], trained: Float[np.ndarray, "s n k k"]
) -> dict[str, Any]:
  """How far training moves the filters: what little learning can show."""
  moved = [
    float(np.linalg.norm(after - before) / np.linalg.norm(before))
    for before, after in zip(untrained, trained, strict=True)
  ]
  found = t_interval(moved)
  return row(
    "edge detectors",
    "distance of the trained filters from the untrained ones",
    found.mean,
    "norm of the difference over that of the untrained filters",
    low=found.low,
    high=found.high,
    n=len(moved),
  )
