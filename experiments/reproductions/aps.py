"""Adaptive polyphase sampling is exactly invariant to circular shifts.

Question: does choosing where to sample by the maps themselves (APS) make a
network's answer independent of circular shifts, even before training, where
strides, max pooling and blurring do not, and at what cost in accuracy?

Protocol: three blocks of 3x3 convolution, ReLU and downsampling with circular
padding, global average, dense; only the downsampling differs. Every circular
shift of 0 to 7 pixels each way: with three halvings there is nothing else to
see. Consistency is the share of pairs of these 64 shifts with the same answer;
the logit difference is the largest over images, shifts and classes, as a share
of the largest logit. Read the consistency of untrained networks with care: one
that always gives the same answer is consistent, hence kappa, which is beyond
chance.

Source: A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural
networks", CVPR 2021. LPS: R. Rojas-Gomez et al., "Learnable polyphase sampling
for shift invariant and equivariant convolutional networks", NeurIPS 2022.

Differs: digits on 32 pixels and a small network for CIFAR-10 and ResNets; all
pairs of shifts instead of random ones. The 100 % are a theorem and hold for any
data; the numbers of the other kinds do not compare with published ones and
none is printed.

Expected: exact for aps, max_aps and lps, logits to 2e-7 of the largest; strides
leave 20 % of pairs consistent, max pooling 61, blurring 96 to 97. What does not
hold is that it costs no accuracy: aps has 5 points less than strides, max_aps
as much as max. These digits are centred to the pixel, so that a network that
sees where its samples lie can use it. 5 minutes on 2 cores that had other work
as well.

Full size: colour images and ResNets, which are not here; nearest is
--dataset=mnist --data_dir=DIR --train_examples=0 --epochs=5 --width=32
--measure_examples=1000, an estimated 4 hours on 2 cores.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from experiments.config import TrainConfig
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
KINDS = ("stride", "max", "blur", "max_blur", "aps", "max_aps", "lps")

# Sums in another order differ by so much of the largest logit.
ROUNDING = 1e-4
# One answer of 10,000 images that changes once costs three times as much.
_ALL = 100 - 1e-4

_CONSISTENCY = "pairwise_consistency"
_SOURCE = "Chaman and Dokmanic, 2021"


def cells(settings: Settings, dataset: Dataset) -> Mapping[str, Model]:
  """A network for each kind of downsampling."""
  return {
    kind: networks.make_model(
      settings,
      dataset,
      pooling=kind,
      depth=DEPTH,
      padding="circular",
      head="gap",
    )
    for kind in KINDS
  }


def run(
  model: Model, seeds: Sequence[int], settings: Settings, dataset: Dataset
) -> Iterator[SeedValues]:
  """Consistency under all circular shifts, before and after training."""
  split = networks.measured(settings, dataset)
  shifts = networks.circular_shifts(2**DEPTH)
  names = (_CONSISTENCY, networks.logit_difference)

  def values_of(params: object, stage: str) -> list[Value]:
    table = networks.measure_output(model, params, split, shifts, names)
    values = [
      Value(name, scale * networks.value(table, name), stage=stage)
      for name, scale in (
        (_CONSISTENCY, 100),
        (f"{_CONSISTENCY}_kappa", 1),
        ("logit_difference", 1),
      )
    ]
    if stage == "trained":
      score = networks.accuracy(model, params, dataset.test)
      values.append(Value("accuracy", score))
    return values

  yield from networks.train_and_measure(
    model, dataset, settings, seeds, values_of
  )


# --- rules -------------------------------------------------------------------


def _exact(results: Results, kinds: Sequence[str]) -> base.Verdict:
  cases = [(kind, stage) for kind in kinds for stage in ("init", "trained")]
  consistent = [results.of(k, _CONSISTENCY, stage=s) for k, s in cases]
  moved = [results.of(k, "logit_difference", stage=s) for k, s in cases]
  return base.all_of(
    [
      base.at_least(pd.concat(consistent, axis=1).min(axis=1), _ALL),
      base.at_most(pd.concat(moved, axis=1).max(axis=1), ROUNDING),
    ]
  )


def _fall_short(results: Results) -> base.Verdict:
  kinds = ("stride", "max", "blur", "max_blur")
  return base.all_of(
    [base.below(results.of(kind, _CONSISTENCY), 100) for kind in kinds]
  )


def _no_loss(results: Results) -> base.Verdict:
  pairs = (("aps", "stride"), ("max_aps", "max"))
  return base.all_of(
    [
      base.above(results.of(a, "accuracy") - results.of(b, "accuracy"), -1)
      for a, b in pairs
    ]
  )


EXPERIMENT = base.Experiment(
  name="aps",
  text=__doc__ or "",
  settings=Settings(
    train=TrainConfig(epochs=20, batch_size=64, learning_rate=0.01)
  ),
  takes=base.DATA_FIELDS | base.TRAIN_FIELDS | {"width", "measure_examples"},
  load=networks.load,
  cells=cells,
  run=run,
  quantities={
    _CONSISTENCY: base.Quantity("consistency of pairs (%)", ".2f"),
    f"{_CONSISTENCY}_kappa": base.Quantity("the same beyond chance", ".3f"),
    "logit_difference": base.Quantity("logit difference", ".1e"),
    "accuracy": base.Quantity("accuracy (%)", ".2f"),
  },
  published=[
    base.Published(kind, _CONSISTENCY, 100.0, stage=stage)
    for kind in ("aps", "max_aps")
    for stage in ("init", "trained")
  ],
  statements=(
    Statement(
      "With APS the answer is the same for all circular shifts, before and"
      " after training",
      _SOURCE,
      "for aps and max_aps, untrained and trained, in every seed: consistency"
      f" is 100 % and logits differ by at most {ROUNDING:g} of the largest",
      lambda results: _exact(results, ("aps", "max_aps")),
    ),
    Statement(
      "So it is with learned polyphase sampling",
      "Rojas-Gomez et al., 2022",
      "the same for lps",
      lambda results: _exact(results, ("lps",)),
    ),
    Statement(
      "Strides, max pooling and blurring fall short of it",
      _SOURCE,
      "trained consistency of stride, max, blur and max_blur is below 100 %,"
      " each by its whole interval; the least clear is shown",
      _fall_short,
    ),
    Statement(
      "APS costs no accuracy",
      _SOURCE,
      "accuracy of aps less stride and of max_aps less max is above -1 point by"
      " its whole interval; the less clear is shown",
      _no_loss,
    ),
  ),
  large={"train_examples": 10_000, "epochs": 3},
)
