"""The lecture's page: trains the filters, stores the numbers, draws them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import figures, filters
from analysis.figures import lecture as drawings
from experiments import checksums, diverging, lectures, runs, store
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.datasets import Dataset
from experiments.progress import Progress

Arrays = dict[str, np.ndarray]

# What a section of the page shows, by its first words in the table.
_SECTIONS = (
  ("One number of a feature map", "weighted_sum", ("convolution",)),
  ("Output sizes", "", ("output size",)),
  ("Parameters", "", ("parameters",)),
  ("Several detectors, several maps", "detectors", ("shift",)),
  ("Pooling", "pooling", ("max pooling", "pooling a real map")),
  ("Edge detectors", "edges", ("edge detectors",)),
)


def compute(
  workdir: Path,
  data: DataConfig,
  train: TrainConfig,
  seeds: Sequence[int],
  dataset: Dataset,
) -> tuple[Arrays, pd.DataFrame]:
  """Trains the lecture's network where it is not trained yet, and measures.

  Args:
    workdir: the results folder; the run goes to `run/` inside.
    data: where the images are from.
    train: how the network is trained.
    seeds: the replicates.
    dataset: the images.

  Returns:
    The arrays that figures need, and the table of numbers.

  Raises:
    UsageError: flags that do not fit each other or the data.
    ExperimentError: a folder of other flags, a damaged file, or a seed whose
      loss is not finite.
  """
  config = ModelConfig(model="lecture")
  run = runs.make_run(workdir / "run", data, config, train, dataset)
  missing = runs.missing_seeds(run, seeds)
  if missing:
    total = runs.expected_seconds(run, dataset, missing, MeasureConfig(), [])
    with Progress(total, len(missing)) as bar:
      runs.train(run, dataset, missing, bar)
  failed = {run.name: runs.failures(run, seeds)}
  diverging.check(failed, "the page needs them all")
  kernels = {
    stage: np.stack([_kernels(run, seed, stage) for seed in seeds])
    for stage in ("init", "trained")
  }
  image = dataset.test.images[0, :, :, 0].astype(np.float32) / 255
  return _arrays(image, kernels)


def _kernels(run: runs.Run, seed: int, stage: str) -> np.ndarray:
  """(n, k, k) filters of the first layer."""
  params = run.folder.load_params(seed, stage)
  return np.moveaxis(params["params"]["conv1"]["kernel"][:, :, 0], -1, 0)


def _arrays(
  image: np.ndarray, kernels: dict[str, np.ndarray]
) -> tuple[Arrays, pd.DataFrame]:
  own = kernels["trained"][0]
  size = own.shape[-1]
  random = filters.random_filters(size)
  r_squared = {
    name: np.array([fit.r_squared for fit in lectures.fits(bank)])
    for name, bank in {
      "random": random,
      "untrained": kernels["init"].reshape(-1, size, size),
      "trained": kernels["trained"].reshape(-1, size, size),
    }.items()
  }
  fits = lectures.fits(own)
  best = int(np.argmax([fit.r_squared for fit in fits]))
  kernel = own[best].astype(np.float64)
  maps = lectures.feature_maps(image, own)
  copy = lectures.shifted(image)
  # Where the detector answers most strongly.
  strongest = np.abs(lectures.slide(image, kernel))
  at = np.unravel_index(int(strongest.argmax()), strongest.shape)
  total = lectures.weighted_sum(image, kernel, int(at[0]), int(at[1]))
  example = lectures.pooling_maps()
  sizes = lectures.size_table()
  seeds = len(kernels["trained"])
  arrays = {
    "image": image,
    "copy": copy,
    "kernels": own,
    "still": maps,
    "moved": lectures.feature_maps(copy, own),
    "kernel": kernel,
    "map": lectures.slide(image, kernel),
    "at": np.array(at),
    "patch": total.patch,
    "products": total.products,
    "pooling": example,
    "largest": np.stack([lectures.pooled(m, "max") for m in example]),
    "means": np.stack([lectures.pooled(m, "avg") for m in example]),
    "fitted": np.stack([fit.fitted for fit in fits]),
    "orientation": np.array([fit.orientation for fit in fits]),
    "r_squared": np.array([fit.r_squared for fit in fits]),
    **{f"r_squared_{name}": values for name, values in r_squared.items()},
  }
  numbers = [
    *lectures.convolution_numbers(image, kernel),
    *lectures.size_numbers(sizes),
    *lectures.parameter_numbers(),
    *lectures.shift_numbers(image, own),
    *lectures.pooling_numbers(np.maximum(maps[best], 0)),
    *lectures.edge_numbers(
      {
        stage: r_squared[stage].reshape(seeds, -1)
        for stage in ("untrained", "trained")
      },
      r_squared["random"],
    ),
    lectures.learning_number(kernels["init"], kernels["trained"]),
  ]
  return arrays, pd.DataFrame(numbers)


# --- the page ----------------------------------------------------------------


def write(
  workdir: Path,
  arrays: Arrays,
  numbers: pd.DataFrame,
  provenance: dict[str, Any],
) -> Path:
  """Stores the numbers, then draws the page from what is stored.

  Args:
    workdir: the results folder.
    arrays: what figures need.
    numbers: the table of numbers.
    provenance: where all this is from.

  Returns:
    The page.
  """
  record = checksums.Sums(workdir).record
  store.save_params(workdir / "arrays.npz", arrays, record=record)
  store.write_table(workdir / "numbers.csv", numbers, record=record)
  store.write_json(workdir / "provenance.json", provenance, record=record)
  return draw(workdir)


def draw(workdir: Path) -> Path:
  """The figures and the page, from the stored arrays and numbers alone.

  Raises:
    ExperimentError: a file is missing or damaged.
  """
  read = checksums.Sums(workdir).read
  arrays = store.load_params(workdir / "arrays.npz", read=read)
  numbers = store.read_table(workdir / "numbers.csv", read=read)
  provenance = store.read_json(workdir / "provenance.json", read=read)
  for name, figure in _figures(arrays, numbers).items():
    for suffix, content in figures.render(figure).items():
      store.write_bytes(workdir / "figures" / f"{name}{suffix}", content)
  page = workdir / "lecture.md"
  store.write_text(page, markdown(numbers, provenance))
  return page


def _figures(arrays: Arrays, numbers: pd.DataFrame) -> dict[str, Any]:
  of = arrays
  level = numbers.loc[
    numbers["quantity"].str.contains("th percentile"), "value"
  ].iloc[0]
  return {
    "weighted_sum": drawings.weighted_sum(
      of["image"],
      of["kernel"],
      of["patch"],
      of["products"],
      of["map"],
      (int(of["at"][0]), int(of["at"][1])),
    ),
    "detectors": drawings.detectors(
      np.stack([of["image"], of["copy"]]),
      of["kernels"],
      of["still"],
      of["moved"],
      lectures.SHIFT,
    ),
    "pooling": drawings.pooling(of["pooling"], of["largest"], of["means"]),
    "edges": drawings.edges(
      of["kernels"],
      of["fitted"],
      of["r_squared"],
      of["orientation"],
      {
        name: of[f"r_squared_{name}"]
        for name in ("random", "untrained", "trained")
      },
      float(level),
    ),
  }


def shown(line: Any) -> str:
  """A number with its interval, as the page prints it."""
  value = float(line["value"])
  text = f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
  if np.isfinite(line["low"]):
    text += f" ({line['low']:.3g} to {line['high']:.3g}, n = {line['n']})"
  elif line["n"] > 1:
    text += f" (n = {line['n']})"
  return text


def markdown(numbers: pd.DataFrame, provenance: dict[str, Any]) -> str:
  """The page."""
  lines = [
    "# The lecture's arithmetic",
    "",
    "What the lecture on convolutional filters and weight sharing computes, on"
    " real digits and by the layers that the networks here are made of.",
    "",
  ]
  for title, figure, sections in _SECTIONS:
    lines += [f"## {title}", ""]
    if figure:
      lines += [f"![{title}](figures/{figure}.png)", ""]
    lines += ["| quantity | value | |", "|---|---|---|"]
    own = numbers[numbers["section"].isin(sections)]
    for line in own.fillna({"note": ""}).to_dict("records"):
      quantity = f"{line['section']}: {line['quantity']}"
      lines.append(f"| {quantity} | {shown(line)} | {line['note']} |")
    lines.append("")
  lecture = provenance["lecture"]
  lines += [
    f"Data: {lecture['dataset']}, {lecture['train_examples']:,} training"
    f" images, {lecture['epochs']} epochs; seeds"
    f" {', '.join(map(str, lecture['seeds']))}. Figures show the first seed's"
    " network and the first test image.",
    "",
  ]
  return "\n".join(lines)
