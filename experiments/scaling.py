"""How the cost of training and of measuring grows, and a machine's limits.

  results/performance/
    scaling.csv      part, axis, value, repeat, seconds: one axis of the work at
                     a time, everything else as in `BASE`; repeat 0 compiles
    roofline.csv     see `experiments.roofline`
    provenance.json  versions, processor, commit
    figures/         roofline.png, scaling.png

Repeats go through all values of an axis in turn, so that a slow minute of the
machine is spread over them.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments import pairing, store
from experiments.errors import ExperimentError, UsageError

PARTS = ("roofline", "train", "measure")


class Work(NamedTuple):
  """An amount of work.

  Attributes:
    images: trained on, or measured.
    transformations: of the orbit that is measured.
    layers: convolutions.
    seeds: networks trained.
    width: channels of each convolution.
  """

  images: int
  transformations: int
  layers: int
  seeds: int
  width: int


# Images of a training step.
_BATCH, _SMOKE_BATCH = 128, 8

BASE = {"train": Work(512, 0, 3, 1, 32), "measure": Work(64, 16, 3, 1, 32)}
_SMOKE_BASE = {"train": Work(16, 0, 1, 1, 4), "measure": Work(4, 3, 1, 1, 4)}

AXES: dict[str, dict[str, tuple[int, ...]]] = {
  "train": {
    "images": (256, 512, 1024, 2048),
    "layers": (1, 2, 3, 4, 5),
    "seeds": (1, 2, 4),
    "width": (8, 16, 32, 64),
  },
  "measure": {
    "images": (32, 64, 128, 256, 512),
    "transformations": (4, 8, 16, 32, 64),
    "layers": (1, 2, 3, 4, 5),
    "width": (8, 16, 32, 64),
  },
}
_SMOKE_AXES: dict[str, dict[str, tuple[int, ...]]] = {
  "train": {"images": (8, 16)},
  "measure": {"transformations": (2, 4)},
}

MEASURES = (
  "invariance_error",
  "equivariance_error",
  "normalized_variance",
  "accuracy",
  "consistency",
)


def run(
  folder: Path,
  parts: Sequence[str],
  rounds: int,
  *,
  smoke: bool = False,
  redraw: bool = False,
) -> Iterator[str]:
  """Times what is asked for, stores it and draws all that is stored.

  Args:
    folder: where to; what is there of other parts stays.
    parts: of `PARTS`, or an axis of one as in "train:width".
    rounds: timed repeats.
    smoke: whether to try it out, tiny.
    redraw: whether to draw only.

  Yields:
    What was done, a line each.

  Raises:
    UsageError: unknown parts, or too few rounds.
    ExperimentError: the folder holds what another machine, or another version
      of a package, measured.
  """
  if not redraw:
    pairing.check_rounds(rounds, smoke=smoke)
    axes = _chosen(parts, _SMOKE_AXES if smoke else AXES)
    _claim(folder)
    if "roofline" in parts:
      from experiments import roofline

      _store(folder / "roofline.csv", roofline.measure(rounds, smoke=smoke))
      yield "roofline: measured"
    for part, axis, values in axes:
      _store(
        folder / "scaling.csv",
        _grown(part, axis, values, rounds, smoke),
        by=("part", "axis"),
      )
      yield f"{part} by {axis}: measured"
  for path in draw(folder):
    yield str(path)


def _chosen(
  parts: Sequence[str], known: dict[str, dict[str, tuple[int, ...]]]
) -> list[tuple[str, str, tuple[int, ...]]]:
  """(part, axis, values) of everything asked for."""
  chosen = []
  for name in parts:
    part, _, axis = name.partition(":")
    if part not in PARTS or (axis and axis not in known.get(part, {})):
      axes = [f"{p}:{a}" for p in known for a in known[p]]
      raise UsageError(
        f"--parts={name} is unknown; known are {', '.join((*PARTS, *axes))}"
      )
    chosen += [
      (part, a, values)
      for a, values in known.get(part, {}).items()
      if axis in ("", a)
    ]
  return chosen


def _claim(folder: Path) -> None:
  """Makes the folder this machine's, or checks that it is."""
  path = folder / "provenance.json"
  ours = store.provenance({"name": "digits"})
  if path.exists():
    theirs = store.read_json(path)
    for key in ("processor", "cpu_count", "devices", "packages"):
      if theirs.get(key) != ours[key]:
        raise ExperimentError(
          f"{folder} holds timings with {key} {theirs.get(key)}, not"
          f" {ours[key]}: give another --output or remove it"
        )
  store.make_folder(folder)
  store.write_json(path, ours)


def _store(path: Path, new: pd.DataFrame, by: Sequence[str] = ()) -> None:
  """Writes a table; rows of other parts than the new ones stay."""
  if by and path.exists():
    old = store.read_table(path)
    again = (
      old[list(by)]
      .apply(tuple, axis=1)
      .isin(list(new[list(by)].itertuples(index=False, name=None)))
    )
    new = pd.concat([old[~again], new], ignore_index=True)
    new = new.sort_values([*by, "value", "repeat"], kind="stable")
  store.write_table(path, new)


def draw(folder: Path) -> list[Path]:
  """Draws what is stored.

  Args:
    folder: with the tables.

  Returns:
    The figures' paths.

  Raises:
    ExperimentError: a table is damaged.
  """
  from analysis.figures import costs, render

  drawn = []
  for name, figure in (("roofline", costs.roofline), ("scaling", costs.growth)):
    path = folder / f"{name}.csv"
    if path.exists():
      target = folder / "figures" / f"{name}.png"
      files = render(figure(store.read_table(path)), few_colours=True)
      store.write_bytes(target, files[".png"])
      drawn.append(target)
  return drawn


# --- growth ------------------------------------------------------------------


def _grown(
  part: str, axis: str, values: Sequence[int], rounds: int, smoke: bool
) -> pd.DataFrame:
  base = (_SMOKE_BASE if smoke else BASE)[part]
  make = {"train": _training, "measure": _measuring}[part]
  batch = _SMOKE_BATCH if smoke else _BATCH
  blocks = [(v, make(base._replace(**{axis: v}), batch)) for v in values]
  lines = []
  for repeat in range(rounds + 1):
    for value, block in blocks:
      start = time.perf_counter()
      block()
      seconds = time.perf_counter() - start
      lines.append((part, axis, value, repeat, round(seconds, 6)))
  columns = ["part", "axis", "value", "repeat", "seconds"]
  return pd.DataFrame(lines, columns=columns)


def _network(work: Work) -> Any:
  """As deep a network as asked for: five halvings are the most of 32 px."""
  from models.cnn import CNN

  return CNN(depth=work.layers, width=work.width, pooling="max")


def _dataset(images: int) -> Any:
  """As many digits as asked for, again and again."""
  import numpy as np

  from experiments import datasets
  from experiments.config import DataConfig

  dataset = datasets.load(DataConfig())
  index = np.arange(images) % len(dataset.train.labels)
  split = datasets.Split(*(a[index] for a in dataset.train))
  return dataclasses.replace(dataset, train=split)


def _training(work: Work, batch: int) -> Callable[[], None]:
  """An epoch of so many images, for each seed."""
  import jax
  import jax.numpy as jnp

  from experiments import training
  from experiments.config import TrainConfig

  dataset = _dataset(work.images)
  config = TrainConfig(epochs=1, batch_size=batch)
  trainer = training.make_trainer(_network(work), config, dataset)
  data = training.on_device(dataset.train)
  seeds = jnp.arange(work.seeds, dtype=jnp.uint32)
  # Side by side on an accelerator, one after another on a CPU.
  together = [seeds] if trainer.strategy == "scan" else list(seeds)
  states = [trainer.create_train_state(s) for s in together]
  epoch = jnp.zeros((), jnp.uint32)

  def block() -> None:
    for i, s in enumerate(together):
      states[i], losses = trainer.train_epoch(states[i], s, epoch, data)
      jax.block_until_ready(losses)

  return block


def _measuring(work: Work, batch: int) -> Callable[[], None]:
  """The default measures of all layers under rotations."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from analysis.orbits import measure, orbit

  del batch
  model = _network(work)
  split = _dataset(work.images).train
  variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
  fn = jax.tree_util.Partial(model.apply, variables)
  images = split.images.astype(np.float32) / 255
  thetas = np.linspace(-90, 90, work.transformations)
  orbits = [orbit("rotation", list(thetas))]

  def block() -> None:
    measure(
      fn,
      images,
      orbits,
      MEASURES,
      geometry=model.geometry(32),
      labels=split.labels,
    )

  return block
