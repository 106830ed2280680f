"""One run: an architecture trained with several seeds, then measured.

A run lives in a folder (see `experiments.run_folder`). What is in the folder
already is not done again.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import (
  building,
  checks,
  measuring,
  parameters,
  shared,
  specs,
  store,
  training,
)
from experiments.checkpoints import Checkpoints
from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.datasets import Dataset
from experiments.diverging import Divergence
from experiments.errors import ExperimentError
from experiments.progress import Bar
from experiments.run_folder import STAGES, RunFolder
from experiments.shared import Network
from experiments.training import TrainedSeed
from models import cost
from models.geometry import walk
from models.zoo import Model

# Seconds on 2 cores, read off the quick study; only the progress bar depends on
# them. A training image costs three forward passes; a measured one costs its
# forward pass and the handling of every activation.
_TRAIN_FLOP, _FORWARD_FLOP, _UNIT = 1 / 60e9, 1 / 100e9, 4.5e-9
_COMPILE = 5.0

# Bytes of a process with its compiled programs and a step of measuring.
_PROCESS = 3 << 29

Part = tuple[int, str]  # a seed and a stage


@dataclasses.dataclass(frozen=True)
class Run:
  """An architecture, its flags, and the folder that it lives in."""

  name: str
  data: DataConfig
  config: ModelConfig
  train: TrainConfig
  model: Model
  folder: RunFolder

  @property
  def network(self) -> Network:
    """The network, as other processes are told of it."""
    return Network(self.model, self.data, self.config, self.train)

  @property
  def columns(self) -> dict[str, Any]:
    """The columns of tables that say which run a row is of."""
    return measuring.run_columns(
      self.name, self.data.dataset, self.config, self.train.augment
    )


def run_name(config: ModelConfig, train: TrainConfig | None = None) -> str:
  """A folder name that tells architectures apart, and augmented training.

  The flags that every study varies by their values, others where they are not
  the default.
  """
  name = _architecture_name(config)
  if train is None or not train.augment:
    return name
  # As in translation:4,rotation:15.
  return f"{name}-augment_" + train.augment.replace(":", "_").replace(",", "_")


def _architecture_name(config: ModelConfig) -> str:
  fields = building.model_fields(config)
  if not fields:
    return config.model
  short = {"depth": "d", "width": "w", "kernel_size": "k"}
  usual = ("pooling", "depth", "width", "kernel_size", "padding", "head")
  parts = [config.model]
  for name, value in fields.items():
    if name in usual:
      parts.append(f"{short.get(name, '')}{value}")
    elif value != getattr(ModelConfig, name):
      # A flag by its name, other values by themselves.
      flag = name if value is True else f"no_{name}"
      parts.append(flag if isinstance(value, bool) else f"{name}_{value}")
  return "-".join(parts).replace("/", ".").replace(":", "_")


def make_run(
  path: Path,
  data: DataConfig,
  config: ModelConfig,
  train: TrainConfig,
  dataset: Dataset,
  *,
  claim: bool = True,
) -> Run:
  """Builds a run and makes its folder its own.

  Everything that can be wrong is looked at before the folder is touched.

  Args:
    path: the run folder.
    data: where the images come from.
    config: the architecture.
    train: how it is trained.
    dataset: the images.
    claim: whether to; without, nothing is written.

  Returns:
    The run.

  Raises:
    UsageError: an architecture that cannot be.
    ExperimentError: the folder holds a run with other flags or data.
  """
  model = building.build_model(
    config,
    num_classes=dataset.num_classes,
    canvas=data.canvas,
    dtype=train.dtype,
  )
  checks.check_training(train, len(dataset.train.labels))
  checks.check_memory(model, config, train, dataset)
  name = run_name(config, train)
  run = Run(name, data, config, train, model, RunFolder(path))
  run.folder.check_format()
  if claim:
    claim_folder(run, dataset)
  return run


def claim_folder(run: Run, dataset: Dataset) -> None:
  """Makes a run's folder its own.

  Raises:
    ExperimentError: the folder holds a run with other flags or data.
  """
  run.folder.claim(
    store.as_config(data=run.data, model=run.config, train=run.train),
    store.provenance(dataset.provenance),
  )


def read_configs(path: Path) -> tuple[DataConfig, ModelConfig, TrainConfig]:
  """The flags of the run in a folder.

  Raises:
    ExperimentError: no run there, or one of another format.
  """
  if not (path / "config.json").exists():
    raise ExperimentError(
      f"{path} holds no config.json: give the --workdir of a run, or make one"
      " with python -m experiments.train"
    )
  config = store.read_json(path / "config.json")
  try:
    found = (
      DataConfig(**config["data"]),
      ModelConfig(**config["model"]),
      TrainConfig(**config["train"]),
    )
    for section in found:
      _check_types(section)
  except (KeyError, TypeError) as error:
    raise ExperimentError(
      f"{path / 'config.json'} is not a run of this version: {error}"
    ) from error
  return found


def _check_types(section: Any) -> None:
  """Refuses values of another type than the flag's default.

  Raises:
    TypeError: naming flag and value.
  """
  for field in dataclasses.fields(section):
    value, usual = getattr(section, field.name), type(field.default)
    fits = isinstance(value, (int, float) if usual is float else usual)
    if not fits or (isinstance(value, bool) and usual is not bool):
      raise TypeError(
        f"{field.name} is {value!r}, which is no {usual.__name__}"
      )


def missing_seeds(run: Run, seeds: Sequence[int]) -> list[int]:
  """Those of the seeds whose training has neither succeeded nor failed."""
  done = run.folder.failed_seeds() | set(run.folder.trained_seeds())
  return [seed for seed in seeds if seed not in done]


def failures(run: Run, seeds: Sequence[int]) -> list[Divergence]:
  """Those of the seeds whose training has failed."""
  return [found for found in run.folder.failures() if found.seed in seeds]


def without_failed(run: Run, seeds: Sequence[int]) -> list[int]:
  """Those of the seeds whose training has not failed."""
  failed = run.folder.failed_seeds()
  return [seed for seed in seeds if seed not in failed]


def missing_parts(
  run: Run,
  seeds: Sequence[int],
  config: MeasureConfig,
  *,
  claim: bool = True,
) -> list[Part]:
  """The (seed, stage) pairs without measurements made with these flags.

  Args:
    run: the run.
    seeds: those wanted.
    config: how to measure.
    claim: whether to drop measurements made with other flags; without, nothing
      is written.
  """
  seeds = without_failed(run, seeds)
  files = specs.file_digests(config.transforms)
  flags = store.as_config(measure=config) | ({"files": files} if files else {})
  del flags["measure"]["memory_limit"]  # no value depends on it
  if claim:
    run.folder.claim_measurements(flags)
  elif not run.folder.measured_with(flags):
    return [(seed, stage) for seed in seeds for stage in STAGES]
  untrained = missing_seeds(run, seeds)
  return [
    (seed, stage)
    for seed in seeds
    for stage in STAGES
    if seed in untrained or not run.folder.has_part(seed, stage)
  ]


def expected_seconds(
  run: Run,
  dataset: Dataset,
  seeds: Sequence[int],
  config: MeasureConfig,
  parts: Sequence[Part],
) -> float:
  """About how many seconds work will take, for progress bars."""
  images = len(dataset.train.labels) * run.train.epochs * len(seeds)
  seen = sum(measuring.steps(config, dataset, stage) for _, stage in parts)
  train_cost, measure_cost = _image_costs(run)
  compilations = bool(seeds) + bool(parts)
  return images * train_cost + seen * measure_cost + compilations * _COMPILE


def expected_bytes(run: Run, dataset: Dataset) -> int:
  """About how much memory training and measuring take, for schedulers."""
  images = sum(s.images.nbytes for s in (dataset.train, dataset.test))
  specs, canvas = run.model.specs, run.data.canvas
  units = sum(map(cost.units, walk(specs, canvas, 1)))
  # Of a training step: activations, their gradients and what is in between.
  return _PROCESS + 2 * images + 4 * 4 * units * run.train.batch_size


def _image_costs(run: Run) -> tuple[float, float]:
  """Seconds a training image and a transformed image take."""
  specs, canvas = run.model.specs, run.data.canvas
  flops = sum(cost.flops(specs, canvas).values())
  units = sum(map(cost.units, walk(specs, canvas, 1)))
  return 3 * flops * _TRAIN_FLOP, flops * _FORWARD_FLOP + units * _UNIT


def train(run: Run, dataset: Dataset, seeds: Sequence[int], bar: Bar) -> None:
  """Trains seeds and stores each as soon as it is done.

  A seed whose loss is not finite is stored as failed; the others go on.

  Raises:
    UsageError: see `training.train`.
  """
  strategy = training.resolve_strategy(run.train)
  saved = Checkpoints(run.folder.path, f"{run.folder.sums.flags} by {strategy}")
  saved.tidy(run.folder.trained_seeds())
  if not seeds:
    return
  side_by_side = strategy == "scan"
  epoch_cost = len(dataset.train.labels) * _image_costs(run)[0]
  bar.compiling(_COMPILE)
  waiting = [f"seed {seed}" for seed in seeds]
  first = "all seeds" if side_by_side else waiting[0]
  bar.start(f"train {run.name} {first}")
  start = time.perf_counter()

  def done(store_result: Callable[[], None]) -> None:
    nonlocal start
    store_result()
    seconds = time.perf_counter() - start + saved.seconds_before()
    run.folder.add_seconds("train", seconds)
    start = time.perf_counter()
    waiting.pop(0)
    if waiting:
      bar.start(f"train {run.name} {waiting[0]}")

  results = shared.train(
    run.network,
    dataset,
    seeds,
    progress=lambda count: bar.advance(count * epoch_cost),
    diverged=lambda found: done(lambda: run.folder.add_failure(found)),
    checkpoints=saved,
  )
  for result in results:
    done(functools.partial(_store, run, result))


def _store(run: Run, result: TrainedSeed) -> None:
  run.folder.add_seed(
    result.seed,
    result.initial,
    result.trained,
    [m._asdict() for m in result.metrics],
  )


def measure(
  run: Run,
  dataset: Dataset,
  config: MeasureConfig,
  parts: Sequence[Part],
  bar: Bar,
) -> None:
  """Measures seeds and stages and stores each, but for failed seeds.

  Raises:
    UsageError: flags that cannot be measured.
    ExperimentError: parameters that are missing or damaged.
  """
  if parts:
    bar.compiling(_COMPILE)
  image_cost = _image_costs(run)[1]
  trained = without_failed(run, [seed for seed, _ in parts])
  tables = shared.measure(
    run.network,
    dataset,
    config,
    [(seed, stage) for seed, stage in parts if seed in trained],
    lambda seed, stage: load_params(run, dataset, (seed, stage)),
    progress=lambda n: bar.advance(n * image_cost),
  )
  for seed, stage in parts:
    bar.start(f"measure {run.name} seed {seed} {stage}")
    if seed not in trained:
      bar.advance(measuring.steps(config, dataset, stage) * image_cost)
      continue
    start = time.perf_counter()
    try:
      table = next(tables)
    except ValueError as error:  # activations beyond the largest float
      raise ExperimentError(
        f"{run.name} seed {seed} {stage} cannot be measured: {error}"
      ) from error
    run.folder.add_part(
      seed, stage, measuring.tagged(table, run.columns, seed, stage)
    )
    run.folder.add_seconds("measure", time.perf_counter() - start)


def load_params(run: Run, dataset: Dataset, part: Part) -> dict[str, Any]:
  """The stored variables of a seed and stage.

  Raises:
    ExperimentError: they are missing, damaged, or of another network.
  """
  found = run.folder.load_params(*part)
  path = run.folder.params_path(*part)
  parameters.check(found, path, run.model, dataset.test.images.shape[1:])
  return found


def join(run: Run, seeds: Sequence[int]) -> pd.DataFrame:
  """Joins the measurements of all seeds and stages into the run's table.

  Failed seeds have none; where all failed the table is empty.
  """
  kept = without_failed(run, seeds)
  if not kept:
    return pd.DataFrame()
  return run.folder.join_measurements(
    [(seed, stage) for seed in kept for stage in STAGES]
  )
