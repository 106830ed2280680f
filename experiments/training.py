"""Training: functional, jitted, the whole set on the device, seeds as an axis.

Two strategies compute the same thing, to rounding:

* loop: one compiled step at a time, seeds one after another. The fast one on a
  CPU, where XLA runs convolutions inside a loop 10 to 100 times slower.
* scan: one compiled epoch at a time, all seeds under `vmap`. The fast one on
  an accelerator, which it keeps busy without the host.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from experiments import diverging, strategies
from experiments.building import (
  make_augmentation,
  make_optimizer,
  peak_learning_rate,
)
from experiments.checkpoints import Checkpoints
from experiments.config import TrainConfig
from experiments.datasets import Dataset
from experiments.devices import ALONE, Layout, lay_out
from experiments.diverging import Divergence
from experiments.errors import UsageError
from experiments.evaluating import (
  DeviceSplit,
  as_float,
  cross_entropy,
  evaluate_batch,
  evaluate_scanned,
  evaluate_sums,
  on_device,
)
from experiments.shared_checkpoints import SharedCheckpoints
from experiments.strategies import Pieces, Trainer
from models import platform
from models.zoo import Model

# Images of a piece of a batch: what a CPU's cache holds of a 32-channel layer.
# Worth 20 % with pooling. More pieces would cost more compiling than they save.
_PIECE, _MOST_PIECES = 16, 8

# Purposes of random numbers; fold_in of the seed's key.
_INIT, _SHUFFLE, _AUGMENT = range(3)

Params = Any


class TrainState(NamedTuple):
  """Everything a step changes.

  Attributes:
    params: all variables of the network: what is learned, under "params", and
      what is only kept, as the statistics of batch normalisation.
    optimizer: the optimizer's state, of what is learned.
    step: number of steps done.
  """

  params: Params
  optimizer: Any
  step: Int[Array, ""]


class EpochMetrics(NamedTuple):
  """One line of metrics.jsonl."""

  seed: int
  epoch: int
  step: int
  train_loss: float
  test_loss: float
  test_accuracy: float
  images_per_second: float


class TrainedSeed(NamedTuple):
  """What a seed leaves: parameters before and after, and its metrics."""

  seed: int
  initial: Params
  trained: Params
  metrics: list[EpochMetrics]


def resolve_strategy(config: TrainConfig) -> str:
  """The strategy that a run uses: "loop" or "scan".

  Raises:
    UsageError: an unknown strategy.
  """
  if config.strategy not in ("auto", "loop", "scan"):
    raise UsageError(f"--strategy={config.strategy} is not auto, loop or scan")
  if config.strategy == "auto":
    return "loop" if platform.on_cpu() else "scan"
  return config.strategy


def make_trainer(
  model: Model,
  config: TrainConfig,
  dataset: Dataset,
  layout: Layout = ALONE,
) -> Trainer:
  """Builds the functions of a run, once for all seeds.

  Args:
    model: a network of `models`.
    config: how to train.
    dataset: for its shapes.
    layout: the devices, if more than one.

  Returns:
    The trainer. With the scan strategy, or on several devices, its functions
    take and return an additional leading axis of seeds.

  Raises:
    UsageError: flags that do not fit each other or the data.
  """
  examples = len(dataset.train.labels)
  if not 1 <= config.batch_size <= examples:
    raise UsageError(
      f"--batch_size={config.batch_size} is not between 1 and the {examples}"
      " training images"
    )
  if config.epochs < 1:
    raise UsageError(f"--epochs={config.epochs} is not positive")
  strategy = resolve_strategy(config)
  steps = examples // config.batch_size
  optimizer = make_optimizer(config, config.epochs * steps)
  augment = make_augmentation(config)
  shape = dataset.train.images.shape[1:]
  whole = strategy == "scan" or layout.batch > 1
  pieces = 1 if whole else _pieces(config.batch_size)

  def create_train_state(seed: Array) -> TrainState:
    key = jax.random.fold_in(jax.random.key(seed), _INIT)
    params = model.init(key, jnp.zeros((1, *shape)))
    learned = optimizer.init(params["params"])
    return TrainState(params, learned, jnp.zeros((), jnp.int32))

  def train_step(
    state: TrainState, seed: Array, indices: Array, data: DeviceSplit
  ) -> tuple[TrainState, Array]:
    images = layout.split(as_float(data.images[indices]))
    if augment is not None:
      key = jax.random.fold_in(jax.random.key(seed), _AUGMENT)
      images = augment(jax.random.fold_in(key, state.step), images)

    labels = layout.split(data.labels[indices])
    loss, gradient, kept = loss_and_gradient(
      model, state.params, layout.split(images), labels, pieces
    )
    learned = state.params["params"]
    updates, opt = optimizer.update(gradient, state.optimizer, learned)
    params = {"params": optax.apply_updates(learned, updates), **kept}
    return TrainState(params, opt, state.step + 1), loss

  by_itself = strategy == "loop" and layout.mesh is None
  order = functools.partial(
    _compiled_batch_indices if by_itself else batch_indices,
    examples=examples,
    batch_size=config.batch_size,
  )

  def test_batch(
    params: Params, images: Array, labels: Array
  ) -> tuple[Array, Array]:
    images, labels = layout.split(images), layout.split(labels)
    return evaluate_batch(model, params, images, labels)

  evaluate = evaluate_scanned if strategy == "scan" else evaluate_sums
  evaluate = functools.partial(evaluate, model)
  return strategies.build(
    Pieces(create_train_state, order, train_step, test_batch, evaluate),
    strategy,
    layout,
  )


def _pieces(batch_size: int) -> int:
  """Into how many pieces a CPU cuts a batch; each is compiled by itself."""
  return min(max(batch_size // _PIECE, 1), _MOST_PIECES)


def loss_and_gradient(
  model: Model, params: Params, images: Array, labels: Array, pieces: int
) -> tuple[Array, Params, Params]:
  """Mean loss of a batch, its gradient, and what else changes.

  Args:
    model: the network.
    params: its variables.
    images: float images.
    labels: their classes.
    pieces: how many pieces to cut the batch into; the result is the same to
      rounding. A network that keeps statistics of its batches sees it whole.

  Returns:
    Loss in nats; the gradient, like `params["params"]`; the other variables
    after the batch.
  """
  kept = {name: v for name, v in params.items() if name != "params"}
  count = labels.shape[0]
  pieces = 1 if kept else pieces

  def loss_of(
    learned: Params, images: Array, labels: Array
  ) -> tuple[Array, Params]:
    variables = {"params": learned, **kept}
    result = model.apply(variables, images, train=True, mutable=list(kept))
    (logits, _), changed = result
    return cross_entropy(logits, labels).sum() / count, changed

  cuts = [count * i // pieces for i in range(pieces + 1)]
  parts = [
    jax.value_and_grad(loss_of, has_aux=True)(
      params["params"], images[i:j], labels[i:j]
    )
    for i, j in itertools.pairwise(cuts)
  ]
  losses = [(loss, gradient) for (loss, _), gradient in parts]
  loss, gradient = jax.tree.map(
    lambda *values: functools.reduce(jnp.add, values), *losses
  )
  return loss, gradient, parts[-1][0][1]


def batch_indices(
  seed: Array, epoch: Array, examples: int, batch_size: int
) -> Int[Array, "steps batch"]:
  """The images of every step of an epoch: a permutation, the rest left out."""
  key = jax.random.fold_in(jax.random.key(seed), _SHUFFLE)
  order = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
  steps = examples // batch_size
  return order[: steps * batch_size].reshape(steps, -1)


# Once for all networks of a study.
_compiled_batch_indices = platform.jit(
  batch_indices, static_argnames=("examples", "batch_size")
)


def train(
  model: Model,
  dataset: Dataset,
  config: TrainConfig,
  seeds: Sequence[int],
  *,
  devices: Sequence[Any] | None = None,
  progress: Callable[[int], None] = lambda epochs: None,
  diverged: Callable[[Divergence], None] | None = None,
  checkpoints: Checkpoints | SharedCheckpoints | None = None,
) -> Iterable[TrainedSeed]:
  """Trains one network a seed.

  Args:
    model: the network.
    dataset: trained on its train split, tested on its test split.
    config: how to train.
    seeds: the seeds.
    devices: that seeds, and images where there are fewer seeds, are divided
      among; jax's default device if None. The result is the same to rounding.
    progress: called after every epoch with the number of seeds it was for.
    diverged: called with each seed whose loss is not finite, at the end of that
      epoch. Nothing of it is yielded; the others go on.
    checkpoints: where training goes on from, and is kept; none if None.

  Yields:
    Each seed's parameters and metrics, as soon as they are there. Its
    checkpoint goes when the next one is asked for.

  Raises:
    UsageError: flags that do not fit each other or the data.
    NonFiniteLossError: the loss of a seed became infinite or NaN, and there is
      no `diverged`. Nothing of that seed is returned, nor of those in the same
      computation.
  """
  strategy = resolve_strategy(config)

  def around(seeds: Sequence[int]) -> Layout:
    return lay_out(devices, len(seeds), config.batch_size)

  @functools.cache
  def compiled(
    layout: Layout,
  ) -> tuple[Trainer, tuple[DeviceSplit, DeviceSplit]]:
    data = on_device(dataset.train, layout), on_device(dataset.test, layout)
    return make_trainer(model, config, dataset, layout), data

  at_once = len(seeds) or 1 if strategy == "scan" else around(seeds).seeds
  starts = range(0, len(seeds), at_once)
  groups = [list(seeds[start : start + at_once]) for start in starts]
  if checkpoints is not None:
    groups = checkpoints.groups(seeds, at_once)
  if strategy == "loop":
    # As many seeds a device as it can train in turn: one. Those that were
    # begun on other devices are begun again.
    groups = [
      some
      for group in groups
      for some in (
        [group]
        if around(group).seeds == len(group)
        else [[seed] for seed in group if seed in seeds]
      )
    ]
  for group in groups:
    others = set(group) - set(seeds)  # complete, or failed before
    trainer, data = compiled(around(group))
    yield from _run(
      trainer,
      config,
      data,
      group,
      around(group),
      progress,
      diverged or _refuse,
      checkpoints,
      others,
    )
    if checkpoints is not None:
      checkpoints.drop(group)


def _run(
  trainer: Trainer,
  config: TrainConfig,
  data: tuple[DeviceSplit, DeviceSplit],
  seeds: Sequence[int],
  layout: Layout,
  progress: Callable[[int], None],
  diverged: Callable[[Divergence], None],
  checkpoints: Checkpoints | SharedCheckpoints | None,
  failed: set[int],
) -> list[TrainedSeed]:
  """All epochs of one seed, or of several at once.

  Seeds that are in `failed` are trained beside the others, but not returned.
  """
  axis = trainer.together
  keys = layout.seeded(np.asarray(seeds if axis else seeds[0], np.uint32))
  state = trainer.create_train_state(keys)
  initial = layout.fetch(state.params)
  metrics: dict[int, list[EpochMetrics]] = {seed: [] for seed in seeds}
  done = 0
  saved = checkpoints.load(seeds, state) if checkpoints is not None else None
  if saved is not None:
    done, state = saved.epochs, saved.state
    for seed, lines in zip(seeds, saved.metrics, strict=True):
      metrics[seed] = [EpochMetrics(**line) for line in lines]
      if not all(
        math.isfinite(m.train_loss + m.test_loss) for m in metrics[seed]
      ):
        failed.add(seed)  # its failure was recorded, but has been lost
    progress(done * len(seeds))
  for epoch in range(done, config.epochs):
    start = time.perf_counter()
    number = np.uint32(epoch)
    state, losses = trainer.train_epoch(state, keys, number, data[0])
    jax.block_until_ready(losses)
    seconds = time.perf_counter() - start
    # One copy to the host an epoch, of what it is told.
    told = layout.fetch((losses, trainer.evaluate(state.params, data[1])))
    losses = np.atleast_2d(told[0])
    test_loss, accuracy = (np.atleast_1d(value) for value in told[1])
    steps = losses.shape[1]
    for found in diverging.find(
      losses, test_loss, seeds, epoch + 1, peak_learning_rate(config)
    ):
      if found.seed not in failed:
        diverged(found)
        failed.add(found.seed)
    if len(failed) == len(seeds):
      progress(len(seeds) * (config.epochs - epoch))
      return []
    rate = losses.size * config.batch_size / seconds
    for i, seed in enumerate(seeds):
      metrics[seed].append(
        EpochMetrics(
          seed,
          epoch + 1,
          (epoch + 1) * steps,
          float(losses[i].mean()),
          float(test_loss[i]),
          float(accuracy[i]),
          round(float(rate), 1),
        )
      )
    progress(len(seeds))
    if checkpoints is not None and _worth_keeping(
      checkpoints, epoch + 1 == config.epochs, len(seeds)
    ):
      lines = [[m._asdict() for m in metrics[seed]] for seed in seeds]
      checkpoints.save(seeds, epoch + 1, layout.fetch(state), lines)
  trained = layout.fetch(state.params)

  def of_seed(params: Params, i: int) -> Params:
    return jax.tree.map(lambda a: a[i], params) if axis else params

  return [
    TrainedSeed(seed, of_seed(initial, i), of_seed(trained, i), metrics[seed])
    for i, seed in enumerate(seeds)
    if seed not in failed
  ]


def _refuse(found: Divergence) -> None:
  raise diverging.refusal(found)


def _worth_keeping(
  checkpoints: Checkpoints | SharedCheckpoints, last: bool, seeds: int
) -> bool:
  """Whether to write a checkpoint after an epoch.

  After the last one the seeds themselves are stored, but one after another: a
  kill between two must not let the rest be trained in other company, which
  would change their last bits.
  """
  return seeds > 1 if last else checkpoints.due()
