"""From a network and its parameters to rows of the measurements table."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis import actions, memory, orbits, sampling
from analysis.measures import MEASURES, resolve
from experiments import building, specs
from experiments.config import MeasureConfig, ModelConfig
from experiments.datasets import Dataset
from experiments.errors import UsageError, as_flag
from models import cost
from models.geometry import walk
from models.zoo import Model

# The orbits of one question each: a grid of translations is for the sensitivity
# map and for the figure of invariance errors, a diagonal path for jaggedness.
_OF_GRID, _OF_PATH = "sensitivity_map", "jaggedness"


def parse_orbits(config: MeasureConfig) -> tuple[actions.Orbit, ...]:
  """The orbits that all measures see.

  Raises:
    UsageError: malformed transformations, or none; an unknown order or border.
  """
  try:
    sampling.check_kind(config.order, config.border)
  except ValueError as error:
    raise UsageError(as_flag(str(error))) from error
  parsed = specs.parse_transforms(config.transforms, "transforms")
  if not parsed:
    raise UsageError("--transforms is empty: give at least one transformation")
  try:
    return tuple(
      actions.orbit(family, thetas, order=config.order, border=config.border)
      for family, thetas in parsed
    )
  except ValueError as error:
    raise UsageError(f"--transforms={config.transforms}: {error}") from error


def parse_shift_map(config: MeasureConfig) -> actions.Orbit | None:
  """The grid of translations of the sensitivity map, if there is to be one."""
  grid = specs.shift_grid(config.shift_map)
  if not grid:
    return None
  return actions.orbit(
    "translation",
    grid,
    name=specs.SHIFT_MAP,
    order=config.order,
    border=config.border,
  )


def parse_diagonal(config: MeasureConfig) -> actions.Orbit | None:
  """The path of one-pixel diagonal steps, if there is to be one.

  Raises:
    UsageError: a negative length.
  """
  if config.diagonal < 0:
    raise UsageError(f"--diagonal={config.diagonal} is negative")
  if 2 * config.diagonal >= specs.MOST_ELEMENTS:
    raise UsageError(
      f"--diagonal={config.diagonal} is {2 * config.diagonal + 1:,} steps: give"
      f" at most {specs.MOST_ELEMENTS:,}"
    )
  if not config.diagonal:
    return None
  steps = range(-config.diagonal, config.diagonal + 1)
  return actions.orbit(
    "translation",
    [(k, k) for k in steps],
    name=specs.DIAGONAL,
    order=config.order,
    border=config.border,
  )


def parse_measures(config: MeasureConfig) -> tuple[str, ...]:
  """Names of the measures.

  Raises:
    UsageError: an unknown name.
  """
  if config.measures == "all":
    return tuple(MEASURES)
  names = tuple(filter(None, config.measures.split(",")))
  if not names:
    raise UsageError(
      f"--measures={config.measures} names none: give some of"
      f" {', '.join(MEASURES)}, or all"
    )
  try:
    resolve(names)
  except ValueError as error:
    raise UsageError(f"--measures={config.measures}: {error}") from error
  return names


def check(config: MeasureConfig, dataset: Dataset) -> None:
  """Refuses flags that cannot be measured, before hours of training.

  Raises:
    UsageError: naming the flag.
  """
  parse_orbits(config)
  parse_shift_map(config)
  parse_diagonal(config)
  parse_measures(config)
  specs.parse_bytes(config.memory_limit, "memory_limit")
  available = len(dataset.test.labels)
  if not 2 <= (config.measure_examples or available) <= available:
    raise UsageError(
      f"--measure_examples={config.measure_examples} is not 0 (all) or between"
      f" 2 and the {available} test images, of which there must be 2"
    )
  if config.measure_batch_size < 0:
    raise UsageError(
      f"--measure_batch_size={config.measure_batch_size} is negative"
    )


def check_memory(
  config: MeasureConfig, model: Model, image_size: int, images: int = 0
) -> None:
  """Refuses a limit that no step of a network meets, before hours of training.

  Args:
    config: how to measure.
    model: the network.
    image_size: width and height of its images.
    images: how many there are, if all are measured.

  Raises:
    UsageError: naming the flag.
  """
  layers = walk(model.specs, image_size, 1)
  units = sum(map(cost.units, layers))
  with limited(config) as limit:
    for o, names in jobs(config, "trained"):
      memory.choose_sizes(
        config.measure_examples or images,
        o,
        units,
        resolve(names),
        wanted=config.measure_batch_size or None,
        limit=limit or memory.default_limit(),
      )


@contextlib.contextmanager
def limited(config: MeasureConfig) -> Iterator[int | None]:
  """The limit of memory in bytes, None for the default.

  Raises:
    UsageError: malformed, or too small for what is measured in the block.
  """
  limit = specs.parse_bytes(config.memory_limit, "memory_limit")
  try:
    yield limit
  except memory.MemoryLimitError as error:
    raise UsageError(
      f"--memory_limit={config.memory_limit}: {error}"
    ) from error


def jobs(
  config: MeasureConfig, stage: str
) -> list[tuple[actions.Orbit, tuple[str, ...]]]:
  """What is measured of a network: orbits with the names of their measures.

  The sensitivity map and the diagonal path are made of trained networks only.

  Raises:
    UsageError: malformed flags.
  """
  measures = [m.name for m in resolve(parse_measures(config))]
  usual = tuple(m for m in measures if m not in (_OF_GRID, _OF_PATH))
  result = [(o, usual) for o in parse_orbits(config) if usual]
  if stage != "trained":
    return result
  grid, path = parse_shift_map(config), parse_diagonal(config)
  if grid is not None:
    of_grid = ("invariance_error",)
    if _OF_GRID in measures:
      of_grid += (_OF_GRID,)
    result.append((grid, of_grid))
  if path is not None and _OF_PATH in measures:
    result.append((path, (_OF_PATH,)))
  return result


def steps(config: MeasureConfig, dataset: Dataset, stage: str) -> int:
  """Transformed images that a network has to see, for progress bars."""
  elements = sum(len(o.thetas) for o, _ in jobs(config, stage))
  return elements * (config.measure_examples or len(dataset.test.labels))


def examples(config: MeasureConfig, dataset: Dataset) -> np.ndarray:
  """Indices of the test images that are measured, evenly spread.

  Spread, because neighbouring images can be by the same hand: the first 128
  digits are all of one writer.
  """
  available = len(dataset.test.labels)
  count = config.measure_examples or available
  return np.arange(count) * available // count


def measure_network(
  model: Model,
  params: Any,
  dataset: Dataset,
  config: MeasureConfig,
  stage: str = "trained",
  *,
  devices: Sequence[Any] | None = None,
  only: str = "",
  progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
  """Measures one network on test images.

  Args:
    model: a network of `models`.
    params: its variables.
    dataset: whose test split is used.
    config: measures, transformations and number of images.
    stage: "init" or "trained"; see `jobs`.
    devices: that images are divided among; jax's default device if None.
    only: name of the one orbit to measure; all if empty.
    progress: called with the number of transformed images done.

  Returns:
    The table of `analysis.orbits.measure`.
  """
  chosen = examples(config, dataset)
  images, labels = dataset.test.images[chosen], dataset.test.labels[chosen]
  # Parameters as arguments: one compilation for all seeds and stages.
  fn = jax.tree_util.Partial(model.apply, jax.tree.map(jnp.asarray, params))
  geometry = model.geometry(images.shape[1])
  tables = []
  for o, names in jobs(config, stage):
    if only not in ("", o.name):
      continue
    done = None
    if progress is not None:
      done = functools.partial(_weighted, progress, len(o.thetas))
    with limited(config) as limit:
      table = orbits.measure(
        fn,
        images,
        o,
        names,
        geometry=geometry,
        labels=labels,
        batch_size=config.measure_batch_size or None,
        devices=devices,
        memory_limit=limit,
        progress=done,
      )
    tables.append(table)
  return pd.concat(tables, ignore_index=True)


def _weighted(progress: Callable[[int], None], weight: int, n: int) -> None:
  progress(weight * n)


def run_columns(
  run: str,
  dataset: str,
  model: ModelConfig,
  augment: str,
) -> dict[str, Any]:
  """The columns that say which run a row is of; blank where not applicable."""
  fields = building.model_fields(model)
  return {
    "run": run,
    "dataset": dataset,
    "model": model.model,
    "pooling": fields.get("pooling", ""),
    "depth": model.depth,
    "padding": fields.get("padding", ""),
    "head": fields.get("head", ""),
    "augmentation": augment or "none",
    "width": model.width,
  }


def tagged(
  table: pd.DataFrame, columns: Mapping[str, Any], seed: int, stage: str
) -> pd.DataFrame:
  """The table with the columns of its run, seed and stage in front."""
  front = {**columns, "seed": seed, "stage": stage}
  head = pd.DataFrame({k: [v] * len(table) for k, v in front.items()})
  return pd.concat([head, table], axis=1)
