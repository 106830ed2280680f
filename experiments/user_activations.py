"""Measures activations that another program, such as PyTorch, has computed."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from analysis import orbits
from experiments import measuring, store, user_images, user_measuring
from experiments.config import MeasureConfig
from experiments.errors import ExperimentError, UsageError
from experiments.user_measuring import Measured

LAYOUTS = ("NHWC", "NCHW")
REFERENCE, TRANSFORMED = "reference/", "transformed/"

Layers = dict[str, np.ndarray]


def measure_activations(
  path: Path,
  config: MeasureConfig,
  *,
  layout: str = "NHWC",
  output: str = "",
  by_name: bool = True,
  orbit_known: bool = False,
) -> Measured:
  """Measures activations that another program has computed.

  Args:
    path: an .npz file with `reference/LAYER`, (n, ...), and
      `transformed/LAYER`, (t, n, ...), for every layer, in forward order, and,
      if known, `labels`, (n,).
    config: measures and batch size; transformations if `orbit_known`.
    layout: of maps, "NHWC" or "NCHW".
    output: the layer that is the network's output; by default the one called
      "logits" or "output", else the last.
    by_name: as for `measure_model`.
    orbit_known: whether the transformations of the flags, one orbit, are those
      that were applied.

  Returns:
    The results.

  Raises:
    UsageError: flags that do not fit the file, or a measure without labels.
    ExperimentError: a file that is missing, damaged or of another form.
  """
  if layout not in LAYOUTS:
    raise UsageError(f"--layout={layout} is not one of {', '.join(LAYOUTS)}")
  if not path.is_file():
    raise UsageError(f"--activations={path}: there is no such file")
  known = known_orbit(config) if orbit_known else None
  before, after, labels = _read(path, layout)
  if output and output not in before:
    raise UsageError(f"--output={output} is not one of {', '.join(before)}")
  likely = [k for k in ("logits", "output") if k in before]
  output = output or (likely or list(before))[0 if likely else -1]
  names, warnings = user_measuring.with_labels(
    measuring.parse_measures(config), labels is not None, by_name
  )
  if not names:
    raise UsageError(
      f"--measures={config.measures} leaves nothing to measure: {warnings[0]}"
    )
  try:
    table = orbits.measure_arrays(
      before,
      after,
      names,
      output=output,
      labels=labels,
      batch_size=config.measure_batch_size or 32,
      transformations=known,
    )
  except ValueError as error:
    raise ExperimentError(f"{path}: {error}") from error
  table = user_measuring.tagged(table, path.name, path.name)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  origin = {
    "dataset": path.name,
    "source": "the user's activations",
    "file_sha256": digest,
    "layout": layout,
    "output": output,
  }
  provenance = store.provenance(origin)
  provenance["measure"] = dataclasses.asdict(config)
  return Measured(table, provenance, warnings)


def known_orbit(config: MeasureConfig) -> orbits.Orbit:
  """The one orbit that the flags name.

  Raises:
    UsageError: they name several.
  """
  known = measuring.parse_orbits(config)
  if len(known) > 1:
    raise UsageError(
      f"--transforms={config.transforms} are {len(known)} orbits; the file"
      " holds one"
    )
  return known[0]


def _read(path: Path, layout: str) -> tuple[Layers, Layers, np.ndarray | None]:
  """Activations before and after the transformations, and labels."""
  arrays = user_images.read_arrays(path)
  labels = arrays.pop("labels", None)
  before, after = {}, {}
  for key, array in arrays.items():
    for prefix, layers, leading in (
      (REFERENCE, before, 1),
      (TRANSFORMED, after, 2),
    ):
      if key.startswith(prefix):
        _check_array(path, key, array, leading)
        # Maps have three axes of their own.
        if layout == "NCHW" and array.ndim == leading + 3:
          array = np.moveaxis(array, leading, -1)
        layers[key.removeprefix(prefix)] = array
        break
    else:
      raise ExperimentError(
        f"{path} has an array {key!r}; expected {REFERENCE}LAYER,"
        f" {TRANSFORMED}LAYER and labels"
      )
  if not before:
    raise ExperimentError(f"{path} has no array {REFERENCE}LAYER")
  if labels is not None:
    count = len(next(iter(before.values())))
    labels = user_images.check_labels(labels, count, path)
  return before, after, labels


def _check_array(path: Path, key: str, array: np.ndarray, leading: int) -> None:
  if array.ndim <= leading or 0 in array.shape:
    axes = "(n, ...)" if leading == 1 else "(t, n, ...)"
    raise ExperimentError(
      f"{path}: {key} has shape {array.shape}, expected {axes}"
    )
  if not np.issubdtype(array.dtype, np.floating):
    raise ExperimentError(
      f"{path}: {key} is of type {array.dtype}; activations must be real"
      " floating point"
    )
