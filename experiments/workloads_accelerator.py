"""The jobs of the accelerator suite; see `experiments.workloads`.

A block trains networks from the start to the end on all of MNIST, ours by the
scan strategy and PyTorch's by torch.compile, each with the whole set on the
device as bytes, and says how long training, testing and reaching the target
took. Both have the same network, batches of the same size, AdamW and schedule.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.datasets import Dataset
from experiments.workloads import SMOKE, Job, Scale, small_cnn, torch_cnn

POOLING = "max"
TARGET = 0.99  # test accuracy
_RATE = 4e-3


class Recipe(NamedTuple):
  """What both sides do.

  Attributes:
    dataset: what is trained and tested on.
    epochs: passes over it.
    batch: images a step.
    rate: the peak of the learning rate.
    target: test accuracy to reach.
  """

  dataset: Dataset
  epochs: int
  batch: int
  rate: float
  target: float

  @property
  def steps(self) -> int:
    """Training steps of an epoch."""
    return len(self.dataset.train.labels) // self.batch


def recipe(data_dir: str, scale: Scale) -> Recipe:
  """Five epochs of MNIST, or two of a few digits to try it out."""
  from experiments import datasets
  from experiments.config import DataConfig

  if scale == SMOKE:  # of another copy of the module, if that is run
    data = DataConfig(train_examples=64, test_examples=32)
    return Recipe(datasets.load(data), 2, 16, _RATE, 0.0)
  dataset = datasets.load(DataConfig("mnist", data_dir))
  return Recipe(dataset, 5, 128, _RATE, TARGET)


def timed_run(
  chosen: Recipe, train: Callable[[int], Any], test: Callable[[], float]
) -> dict[str, Any]:
  """One network, or several side by side, from the start to the end.

  Args:
    chosen: what to do.
    train: one epoch, by its number; waits until it is done.
    test: gives the test accuracy, of the worst network if there are several.

  Returns:
    "value", the last accuracy; "training_s", without testing; "total_s" with
    it; "target_s" until the accuracy was first found to be high enough, or
    None.
  """
  start, training, reached, accuracy = time.perf_counter(), 0.0, None, 0.0
  for epoch in range(chosen.epochs):
    before = time.perf_counter()
    train(epoch)
    training += time.perf_counter() - before
    accuracy = test()
    if reached is None and accuracy >= chosen.target:
      reached = time.perf_counter() - start
  total = time.perf_counter() - start
  return {
    "value": accuracy,
    "training_s": training,
    "total_s": total,
    "target_s": reached,
  }


def accelerate_ours(seeds: int, scale: Scale, data_dir: str = "") -> Job:
  """The scan strategy with some seeds side by side."""
  import jax
  import jax.numpy as jnp

  from experiments import training
  from experiments.config import TrainConfig

  chosen = recipe(data_dir, scale)
  config = TrainConfig(
    epochs=chosen.epochs,
    batch_size=chosen.batch,
    learning_rate=chosen.rate,
    strategy="scan",
  )
  model, _ = small_cnn(POOLING, scale.width)
  trainer = training.make_trainer(model, config, chosen.dataset)
  data = training.on_device(chosen.dataset.train)
  held_out = training.on_device(chosen.dataset.test)
  first = itertools.count(0, seeds)

  def block() -> dict[str, Any]:
    start = next(first)
    keys = jnp.arange(start, start + seeds, dtype=jnp.uint32)
    state = trainer.create_train_state(keys)

    def train(epoch: int) -> None:
      nonlocal state
      number = jnp.asarray(epoch, jnp.uint32)
      state, losses = trainer.train_epoch(state, keys, number, data)
      jax.block_until_ready(losses)

    def test() -> float:
      _, accuracy = trainer.evaluate(state.params, held_out)
      return float(jax.device_get(accuracy).min())

    device = jax.devices()[0].device_kind
    return timed_run(chosen, train, test) | {"device": device}

  return Job(block, seeds * chosen.epochs * chosen.steps * chosen.batch)


def accelerate_torch(scale: Scale, data_dir: str = "") -> Job:
  """PyTorch with torch.compile, one network at a time."""
  import torch
  from torch import nn

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  # Rounds products as jax does on such a device by default.
  torch.set_float32_matmul_precision("high")
  cuda = torch.cuda.is_available()
  device = torch.device("cuda" if cuda else "cpu")
  chosen = recipe(data_dir, scale)
  pixels, classes = _on_torch(chosen.dataset.train, device)
  tests = _on_torch(chosen.dataset.test, device)
  form = torch.channels_last if cuda else torch.contiguous_format
  model = torch_cnn(POOLING, scale.width).to(device, memory_format=form)
  criterion = nn.CrossEntropyLoss()
  # CUDA graphs, without which small networks wait for the host.
  mode = "reduce-overhead" if cuda else None

  @torch.compile(mode=mode)
  def loss_of(x: Any, y: Any) -> Any:
    x = (x.float() / 255).contiguous(memory_format=form)
    return criterion(model(x), y)

  @torch.compile(mode=mode)
  def hits_of(x: Any, y: Any) -> Any:
    x = (x.float() / 255).contiguous(memory_format=form)
    return (model(x).argmax(1) == y).sum()

  def wait() -> None:
    if cuda:
      torch.cuda.synchronize()

  def block() -> dict[str, Any]:
    _initialise(model)
    optimizer = torch.optim.AdamW(
      model.parameters(), lr=chosen.rate, weight_decay=1e-4, fused=True
    )
    rates = cosine(chosen.rate, chosen.epochs * chosen.steps)

    def train(epoch: int) -> None:
      del epoch
      order = torch.randperm(len(classes), device=device)
      order = order[: chosen.steps * chosen.batch].view(chosen.steps, -1)
      for batch in order:
        for group in optimizer.param_groups:
          group["lr"] = next(rates)
        loss = loss_of(pixels[batch], classes[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
      wait()

    @torch.no_grad()
    def test() -> float:
      hits = torch.zeros((), dtype=torch.int64, device=device)
      parts = zip(*(a.split(256) for a in tests), strict=True)
      for part in parts:
        hits += hits_of(*part)
      return int(hits) / len(tests[1])

    name = torch.cuda.get_device_name() if cuda else "cpu"
    return timed_run(chosen, train, test) | {"device": name}

  return Job(block, chosen.epochs * chosen.steps * chosen.batch)


def _on_torch(split: Any, device: Any) -> tuple[Any, Any]:
  """Images (n, 1, h, w) as bytes and labels, on the device."""
  import torch

  images = np.ascontiguousarray(np.moveaxis(split.images, -1, 1))
  labels = split.labels.astype(np.int64)
  return (
    torch.from_numpy(images).to(device),
    torch.from_numpy(labels).to(device),
  )


def _initialise(model: Any) -> None:
  """Weights drawn as ours are: He for convolutions, LeCun for the head."""
  from torch import nn

  for layer in model:
    if hasattr(layer, "weight"):
      gain = "relu" if hasattr(layer, "kernel_size") else "linear"
      nn.init.kaiming_normal_(layer.weight, nonlinearity=gain)
      nn.init.zeros_(layer.bias)


def cosine(peak: float, steps: int) -> Iterator[float]:
  """The learning rates of `building.make_optimizer`'s cosine schedule."""
  warm = max(steps // 10, 1)
  for step in range(steps):
    if step < warm:
      yield peak * step / warm
    else:
      share = (step - warm) / (max(steps, 2) - warm)
      yield peak * (1 + math.cos(math.pi * share)) / 2
