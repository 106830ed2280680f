"""The jobs that `experiments.benchmark` times: ours and our peers', alike.

Each side of a comparison runs in a process of its own, so that neither the
other's thread pool nor our memory settings touch it. The process does what it
is told, one line on stdin at a time, and answers with one JSON line:

  python -m experiments.workloads train_ours --pooling=max

Peers get the same images, weights, batches and number of threads. They are
imported only by the functions that need them.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarking import peak_gib
from experiments.datasets import Split

LEARNING_RATE = 1e-3

CLASSES = 10


class Job(NamedTuple):
  """Something to time.

  Attributes:
    block: does a fixed amount of work, waits for it, and returns a number
      that both sides must agree on, such as a loss or a normalised variance; or
      several numbers by name, that one as "value".
    items: amount of work in a block.
  """

  block: Callable[[], float | Mapping[str, Any]]
  items: int


class Scale(NamedTuple):
  """How large the jobs are.

  Attributes:
    batch: images of a training step.
    steps: training steps of a timed block.
    width: channels of each convolution.
    images: most images that are measured.
    elements: transformations of an orbit.
  """

  batch: int
  steps: int
  width: int
  images: int
  elements: int


FULL = Scale(batch=128, steps=4, width=32, images=1000, elements=16)
SMOKE = Scale(batch=8, steps=2, width=4, images=8, elements=3)


# --- training: depth 3, width 32 ---------------------------------------------


def _training_data(scale: Scale) -> Split:
  """As many images as a block takes."""
  from experiments import datasets
  from experiments.config import DataConfig

  examples = scale.batch * scale.steps
  return datasets.load(DataConfig(train_examples=examples)).train


def _batches(block: int, scale: Scale) -> np.ndarray:
  """The images of each step of a block, those that our training takes."""
  import jax.numpy as jnp

  from experiments.training import batch_indices

  seed, epoch = jnp.asarray(0), jnp.asarray(block)
  examples = scale.batch * scale.steps
  return np.asarray(batch_indices(seed, epoch, examples, scale.batch))


def small_cnn(pooling: str, width: int) -> tuple[Any, Any]:
  """Our network and its initial weights."""
  import jax
  import jax.numpy as jnp

  from models.cnn import CNN

  model = CNN(depth=3, width=width, pooling=pooling)
  return model, model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def train_ours(pooling: str, scale: Scale) -> Job:
  """Our training step, as `experiments.train` runs it on this platform."""
  import jax.numpy as jnp

  from experiments import training
  from experiments.config import DataConfig, TrainConfig
  from experiments.datasets import load
  from models import platform

  platform.keep_freed_memory()
  data = DataConfig(train_examples=scale.batch * scale.steps)
  config = TrainConfig(
    batch_size=scale.batch,
    learning_rate=LEARNING_RATE,
    schedule="constant",
    strategy="loop",
  )
  dataset = load(data)
  model, params = small_cnn(pooling, scale.width)
  trainer = training.make_trainer(model, config, dataset)
  images = training.on_device(dataset.train)
  seed = jnp.asarray(0, jnp.uint32)
  state = trainer.create_train_state(seed)
  state = state._replace(params=params)
  epochs = itertools.count()

  def block() -> float:
    nonlocal state
    epoch = jnp.asarray(next(epochs), jnp.uint32)
    state, losses = trainer.train_epoch(state, seed, epoch, images)
    return float(losses[-1])

  return Job(block, scale.batch * scale.steps)


def train_flax(pooling: str, scale: Scale) -> Job:
  """Stock `flax.linen` layers, jitted with donated state."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp
  import optax

  images, labels = _training_data(scale)
  epochs = itertools.count()

  class Stock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
      for i in (1, 2, 3):
        x = nn.relu(nn.Conv(scale.width, (3, 3), name=f"conv{i}")(x))
        if pooling == "max":
          x = nn.max_pool(x, (2, 2), (2, 2))
      return nn.Dense(CLASSES, name="logits")(x.reshape(len(x), -1))

  model = Stock()
  optimizer = optax.adamw(LEARNING_RATE)
  params = small_cnn(pooling, scale.width)[1]
  state = params, optimizer.init(params)
  pixels, classes = jnp.asarray(images), jnp.asarray(labels)

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state: Any, batch: Any) -> Any:
    params, moments = state
    x = pixels[batch].astype(jnp.float32) / 255

    def loss_of(params: Any) -> Any:
      logits: Any = model.apply(params, x)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, classes[batch]
      ).mean()

    loss, gradient = jax.value_and_grad(loss_of)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), loss

  def block() -> float:
    nonlocal state
    loss = None
    for batch in _batches(next(epochs), scale):
      state, loss = step(state, batch)
    assert loss is not None
    return float(loss)

  return Job(block, scale.batch * scale.steps)


def train_torch(pooling: str, scale: Scale, channels_last: bool = False) -> Job:
  """PyTorch, eager, the same weights."""
  import torch
  from torch import nn

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  images, labels = _training_data(scale)
  epochs = itertools.count()
  model = torch_cnn(pooling, scale.width)
  _copy_weights(model, small_cnn(pooling, scale.width)[1]["params"])
  form = torch.channels_last if channels_last else torch.contiguous_format
  model = model.to(memory_format=form)
  # The two AdamW are the same rule; ours has this decay by default.
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4
  )
  pixels = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
  classes = torch.from_numpy(labels.astype(np.int64))
  criterion = nn.CrossEntropyLoss()

  def block() -> float:
    loss = None
    for batch in torch.from_numpy(_batches(next(epochs), scale)):
      x = pixels[batch].float().div_(255).contiguous(memory_format=form)
      optimizer.zero_grad()
      loss = criterion(model(x), classes[batch])
      loss.backward()
      optimizer.step()
    assert loss is not None
    return float(loss)

  return Job(block, scale.batch * scale.steps)


def torch_cnn(pooling: str, width: int) -> Any:
  """The same network of torch's layers."""
  from torch import nn

  layers: list[nn.Module] = []
  for inputs in (1, width, width):
    layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    if pooling == "max":
      layers.append(nn.MaxPool2d(2))
  size = 4 if pooling == "max" else 32
  head = nn.Linear(size * size * width, CLASSES)
  return nn.Sequential(*layers, nn.Flatten(), head)


def _copy_weights(model: Any, params: Any) -> None:
  """Our weights into torch's layout: OIHW, and channels first when flat."""
  import torch

  convolutions = [m for m in model if hasattr(m, "kernel_size")]
  convolutions = [m for m in convolutions if hasattr(m, "weight")]
  with torch.no_grad():
    for i, layer in enumerate(convolutions, start=1):
      kernel = np.asarray(params[f"conv{i}"]["kernel"])
      layer.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
      layer.bias.zero_()
    kernel = np.asarray(params["logits"]["kernel"])
    channels = convolutions[-1].out_channels
    size = math.isqrt(len(kernel) // channels)
    kernel = kernel.reshape(size, size, channels, CLASSES)
    kernel = kernel.transpose(3, 2, 0, 1).reshape(CLASSES, -1)
    model[-1].weight.copy_(torch.from_numpy(kernel.copy()))
    model[-1].bias.zero_()


def jobs() -> dict[str, Callable[..., Job]]:
  """All jobs by name."""
  from experiments import workloads_accelerator as accelerator
  from experiments import workloads_measuring as measuring

  return {
    "train_ours": train_ours,
    "train_flax": train_flax,
    "train_torch": train_torch,
    "train_torch_channels_last": functools.partial(
      train_torch, channels_last=True
    ),
    "measure_ours": measuring.measure_ours,
    "measure_network": measuring.measure_network,
    "forward_network": measuring.forward_network,
    "measure_tmeasures": measuring.measure_tmeasures,
    "accelerate_ours": accelerator.accelerate_ours,
    "accelerate_torch": accelerator.accelerate_torch,
  }


def serve() -> None:
  """Answers every line on stdin with the time of one block, in seconds."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("job", choices=jobs())
  parser.add_argument("--pooling")
  parser.add_argument("--measures")
  parser.add_argument("--images", type=int)
  parser.add_argument("--seeds", type=int)
  parser.add_argument("--data_dir")
  parser.add_argument("--cores", help="comma-separated, to be bound to")
  parser.add_argument("--smoke", action="store_true", help="make it tiny")
  options = vars(parser.parse_args())
  name, cores = options.pop("job"), options.pop("cores")
  scale = SMOKE if options.pop("smoke") else FULL
  if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
  arguments = {k: v for k, v in options.items() if v is not None}
  # Libraries print: the answers keep stdout, everything else goes to stderr.
  with os.fdopen(os.dup(1), "w") as answers:
    os.dup2(2, 1)
    job = jobs()[name](scale=scale, **arguments)
    for _ in sys.stdin:
      start = time.perf_counter()
      told = job.block()
      seconds = time.perf_counter() - start
      gib = peak_gib(resource.getrusage(resource.RUSAGE_SELF))
      answer = {"seconds": seconds, "items": job.items, "gib": gib}
      answer |= told if isinstance(told, Mapping) else {"value": told}
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    serve()
