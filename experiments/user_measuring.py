"""Measures a network that the user brings, and stores what comes out.

Everything is computed before anything is written, so that a failure leaves
nothing behind.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis import network, orbits, probing, statistics
from analysis.measures import MEASURES, Measure, resolve
from experiments import (
  checksums,
  measuring,
  reporting,
  store,
  user_images,
  user_models,
)
from experiments.config import MeasureConfig
from experiments.datasets import Dataset, Split
from experiments.errors import ExperimentError, UsageError
from experiments.progress import Progress
from models.geometry import LayerGeometry

# Measures that need no more than these need no geometry.
_WITHOUT_GEOMETRY = frozenset({"labels", "pairs", "statistics"})
_NOT_GIVEN = "no geometry given for the layer"


class Measured(NamedTuple):
  """Results, not yet written.

  Attributes:
    table: one row a value, with the columns of a study's table.
    provenance: what the result depends on.
    warnings: a line each.
  """

  table: pd.DataFrame
  provenance: dict[str, Any]
  warnings: list[str]


def check_workdir(workdir: Path) -> None:
  """Refuses a folder whose measurements are a run's, before any work.

  Raises:
    UsageError: a run folder, or no folder.
  """
  if (workdir / "config.json").exists():
    raise UsageError(
      f"--workdir={workdir} holds a trained run, whose measurements would be"
      " replaced: give another folder"
    )
  if workdir.exists() and not workdir.is_dir():
    raise UsageError(f"--workdir={workdir} is not a folder")


def measure_model(
  model: user_models.UserModel,
  given: user_images.UserImages,
  config: MeasureConfig,
  *,
  by_name: bool = True,
) -> Measured:
  """Measures a network layer by layer.

  Args:
    model: the network.
    given: the images.
    config: measures, transformations and number of images.
    by_name: whether the user chose the measures. Those that need labels that
      are not there are an error then, and else left out with a warning.

  Returns:
    The results.

  Raises:
    UsageError: flags that cannot be measured, or a measure without its labels.
    ExperimentError: a function that is no network: see `analysis.network`.
  """
  dataset = _as_dataset(given)
  measuring.check(config, dataset)
  jobs, warnings = _jobs(config, given.labels is not None, by_name)
  chosen = measuring.examples(config, dataset)
  images, labels = given.images[chosen], given.labels
  fn = network.as_partial(model.fn)
  total = len(images) * sum(len(orbit.thetas) for orbit, _ in jobs)
  tables = []
  try:
    output, layers = network.probe(fn, images, model.geometry or {})
    _check_labels(labels, output.shape[-1])
    _check_names(model, layers)
    with Progress(total, len(jobs) + 1) as bar:
      bar.start("find strides and offsets")
      measures = resolve(name for _, names in jobs for name in names)
      geometry, reasons = _geometry(model, images.shape[1:], measures)
      for orbit, names in jobs:
        bar.start(f"measure {orbit.name}")
        count = len(orbit.thetas)
        with measuring.limited(config) as limit:
          table = orbits.measure(
            fn,
            images,
            orbit,
            names,
            geometry=geometry,
            labels=None if labels is None else labels[chosen],
            batch_size=config.measure_batch_size or None,
            memory_limit=limit,
            progress=lambda n, count=count: bar.advance(n * count),
          )
        tables.append(table)
  except ValueError as error:
    raise ExperimentError(f"{model.name}: {error}") from error
  table = pd.concat(tables, ignore_index=True)
  table = tagged(_explained(table, reasons), model.name, given.name)
  provenance = store.provenance(given.provenance) | {
    "model": {
      "function": model.name,
      "file_sha256": model.sha256,
      "parameters_sha256": _digest(fn),
    },
    "measure": dataclasses.asdict(config),
    "geometry": {k: g._asdict() for k, g in geometry.items()},
    "geometry_source": "given" if model.geometry is not None else "probed",
    "geometry_missing": reasons,
  }
  lost = reporting.lost_intensity(table)
  return Measured(table, provenance, warnings + ([lost] if lost else []))


def _jobs(
  config: MeasureConfig, labelled: bool, by_name: bool
) -> tuple[list[tuple[orbits.Orbit, tuple[str, ...]]], list[str]]:
  """Orbits with the measures that can be made of them, and warnings."""
  jobs, warnings = [], []
  for orbit, names in measuring.jobs(config, "trained"):
    kept, left_out = with_labels(names, labelled, by_name)
    warnings += [line for line in left_out if line not in warnings]
    jobs += [(orbit, kept)] if kept else []
  if not jobs:
    raise UsageError(
      f"--measures={config.measures} leaves nothing to measure:"
      f" {warnings[0] if warnings else 'no orbit is theirs'}"
    )
  return jobs, warnings


def _digest(tree: Any) -> str | None:
  """The sha256 of parameters that are a function's arguments, if any are."""
  leaves = jax.tree.leaves(tree)
  digest = hashlib.sha256()
  for leaf in leaves:
    random = jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if random else leaf)
    digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
  return digest.hexdigest() if leaves else None


def _as_dataset(given: user_images.UserImages) -> Dataset:
  """The user's images in the form that a study's are in; labels may be -1."""
  labels = given.labels
  if labels is None:
    labels = np.full(len(given.images), -1, np.int32)
  split = Split(given.images, labels)
  classes = int(labels.max()) + 1
  return Dataset(given.name, split, split, classes, given.provenance)


def _check_names(
  model: user_models.UserModel, layers: Mapping[str, Any]
) -> None:
  """Refuses a geometry of layers that are not there."""
  for name in model.geometry or ():
    if name not in layers:
      raise ValueError(
        f"the geometry names a layer {name!r}, the network has"
        f" {', '.join(layers)}"
      )


def _check_labels(labels: np.ndarray | None, values: int) -> None:
  """Refuses classes that the network has no output for."""
  if labels is not None and labels.max() >= values:
    raise ValueError(
      f"a label is {labels.max()}, and the output of an image has"
      f" {values} value{'s' if values > 1 else ''}: number the classes from 0"
    )


def _geometry(
  model: user_models.UserModel,
  image_shape: tuple[int, ...],
  measures: Sequence[Measure],
) -> tuple[dict[str, LayerGeometry], dict[str, str]]:
  """The geometry given, or found by probing if anything needs it."""
  if model.geometry is not None:
    return model.geometry, {}
  if all(m.needs <= _WITHOUT_GEOMETRY for m in measures):
    return {}, {}
  height, width, channels = image_shape
  return probing.find_geometry(model.fn, (height, width, channels))


def _explained(table: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
  """The table with the reasons why probing has found no geometry."""
  notes = [
    f"no geometry found: {reasons[layer]}"
    if note == _NOT_GIVEN and layer in reasons
    else note
    for layer, note in zip(table["layer"], table["note"], strict=True)
  ]
  return table.assign(note=notes)


# --- for networks and activations alike --------------------------------------


def with_labels(
  names: Sequence[str], labelled: bool, by_name: bool
) -> tuple[tuple[str, ...], list[str]]:
  """The measures that can be made, and a line for those that cannot.

  Args:
    names: the measures.
    labelled: whether there are labels.
    by_name: whether the user asked for these measures.

  Returns:
    The names that are left, and the warnings.

  Raises:
    UsageError: a measure that the user asked for needs labels.
  """
  need = (
    [m.name for m in resolve(names) if "labels" in m.needs] if names else []
  )
  if labelled or not need:
    return tuple(names), []
  if by_name:
    raise UsageError(
      f"--measures: {need[0]} needs labels, and there are none: add an array"
      " 'labels' to the .npz file, or sort the PNGs into a subfolder a class"
    )
  kept = tuple(m.name for m in resolve(names) if m.name not in need)
  return kept, [f"no labels, so {', '.join(need)} is left out"]


def tagged(table: pd.DataFrame, run: str, dataset: str) -> pd.DataFrame:
  """The table with the columns that a study's has, blank where unknown."""
  columns = {
    "run": run,
    "dataset": dataset,
    "model": "given",
    "pooling": "",
    "depth": 0,
    "padding": "",
    "head": "",
    "augmentation": "",
    "width": 0,
  }
  return measuring.tagged(table, columns, 0, "given")


def write(measured: Measured, workdir: Path) -> Path:
  """Writes provenance.json, summary.csv and, last, measurements.parquet.

  Args:
    measured: the results.
    workdir: the folder; made if it is not there.

  Returns:
    The table's path.
  """
  path = workdir / "measurements.parquet"
  # While the files are of two measurements there is no table.
  path.unlink(missing_ok=True)
  record = checksums.Sums(workdir).record
  store.write_json(
    workdir / "provenance.json", measured.provenance, record=record
  )
  summary = statistics.summarize(measured.table)
  store.write_table(workdir / "summary.csv", summary, record=record)
  store.write_table(path, measured.table, record=record)
  return path


def compact(table: pd.DataFrame) -> str:
  """The values of the last layer and of the output, as text.

  Args:
    table: measurements.

  Returns:
    One line a transformation and measure, directions averaged; without what
    is made along with a measure, and what is undefined.
  """
  scope = table["measure"].map({m.name: m.scope for m in MEASURES.values()})
  last = table["layer_index"][scope == "layer"].max()
  of_last = (scope == "layer") & (table["layer_index"] == last)
  summary = statistics.summarize(table[of_last | (scope == "output")])
  summary = summary[summary["mean"].notna()]
  summary = summary[summary["orbit"] == summary["transform"]]
  columns = ["layer", "transform", "dose", "unit", "measure", "mean"]
  formats: dict[int | str, Any] = {
    "dose": "{:g}".format,
    "mean": "{:.4f}".format,
  }
  return summary[columns].to_string(index=False, formatters=formats)
