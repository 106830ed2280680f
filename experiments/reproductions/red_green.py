"""Padding leaks absolute position.

Question: can a convolutional network with global max pooling use where an
object is? Class and height in the image are coupled in training and uncoupled
in one of the test sets, so that a network blind to position scores the same on
both.

Protocol: a red and a green 4x4 square on 32x32 pixels. Red lies left of green
at the top (class 0), or green left of red at the bottom (class 1). The
dissimilar test set is the similar one with every image's content moved by 16
pixels to the other class's rows. Four 3x3 convolutions without bias (32, 32,
64, 64 channels, the last three of stride 2), ReLU, global maximum, dense;
Adadelta, batches of 200 in fixed order, at most 50 epochs, the weights of
lowest validation loss, stopped at the 9th epoch in turn without a lower one.

Source: O. S. Kayhan and J. van Gemert, "On translation invariance in CNNs:
convolutional layers can exploit absolute spatial location", CVPR 2020,
experiment 2. As published, the generator is seeded anew for each set, so that
the validation and the "similar" images are the first 1,000 training images;
the fresh sets beside them are from an unrelated seed and 2,000 images each.

Differs: initial weights are of the same distribution from another generator,
so that seeds do not correspond; 2 seeds instead of 10.

Expected: all four statements, within 1 point of the published accuracies; on
fresh images circular and full padding score 65.5 and 86.0 %. About one in 14
fresh images is a training image too, by chance: there are not many. 15 minutes
on 2 cores that had other work as well.

Full size: --seeds=10, five times as long.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from experiments import training
from experiments.config import DataConfig, TrainConfig
from experiments.datasets import Split
from experiments.errors import ExperimentError, UsageError
from experiments.reproductions import base
from experiments.reproductions.base import (
  Published,
  Results,
  SeedValues,
  Settings,
  Statement,
  Value,
)
from models import platform
from models.cnn import CNN

SIZE, SQUARE, MOVE = 32, 4, 16
BASE_ROWS = (7, 23)  # of class 0 and class 1
PUBLISHED_SEED, FRESH_SEED = 1988, 2020
PATIENCE = 9

VARIANTS = {
  "valid": "valid",
  "same-zero": "same",
  "same-circular": "circular",
  "full-zero": "full",
}
_SOURCE = "Kayhan and van Gemert, 2020"
_PUBLISHED = {
  "valid": ((100.0, 0.0), (0.2, 0.1)),
  "same-zero": ((99.8, 0.1), (8.4, 0.7)),
  "same-circular": ((73.7, 1.0), (73.7, 1.0)),
  "full-zero": ((89.7, 0.5), (89.7, 0.5)),
}
# As many pieces of a batch as are fastest on a CPU; see `training`.
_PIECES = 8
_WEIGHTS = 0


class Images(NamedTuple):
  """The sets by name, and what they depend on."""

  sets: Mapping[str, Split]
  provenance: Mapping[str, Any]


# --- images ------------------------------------------------------------------


def draw(count: int, seed: int, *, dissimilar: bool = False) -> Split:
  """Draws a set of images.

  Args:
    count: of images; classes alternate.
    seed: of numpy's legacy generator, whose draws never change.
    dissimilar: whether the content is then moved to the other class's rows.

  Returns:
    Images (count, 32, 32, 3), 0 or 255, and labels.
  """
  rng = np.random.RandomState(seed)
  images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
  labels = np.arange(count, dtype=np.int32) % 2
  for image, label in zip(images, labels, strict=True):
    moved = (MOVE if label == 0 else -MOVE) if dissimilar else 0
    # Red, channel 0, is on the left in class 0 and on the right in class 1.
    for channel, (row, column) in zip(
      (label, 1 - label), _places(rng, BASE_ROWS[label]), strict=True
    ):
      top = row + moved
      image[top : top + SQUARE, column : column + SQUARE, channel] = 255
  return Split(images, labels)


def _places(
  rng: np.random.RandomState, base_row: int
) -> tuple[tuple[int, int], tuple[int, int]]:
  """(row, column) of the left and of the right square's top left pixel."""
  left = rng.randint(0, 10)
  left_row = base_row + rng.randint(-4, 4)
  while True:
    right = rng.randint(left, SIZE - SQUARE)
    right_row = base_row + rng.randint(-4, 4)
    if right - left > SQUARE:  # at least one empty column between them
      return (left_row, left), (right_row, right)


def load(settings: Settings) -> Images:
  """The published sets, and fresh ones of twice as many test images."""
  train, test = settings.data.train_examples, settings.data.test_examples
  if min(train, test) < 2:
    raise UsageError(
      f"--train_examples={train} and --test_examples={test} must be at least 2"
    )
  sets = {
    "train": draw(train, PUBLISHED_SEED),
    "validation": draw(test, PUBLISHED_SEED),
    "similar": draw(test, PUBLISHED_SEED),
    "dissimilar": draw(test, PUBLISHED_SEED, dissimilar=True),
    "fresh similar": draw(2 * test, FRESH_SEED),
    "fresh dissimilar": draw(2 * test, FRESH_SEED, dissimilar=True),
  }
  provenance = {
    "source": f"squares drawn by numpy's RandomState({PUBLISHED_SEED})",
    "train_examples": train,
    "test_examples": test,
    "train_sha256": _sha256(sets["train"]),
    "test_sha256": _sha256(sets["dissimilar"]),
  }
  return Images(sets, provenance)


def _sha256(split: Split) -> str:
  return hashlib.sha256(split.images.tobytes()).hexdigest()


# --- training ----------------------------------------------------------------


def make_model(variant: str) -> CNN:
  """The published network with one of the four paddings."""
  return CNN(
    num_classes=2,
    depth=4,
    width_schedule="32/32/64/64",
    pooling="stride",
    pool_after="2/3/4",
    padding=VARIANTS[variant],
    head="gmp",
    bias=False,
  )


def init_params(model: CNN, seed: int) -> Any:
  """Weights and bias uniform within 1 / sqrt(fan in), as published."""
  example = jnp.zeros((1, SIZE, SIZE, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
  key = jax.random.fold_in(jax.random.key(seed), _WEIGHTS)
  params: dict[str, dict[str, Any]] = {}
  for i, (name, layer) in enumerate(sorted(shapes.items())):
    bound = 1 / math.sqrt(math.prod(layer["kernel"].shape[:-1]))
    params[name] = {
      kind: jax.random.uniform(
        jax.random.fold_in(key, 2 * i + j),
        leaf.shape,
        minval=-bound,
        maxval=bound,
      )
      for j, (kind, leaf) in enumerate(sorted(layer.items()))
    }
  return {"params": params}


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
  """Adadelta with the conventions of the published run's library.

  With gradient g of the loss plus `weight_decay` times the weight,

    v = rho v + (1 - rho) g^2
    step = sqrt(u + eps) / sqrt(v + eps) g
    u = rho u + (1 - rho) step^2
    weight = weight - learning_rate step

  so eps is inside both roots, u is that of the step before, and the learning
  rate does not enter u: optax has the same conventions.
  """
  return optax.adadelta(
    config.learning_rate, rho=0.9, eps=1e-6, weight_decay=config.weight_decay
  )


def fit(model: CNN, seed: int, images: Images, config: TrainConfig) -> Any:
  """Trains one network and returns the weights of lowest validation loss.

  Raises:
    ExperimentError: the validation loss is not finite.
  """
  step = _make_step(model, config)
  data = training.on_device(images.sets["train"])
  validation = training.on_device(images.sets["validation"])
  params = init_params(model, seed)
  state = make_optimizer(config).init(params["params"])
  size = config.batch_size
  best, kept, waited = math.inf, params, 0
  for _ in range(config.epochs):
    for start in range(0, len(data.labels) - size + 1, size):
      batch = slice(start, start + size)
      params, state = step(
        params, state, data.images[batch], data.labels[batch]
      )
    loss = float(training.evaluate_sums(model, params, validation)[0])
    if not math.isfinite(loss):
      raise ExperimentError(f"the validation loss of seed {seed} is {loss}")
    waited += 1
    if loss < best:
      best, kept, waited = loss, params, 0
    if waited == PATIENCE:
      break
  return kept


def _make_step(model: CNN, config: TrainConfig) -> Callable:
  optimizer = make_optimizer(config)
  pieces = _PIECES if platform.on_cpu() else 1

  def step(params: Any, state: Any, images: Any, labels: Any) -> Any:
    floats = training.as_float(images)
    _, gradient, _ = training.loss_and_gradient(
      model, params, floats, labels, min(pieces, len(labels))
    )
    updates, state = optimizer.update(gradient, state, params["params"])
    return {"params": optax.apply_updates(params["params"], updates)}, state

  return platform.jit(step)


def run(
  cell: str, seeds: Sequence[int], settings: Settings, images: Images
) -> Iterator[SeedValues]:
  """Trains one padding with every seed; accuracy on the four test sets."""
  model = make_model(cell)
  for seed in seeds:
    params = fit(model, seed, images, settings.train)
    values = []
    for name, split in images.sets.items():
      if name not in ("train", "validation"):
        _, accuracy = training.evaluate_sums(
          model, params, training.on_device(split)
        )
        values.append(Value("accuracy", 100 * float(accuracy), name))
    yield seed, values


def cells(settings: Settings, images: Images) -> Mapping[str, str]:
  """The four paddings.

  Raises:
    UsageError: a batch larger than the training set, or no epoch.
  """
  size, count = settings.train.batch_size, len(images.sets["train"].labels)
  if not 1 <= size <= count:
    raise UsageError(
      f"--batch_size={size} is not between 1 and the {count} training images"
    )
  if settings.train.epochs < 1:
    raise UsageError(f"--epochs={settings.train.epochs} is not positive")
  return {name: name for name in VARIANTS}


# --- rules -------------------------------------------------------------------


def _gaps(results: Results, *variants: str) -> pd.DataFrame:
  """Similar less dissimilar accuracy, a row a seed."""
  return pd.DataFrame(
    {
      v: results.of(v, "accuracy", "similar")
      - results.of(v, "accuracy", "dissimilar")
      for v in variants
    }
  )


def _uses_position(results: Results) -> base.Verdict:
  return base.at_least(_gaps(results, "valid", "same-zero").min(axis=1), 75)


def _blind(results: Results) -> base.Verdict:
  gaps = _gaps(results, "same-circular", "full-zero")
  return base.at_most(gaps.abs().max(axis=1), 0.2)


def _ordered(results: Results) -> base.Verdict:
  scores = [results.of(v, "accuracy", "dissimilar") for v in VARIANTS]
  steps = [b - a for a, b in itertools.pairwise(scores)]
  return base.at_least(pd.concat(steps, axis=1).min(axis=1), 1)


def _close(results: Results) -> base.Verdict:
  distances = [
    abs(float(results.of(p.cell, "accuracy", p.condition).mean()) - p.value)
    for p in PUBLISHED
  ]
  seeds = results.of("valid", "accuracy", "similar").index
  return base.at_most(pd.Series(max(distances), seeds), 2)


PUBLISHED = [
  Published(variant, "accuracy", mean, test, spread=spread)
  for variant, values in _PUBLISHED.items()
  for test, (mean, spread) in zip(
    ("similar", "dissimilar"), values, strict=True
  )
]

EXPERIMENT = base.Experiment(
  name="red_green",
  text=__doc__ or "",
  settings=Settings(
    data=DataConfig("red_green", train_examples=2000, test_examples=1000),
    train=TrainConfig(
      epochs=50,
      batch_size=200,
      optimizer="adadelta",
      learning_rate=1.0,
      schedule="constant",
      weight_decay=5e-5,
    ),
    width=32,
    seeds=(0, 1),
  ),
  takes=frozenset(
    {
      "epochs",
      "batch_size",
      "learning_rate",
      "weight_decay",
      "train_examples",
      "test_examples",
    }
  ),
  load=load,
  cells=cells,
  run=run,
  quantities={"accuracy": base.Quantity("accuracy (%)")},
  published=PUBLISHED,
  statements=(
    Statement(
      "With valid and with same-zero padding the network uses where the object"
      " is",
      _SOURCE,
      "with both and in every seed, similar less dissimilar accuracy is at"
      " least 75 points; the smallest is shown",
      _uses_position,
    ),
    Statement(
      "With circular and with full padding it cannot: both test sets score the"
      " same",
      _SOURCE,
      "with both and in every seed, the accuracies differ by at most 0.2"
      " points; the largest difference is shown",
      _blind,
    ),
    Statement(
      "Dissimilar accuracy rises from valid over same-zero and circular to full"
      " padding",
      _SOURCE,
      "in every seed, each is at least 1 point above the one before; the"
      " smallest step is shown",
      _ordered,
    ),
    Statement(
      "The published accuracies",
      _SOURCE,
      "each of the eight means over seeds is within 2 points (twice the largest"
      " published spread) of the published one; the largest distance is shown",
      _close,
    ),
  ),
)
