"""One command on several processes: what process 0 asks, and the others do.

  training   all devices of all processes are one mesh (`experiments.devices`);
             every process runs the same programs at the same time
  measuring  each process measures a network of its own on its own devices, so
             that a table is that of one process, bit for bit

Process 0 alone reads and writes the run folder. It sends the others flags and
parameters, and they send it tables; the images each reads for itself.
"""

import contextlib
import contextvars
import dataclasses
import functools
import io
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments import building, datasets, hosts, measuring, training
from experiments.checkpoints import Checkpoints
from experiments.config import (
  DataConfig,
  HostConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.datasets import Dataset
from experiments.errors import ExperimentError, UsageError
from experiments.shared_checkpoints import SharedCheckpoints
from experiments.team import STOP, Message, Team
from experiments.training import TrainedSeed
from models import platform
from models.zoo import Model

# Seconds for a process that has gone to be noticed, before what its going
# broke is shown.
_NOTICE = 3.0

Part = tuple[int, str]  # a seed and a stage


class Network(NamedTuple):
  """A network, and what another process can build it from."""

  model: Model
  data: DataConfig
  config: ModelConfig
  train: TrainConfig


class Crew(NamedTuple):
  """What a command may use.

  Attributes:
    everything: all devices, not only jax's default one.
    team: the processes, if there are several.
  """

  everything: bool = False
  team: Team | None = None


_CREW = contextvars.ContextVar("crew", default=Crew())  # noqa: B039 (immutable)


@contextlib.contextmanager
def using(crew: Crew) -> Iterator[None]:
  """Within it, runs are trained and measured with these."""
  token = _CREW.set(crew)
  try:
    yield
  finally:
    _CREW.reset(token)


def training_devices() -> list[Any] | None:
  """What training divides its work among; None for the default device."""
  import jax

  return jax.devices() if _CREW.get().everything else None


def measuring_devices() -> list[Any] | None:
  """What measuring divides its images among; None for the default device.

  On a CPU one device: several are simulated ones, on the same cores, which the
  compiled loops of one device use better.
  """
  import jax

  several = _CREW.get().everything and not platform.on_cpu()
  return jax.local_devices() if several else None


# --- a command ---------------------------------------------------------------


def run(
  config: HostConfig,
  started_with: Mapping[str, Any],
  main: Callable[[], None],
  data_dir: str,
) -> None:
  """Runs a command with all devices, on all of its processes.

  Args:
    config: the flags that say which processes there are.
    started_with: what must be the same in all of them, by flag.
    main: the command; exits by SystemExit when it fails.
    data_dir: where this process finds images, if that differs.
  """
  place = hosts.find(config)
  if place is None:
    with using(Crew(everything=True)):
      main()
    return
  hosts.quiet_stdout()
  team = hosts.join(place, started_with, config.coordinator_timeout)
  try:
    with using(Crew(True, team)):
      if team.index == 0:
        main()
      else:
        _serve(team, data_dir)
  except SystemExit as error:
    if error.code:
      team.abort(error.code if isinstance(error.code, int) else 1)
  except (UsageError, ExperimentError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    team.abort(2 if isinstance(error, UsageError) else 1)
  except KeyboardInterrupt:
    team.abort(130)
  except BaseException:
    time.sleep(_NOTICE)
    traceback.print_exc()
    team.abort(1)
  if team.index == 0:
    team.part()


# --- process 0 ---------------------------------------------------------------


def train(
  network: Network,
  dataset: Dataset,
  seeds: Sequence[int],
  checkpoints: Checkpoints,
  **options: Any,
) -> Iterable[TrainedSeed]:
  """As `training.train`, with all that the command may use.

  Args:
    network: the network.
    dataset: the images.
    seeds: the seeds.
    checkpoints: where training goes on from, and is kept.
    **options: of `training.train`.

  Yields:
    Each seed's parameters and metrics.

  Raises:
    ExperimentError: another process cannot, with the reason.
  """
  team = _CREW.get().team
  if team is not None:
    team.tell(_about("train", network, dataset) | {"seeds": list(seeds)})
    _check_ready(team, team.hear_all())
  yield from training.train(
    network.model,
    dataset,
    network.train,
    seeds,
    devices=training_devices(),
    checkpoints=(
      checkpoints if team is None else SharedCheckpoints(team, checkpoints)
    ),
    **options,
  )


def measure(
  network: Network,
  dataset: Dataset,
  config: MeasureConfig,
  parts: Sequence[Part],
  load: Callable[[int, str], Any],
  *,
  progress: Callable[[int], None],
) -> Iterator[pd.DataFrame]:
  """Measures networks, as many at a time as there are processes.

  Args:
    network: the network.
    dataset: the images.
    config: how to measure.
    parts: seeds and stages.
    load: from seed and stage to parameters.
    progress: called with the number of transformed images done.

  Yields:
    The table of `measuring.measure_network` of each.

  Raises:
    ExperimentError: another process cannot, with the reason.
  """
  team = _CREW.get().team
  count = 1 if team is None else team.count
  for start in range(0, len(parts), count):
    (seed, stage), *others = parts[start : start + count]
    at_once = 1 + len(others)
    if team is not None:
      about = _about("measure", network, dataset)
      about["measure"] = dataclasses.asdict(config)
      for i, (other, its_stage) in enumerate(others, start=1):
        arrays = _flatten(load(other, its_stage))
        team.tell_one(i, Message(about | {"stage": its_stage}, arrays))
    yield measuring.measure_network(
      network.model,
      load(seed, stage),
      dataset,
      config,
      stage,
      devices=measuring_devices(),
      progress=functools.partial(_times, progress, at_once),
    )
    for i in range(1, at_once):
      assert team is not None
      answer = team.hear_from(i)
      _check_ready(team, [answer])
      yield pd.read_parquet(io.BytesIO(answer.arrays["table"].tobytes()))


def _times(progress: Callable[[int], None], count: int, n: int) -> None:
  progress(count * n)


def _about(kind: str, network: Network, dataset: Dataset) -> dict[str, Any]:
  """What the others must know to build the same network for the same images."""
  return {
    "kind": kind,
    "data": dataclasses.asdict(network.data),
    "model": dataclasses.asdict(network.config),
    "train": dataclasses.asdict(network.train),
    "images": _identity(dataset),
  }


def _identity(dataset: Dataset) -> dict[str, Any]:
  names = ("train_sha256", "test_sha256")
  return {name: dataset.provenance.get(name) for name in names}


def _check_ready(team: Team, answers: Sequence[Message]) -> None:
  """Raises what another process could not do."""
  for answer in answers:
    if "error" in answer.about:
      raise ExperimentError(
        f"process {answer.about['index']} of {team.count} cannot go on:"
        f" {answer.about['error']}"
      )
  if any(answer.about["kind"] == "ready" for answer in answers):
    team.tell({"kind": "go"})


# --- the others --------------------------------------------------------------


def _serve(team: Team, data_dir: str) -> None:
  """Does what process 0 asks until it says stop."""
  loaded: dict[DataConfig, Dataset] = {}
  while True:
    message = team.hear()
    about = message.about
    if about["kind"] == STOP:
      return
    try:
      dataset = _load(about, data_dir, loaded)
      train_config = TrainConfig(**about["train"])
      model = building.build_model(
        ModelConfig(**about["model"]),
        num_classes=dataset.num_classes,
        canvas=about["data"]["canvas"],
        dtype=train_config.dtype,
      )
      if about["kind"] == "measure":
        _measure(team, message, model, dataset)
      else:
        _train(team, message, model, dataset, train_config)
    except (UsageError, ExperimentError, OSError, ValueError) as error:
      team.tell({"kind": "error", "index": team.index, "error": str(error)})


def _load(
  about: Mapping[str, Any], data_dir: str, loaded: dict[DataConfig, Dataset]
) -> Dataset:
  """The images that process 0 uses, from this process's folder."""
  data = DataConfig(**about["data"])
  if data_dir:
    data = dataclasses.replace(data, data_dir=data_dir)
  if data not in loaded:
    loaded.clear()
    loaded[data] = datasets.load(data)
  if _identity(loaded[data]) != about["images"]:
    raise ExperimentError(
      f"its images of --dataset={data.dataset} are others than process 0's:"
      " give it the same in --data_dir"
    )
  return loaded[data]


def _train(
  team: Team,
  message: Message,
  model: Model,
  dataset: Dataset,
  config: TrainConfig,
) -> None:
  """Its part of training; the seeds themselves are process 0's to keep."""
  team.tell({"kind": "ready", "index": team.index})
  if team.hear().about["kind"] != "go":
    return
  results = training.train(
    model,
    dataset,
    config,
    message.about["seeds"],
    devices=training_devices(),
    diverged=lambda found: None,
    checkpoints=SharedCheckpoints(team),
  )
  try:
    for _ in results:
      pass
  except (UsageError, ExperimentError):
    pass  # process 0 meets it too
  except (OSError, ValueError) as error:
    # It does not, and waits for this process in the middle of a computation.
    raise RuntimeError("training broke off") from error


def _measure(
  team: Team, message: Message, model: Model, dataset: Dataset
) -> None:
  table = measuring.measure_network(
    model,
    _nested(message.arrays),
    dataset,
    MeasureConfig(**message.about["measure"]),
    message.about["stage"],
    devices=measuring_devices(),
  )
  file = io.BytesIO()
  table.to_parquet(file, index=False)
  content = np.frombuffer(file.getvalue(), np.uint8)
  team.tell({"kind": "table", "index": team.index}, table=content)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{key}/")
    else:
      flat[prefix + key] = np.asarray(value)
  return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree
