"""An epoch as compiled programs: step by step, or whole; on one device or many.

What an epoch is (`experiments.training`) does not depend on how it is run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.devices import Layout
from models import platform


class Pieces(NamedTuple):
  """What a run is made of, all of one seed.

  Attributes:
    create_train_state: seed -> state.
    order: seed, epoch -> (steps, batch) indices of the images of every step;
      compiled, for the loop strategy on one device.
    train_step: state, seed, indices, data -> state, loss.
    test_batch: params, images, labels -> sum of losses, number of hits.
    evaluate: params, split -> mean loss, accuracy; by `step` in place of its
      own way of testing a batch, if that is given.
  """

  create_train_state: Callable[..., Any]
  order: Callable[..., Any]
  train_step: Callable[..., tuple[Any, Any]]
  test_batch: Callable[..., tuple[Any, Any]]
  evaluate: Callable[..., tuple[Any, Any]]


class Trainer(NamedTuple):
  """The compiled functions of a training run.

  Attributes:
    create_train_state: seed -> state.
    train_epoch: state, seed, epoch, data -> state, losses of the steps.
    evaluate: params, split -> mean loss, accuracy.
    strategy: "loop" or "scan".
    together: whether all of these have a leading axis of seeds.
  """

  create_train_state: Callable[..., Any]
  train_epoch: Callable[..., tuple[Any, Any]]
  evaluate: Callable[..., tuple[Any, Any]]
  strategy: str
  together: bool


def build(pieces: Pieces, strategy: str, layout: Layout) -> Trainer:
  """Compiles a run.

  Args:
    pieces: what it is made of.
    strategy: "loop" or "scan".
    layout: the devices. With more than one, the loop strategy trains as many
      seeds at a time as they are divided among, one a device.

  Returns:
    The trainer.
  """
  if strategy == "scan":
    return _scanned(pieces, layout)
  if layout.mesh is None:
    return _looped(pieces)
  return _looped_apart(pieces, layout)


def _looped(pieces: Pieces) -> Trainer:
  """One step after another, one seed after another."""
  step = platform.jit(pieces.train_step, donate_argnums=0)

  def train_epoch(
    state: Any, seed: Any, epoch: Any, data: Any
  ) -> tuple[Any, Any]:
    losses = []
    for indices in pieces.order(seed, epoch):
      state, loss = step(state, seed, indices, data)
      losses.append(loss)
    return state, jnp.stack(losses)

  create = platform.jit(pieces.create_train_state, once=True)
  return Trainer(create, train_epoch, pieces.evaluate, "loop", False)


def _looped_apart(pieces: Pieces, layout: Layout) -> Trainer:
  """One step after another, each seed on devices of its own."""
  compiled = functools.partial(_compiled, _alone, layout)

  def one_step(state: Any, seed: Any, order: Any, data: Any) -> tuple[Any, Any]:
    indices = order[state.step % order.shape[0]]
    return pieces.train_step(state, seed, indices, data)

  step = compiled(one_step, seeded=3, donate_argnums=0)
  order = compiled(pieces.order, seeded=1)

  def train_epoch(
    state: Any, seeds: Any, epoch: Any, data: Any
  ) -> tuple[Any, Any]:
    losses, orders = [], order(seeds, epoch)
    for _ in range(orders.shape[1]):
      state, loss = step(state, seeds, orders, data)
      losses.append(loss)
    return state, jnp.stack(losses, axis=1)

  return Trainer(
    compiled(pieces.create_train_state, seeded=1, once=True),
    train_epoch,
    functools.partial(
      pieces.evaluate, step=compiled(pieces.test_batch, seeded=1)
    ),
    "loop",
    True,
  )


def _scanned(pieces: Pieces, layout: Layout) -> Trainer:
  """A whole epoch at once, seeds side by side."""

  def train_epoch(
    state: Any, seed: Any, epoch: Any, data: Any
  ) -> tuple[Any, Any]:
    def body(state: Any, indices: Any) -> tuple[Any, Any]:
      return pieces.train_step(state, seed, indices, data)

    return lax.scan(body, state, pieces.order(seed, epoch))

  compiled = functools.partial(_compiled, _side_by_side, layout)
  return Trainer(
    compiled(pieces.create_train_state, seeded=1, once=True),
    compiled(train_epoch, seeded=2, donate_argnums=0),
    compiled(
      functools.partial(pieces.evaluate, step=pieces.test_batch), seeded=1
    ),
    "scan",
    True,
  )


def _compiled(
  lift: Callable,
  layout: Layout,
  function: Callable,
  *,
  seeded: int,
  **options: Any,
) -> Callable:
  """A function of one seed as a compiled one of all seeds on all devices."""
  many = lift(function, seeded)
  if layout.mesh is not None:
    many = layout.spread(many, seeded)
  return platform.jit(many, **options)


def _alone(function: Callable, seeded: int) -> Callable:
  """Of the one seed that a device has."""

  def call(*args: Any) -> Any:
    first = [jax.tree.map(lambda a: a[0], arg) for arg in args[:seeded]]
    result = function(*first, *args[seeded:])
    return jax.tree.map(lambda a: a[None], result)

  return call


def _side_by_side(function: Callable, seeded: int) -> Callable:
  """Of the seeds that a device has."""

  def call(*args: Any) -> Any:
    axes = tuple(0 if i < seeded else None for i in range(len(args)))
    return jax.vmap(function, in_axes=axes)(*args)

  return call
