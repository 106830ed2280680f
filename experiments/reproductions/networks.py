"""What the experiments on classifiers share: networks, orbits, measurements."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis import actions, orbits
from analysis.measures import Measure, Row
from experiments import building, datasets, measuring, training
from experiments.config import MeasureConfig, ModelConfig
from experiments.datasets import Dataset, Split
from experiments.reproductions.base import SeedValues, Settings, Value
from models.zoo import Model


def load(settings: Settings) -> Dataset:
  """The images.

  Raises:
    UsageError, ExperimentError: see `datasets.load`; fewer test images than
      are to be measured.
  """
  dataset = datasets.load(settings.data)
  check(settings, dataset)
  return dataset


def check(settings: Settings, dataset: Dataset) -> None:
  """Refuses to measure more images than there are.

  Raises:
    UsageError: naming the flag.
  """
  measuring.check(_measure_config(settings), dataset)


def _measure_config(settings: Settings) -> MeasureConfig:
  return MeasureConfig(measure_examples=settings.measure_examples)


def measured(settings: Settings, dataset: Dataset) -> Split:
  """The test images that are transformed, evenly spread."""
  chosen = measuring.examples(_measure_config(settings), dataset)
  return Split(dataset.test.images[chosen], dataset.test.labels[chosen])


def make_model(settings: Settings, dataset: Dataset, **fields: Any) -> Model:
  """A network of the experiment's width.

  Args:
    settings: width and dtype.
    dataset: for the number of classes and the canvas.
    **fields: of `ModelConfig`.

  Returns:
    The network.

  Raises:
    UsageError: fields that no network can have.
  """
  return building.build_model(
    ModelConfig(width=settings.width, **fields),
    num_classes=dataset.num_classes,
    canvas=settings.data.canvas,
    dtype=settings.train.dtype,
  )


def train_and_measure(
  model: Model,
  dataset: Dataset,
  settings: Settings,
  seeds: Sequence[int],
  values_of: Callable[[Any, str], Iterable[Value]],
) -> Iterator[SeedValues]:
  """Trains every seed and measures it before and after.

  Args:
    model: the network.
    dataset: trained on its train split.
    settings: how it is trained.
    seeds: the replicates.
    values_of: from parameters and stage to values.

  Yields:
    Each seed's values.
  """
  for result in training.train(model, dataset, settings.train, seeds):
    values = []
    for stage, params in (
      ("init", result.initial),
      ("trained", result.trained),
    ):
      values += values_of(jax.tree.map(jnp.asarray, params), stage)
    yield result.seed, values


def accuracy(model: Model, params: Any, split: Split) -> float:
  """Percent of a split that is classified rightly."""
  data = training.on_device(split)
  return 100 * float(training.evaluate_sums(model, params, data)[1])


def measure_output(
  model: Model,
  params: Any,
  split: Split,
  orbit: actions.Orbit,
  measures: Sequence[str | Measure],
) -> pd.DataFrame:
  """Measures the logits alone.

  Args:
    model: the network.
    params: its variables.
    split: images and labels.
    orbit: the transformations.
    measures: of the output, or of layers; "logits" is the only layer.

  Returns:
    The table of `analysis.orbits.measure`.
  """
  fn = jax.tree_util.Partial(_logits_only(model), params)
  return orbits.measure(fn, split.images, orbit, measures, labels=split.labels)


@functools.cache
def _logits_only(model: Model) -> Callable:
  """One function a network, so that it is compiled once."""

  def fn(params: Any, images: Any) -> Any:
    logits, _ = model.apply(params, images)
    return logits, {"logits": logits}

  return fn


def value(table: pd.DataFrame, measure: str) -> float:
  """The one value of a measure of a whole orbit, or its mean over elements."""
  return float(table["value"][table["measure"] == measure].mean())


def circular_shifts(period: int) -> actions.Orbit:
  """Every shift of 0 to period - 1 pixels right and down, wrapping around.

  A network that halves a map n times sees nothing new beyond a period of
  2**n.
  """
  grid = [(x, y) for y in range(period) for x in range(period)]
  return actions.orbit("translation", grid, border="circular")


class _Largest(NamedTuple):
  difference: Any
  logit: Any


def _update(state: _Largest, batch: Any) -> _Largest:
  weight = batch.weight[:, None]
  moved = jnp.abs(batch.transformed - batch.reference[None]) * weight[None]
  logits = jnp.abs(batch.reference) * weight
  return _Largest(
    jnp.maximum(state.difference, moved.max()),
    jnp.maximum(state.logit, logits.max()),
  )


def _finalize(state: _Largest) -> list[Row]:
  ratio = np.float64(state.difference) / np.float64(state.logit)
  return [Row("logit_difference", float(ratio))]


logit_difference = Measure(
  lambda shapes: _Largest(jnp.zeros(()), jnp.zeros(())),
  _update,
  _finalize,
  name="logit_difference",
  protocol="largest over images, elements and classes",
  scope="output",
)
"""Largest |difference| of a logit from the untransformed image's, over the
largest |logit|. 0, but for rounding, is invariant, whatever the classes are."""
