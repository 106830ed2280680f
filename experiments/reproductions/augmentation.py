"""Where does translation invariance come from: the data or the architecture?

Question: what does a network that saw objects in the middle only make of
objects elsewhere, and does its architecture matter as much as having seen them
everywhere?

Protocol: a canvas of 40 pixels, so that a digit of at most 20 pixels can move
by 10 each way and stay whole. Networks of three blocks with max pooling,
strides or no downsampling, and a head that reads every position (dense) or
their average (gap), trained on centred images, or on images shifted at random
by up to 10 pixels each way. Accuracy, and invariance error of the logits (0
invariant, 1 as far as another image), by displacement: mean over left, right,
up and down.

Source: E. Kauderer-Abrams, "Quantifying translation-invariance in
convolutional neural networks", arXiv:1801.01450, 2017. V. Biscione and J.
Bowers, "Convolutional neural networks are not invariant to translation, but
they can learn to be", JMLR 22, 2021.

Differs: digits, small networks and short training. Kauderer-Abrams has MNIST
and varies depth, pooling and the size of filters; Biscione and Bowers have VGG
on larger canvases and pretrain on shifted images of other kinds, which is not
done here. Signs are compared, not values. The margins are ours.

Expected: trained on centred images, every network with a dense head is at
chance beyond 6 pixels; augmentation lowers the invariance error by 0.4 more
than pooling does, and keeps the accuracy up to 8 pixels. At 10, where few
training images were, it does not. An average over positions is no substitute:
with strides accuracy is back at 8 pixels, the network's total stride, and 11 %
at 4. 7 minutes on 2 cores that had other work as well.

Full size: --dataset=mnist --data_dir=DIR --train_examples=0 --epochs=5
--width=32 --measure_examples=1000 --canvas=48 --seeds=5, an estimated two days
on 2 cores.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis import actions
from experiments.config import DataConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.reproductions import base, networks
from experiments.reproductions.base import (
  Results,
  SeedValues,
  Settings,
  Statement,
  Value,
)
from models.zoo import Model

DEPTH = 3
POOLINGS = ("max", "stride", "none")
HEADS = ("dense", "gap")
TRAININGS = ("centred", "augmented")
DISPLACEMENTS_PX = (0, 2, 4, 6, 8, 10)
FARTHEST = "10 px"

_SOURCE_1 = "Kauderer-Abrams, 2017"
_SOURCE_2 = "Biscione and Bowers, 2021"


class Cell(NamedTuple):
  """A network, and the random shifts that it is trained with."""

  model: Model
  augment: str


def _name(pooling: str, head: str, training: str) -> str:
  return f"{pooling}, {head}, {training}"


def cells(settings: Settings, dataset: Dataset) -> Mapping[str, Cell]:
  """Every pooling and head, centred and augmented."""
  augments = {"centred": "", "augmented": f"translation:{DISPLACEMENTS_PX[-1]}"}
  result = {}
  for pooling, head, kind in itertools.product(POOLINGS, HEADS, TRAININGS):
    model = networks.make_model(
      settings, dataset, pooling=pooling, depth=DEPTH, head=head
    )
    result[_name(pooling, head, kind)] = Cell(model, augments[kind])
  return result


def run(
  cell: Cell, seeds: Sequence[int], settings: Settings, dataset: Dataset
) -> Iterator[SeedValues]:
  """Accuracy and invariance error by displacement, trained."""
  train = dataclasses.replace(settings.train, augment=cell.augment)
  settings = dataclasses.replace(settings, train=train)
  split = networks.measured(settings, dataset)
  steps = [(0, 0)]
  for d in DISPLACEMENTS_PX[1:]:
    steps += [(d, 0), (-d, 0), (0, d), (0, -d)]
  shifts = actions.orbit("translation", steps)

  def values_of(params: Any, stage: str) -> list[Value]:
    if stage == "init":
      return []
    table = networks.measure_output(
      cell.model, params, split, shifts, ["accuracy", "invariance_error"]
    )
    return [
      Value(
        str(measure),
        float(rows["value"].mean()) * (100 if measure == "accuracy" else 1),
        f"{magnitude:g} px",
      )
      for (measure, magnitude), rows in table.groupby(
        ["measure", "magnitude"], sort=False
      )
    ]

  yield from networks.train_and_measure(
    cell.model, dataset, settings, seeds, values_of
  )


# --- rules -------------------------------------------------------------------


def _errors(results: Results, head: str, kind: str) -> pd.DataFrame:
  """Mean invariance error over displacements, a column a pooling."""
  columns = {}
  for pooling in POOLINGS:
    errors = [
      results.of(_name(pooling, head, kind), "invariance_error", f"{d} px")
      for d in DISPLACEMENTS_PX[1:]
    ]
    columns[pooling] = pd.concat(errors, axis=1).mean(axis=1)
  return pd.DataFrame(columns)


def _data_matter_more(results: Results) -> base.Verdict:
  centred = _errors(results, "dense", "centred")
  gain = (centred - _errors(results, "dense", "augmented")).mean(axis=1)
  return base.above(gain - (centred.max(axis=1) - centred.min(axis=1)))


def _lost(results: Results, head: str, kind: str) -> list[pd.Series]:
  """Points of accuracy lost by the largest displacement."""
  names = [_name(pooling, head, kind) for pooling in POOLINGS]
  return [
    results.of(n, "accuracy", "0 px") - results.of(n, "accuracy", FARTHEST)
    for n in names
  ]


def _not_invariant(results: Results) -> base.Verdict:
  at = [
    results.of(_name(p, "dense", "centred"), "accuracy", FARTHEST)
    for p in POOLINGS
  ]
  return base.at_most(pd.concat(at, axis=1).max(axis=1), 50)


def _keeps(results: Results, head: str, kind: str) -> base.Verdict:
  return base.all_of([base.below(x, 5) for x in _lost(results, head, kind)])


EXPERIMENT = base.Experiment(
  name="augmentation",
  text=__doc__ or "",
  settings=Settings(
    data=DataConfig(canvas=40),
    train=TrainConfig(epochs=20, batch_size=64, learning_rate=0.01),
    width=12,
    seeds=(0, 1, 2),
  ),
  takes=(base.DATA_FIELDS | base.TRAIN_FIELDS | {"width", "measure_examples"})
  - {"augment"},
  load=networks.load,
  cells=cells,
  run=run,
  quantities={
    "accuracy": base.Quantity("accuracy (%)"),
    "invariance_error": base.Quantity("invariance error", ".2f"),
  },
  statements=(
    Statement(
      "Augmenting the training images does more for translation invariance than"
      " the choice of pooling",
      _SOURCE_1,
      "with a dense head: how much augmentation lowers the invariance error"
      " (mean over displacements and poolings), less the range over poolings"
      " without it, is above 0 by its whole interval, paired by seed",
      _data_matter_more,
    ),
    Statement(
      "Trained in one place, a network does not know objects elsewhere,"
      " whatever its pooling",
      _SOURCE_2,
      f"with a dense head, centred: accuracy at {FARTHEST} is at most 50 % with"
      " every pooling in every seed; the largest is shown",
      _not_invariant,
    ),
    Statement(
      "It can learn to",
      _SOURCE_2,
      f"with a dense head, augmented: accuracy at 0 px less at {FARTHEST} is"
      " below 5 points with every pooling, by its whole interval; the least"
      " clear is shown",
      lambda results: _keeps(results, "dense", "augmented"),
    ),
    Statement(
      "With an average over positions it need not learn it",
      "ours",
      "the same with a gap head, centred",
      lambda results: _keeps(results, "gap", "centred"),
    ),
  ),
  large={"train_examples": 10_000, "epochs": 4},
)
