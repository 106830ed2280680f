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
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.datasets import Split

BATCH = 128
STEPS = 4  # training steps in a timed block
LEARNING_RATE = 1e-3
ANGLES = 16
IMAGES = 300

_CLASSES = 10


class Job(NamedTuple):
  """Something to time.

  Attributes:
    block: does a fixed amount of work, waits for it, and returns a number
      that both sides must agree on: a loss, or a normalised variance.
    items: amount of work in a block.
  """

  block: Callable[[], float]
  items: int


# --- training: depth 3, width 32 ---------------------------------------------


def _training_data() -> Split:
  """As many images as a block takes."""
  from experiments import datasets
  from experiments.config import DataConfig

  return datasets.load(DataConfig(train_examples=BATCH * STEPS)).train


def _batches(block: int) -> np.ndarray:
  """The images of each step of a block, those that our training takes."""
  import jax.numpy as jnp

  from experiments.training import batch_indices

  seed, epoch = jnp.asarray(0), jnp.asarray(block)
  return np.asarray(batch_indices(seed, epoch, BATCH * STEPS, BATCH))


def _cnn(pooling: str) -> tuple[Any, Any]:
  """Our network and its initial weights."""
  import jax
  import jax.numpy as jnp

  from models.cnn import CNN

  model = CNN(depth=3, width=32, pooling=pooling)
  return model, model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def train_ours(pooling: str) -> Job:
  """Our training step, as `experiments.train` runs it on this platform."""
  import jax.numpy as jnp

  from experiments import training
  from experiments.config import DataConfig, TrainConfig
  from experiments.datasets import load
  from models import platform

  platform.keep_freed_memory()
  data = DataConfig(train_examples=BATCH * STEPS)
  config = TrainConfig(
    batch_size=BATCH,
    learning_rate=LEARNING_RATE,
    schedule="constant",
    strategy="loop",
  )
  dataset = load(data)
  trainer = training.make_trainer(_cnn(pooling)[0], config, dataset)
  images = training.on_device(dataset.train)
  seed = jnp.asarray(0, jnp.uint32)
  state = trainer.create_train_state(seed)
  state = state._replace(params=_cnn(pooling)[1])
  epochs = itertools.count()

  def block() -> float:
    nonlocal state
    epoch = jnp.asarray(next(epochs), jnp.uint32)
    state, losses = trainer.train_epoch(state, seed, epoch, images)
    return float(losses[-1])

  return Job(block, BATCH * STEPS)


def train_flax(pooling: str) -> Job:
  """Stock `flax.linen` layers, jitted with donated state."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp
  import optax

  images, labels = _training_data()
  epochs = itertools.count()

  class Stock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
      for i in (1, 2, 3):
        x = nn.relu(nn.Conv(32, (3, 3), name=f"conv{i}")(x))
        if pooling == "max":
          x = nn.max_pool(x, (2, 2), (2, 2))
      return nn.Dense(_CLASSES, name="logits")(x.reshape(len(x), -1))

  model = Stock()
  optimizer = optax.adamw(LEARNING_RATE)
  params = _cnn(pooling)[1]
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
    for batch in _batches(next(epochs)):
      state, loss = step(state, batch)
    assert loss is not None
    return float(loss)

  return Job(block, BATCH * STEPS)


def train_torch(pooling: str, channels_last: bool = False) -> Job:
  """PyTorch, eager, the same weights."""
  import torch
  from torch import nn

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  images, labels = _training_data()
  epochs = itertools.count()
  layers: list[nn.Module] = []
  for inputs in (1, 32, 32):
    layers += [nn.Conv2d(inputs, 32, 3, padding=1), nn.ReLU()]
    if pooling == "max":
      layers.append(nn.MaxPool2d(2))
  size = 4 if pooling == "max" else 32
  layers += [nn.Flatten(), nn.Linear(size * size * 32, _CLASSES)]
  model = nn.Sequential(*layers)
  _copy_weights(model, _cnn(pooling)[1]["params"], size)
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
    for batch in torch.from_numpy(_batches(next(epochs))):
      x = pixels[batch].float().div_(255).contiguous(memory_format=form)
      optimizer.zero_grad()
      loss = criterion(model(x), classes[batch])
      loss.backward()
      optimizer.step()
    assert loss is not None
    return float(loss)

  return Job(block, BATCH * STEPS)


def _copy_weights(model: Any, params: Any, size: int) -> None:
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
    kernel = kernel.reshape(size, size, 32, _CLASSES).transpose(3, 2, 0, 1)
    model[-1].weight.copy_(torch.from_numpy(kernel.reshape(_CLASSES, -1)))
    model[-1].bias.zero_()


# --- measuring: normalised variance of 10 layers -----------------------------


def _measuring_data() -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """300 digits of 28 px, and the weights of conv 32, conv 64, dense 256, 10."""
  from experiments import datasets
  from experiments.config import DataConfig

  test = datasets.load(DataConfig(canvas=28)).test.images[:IMAGES]
  rng = np.random.default_rng(0)
  shapes = {
    "conv1": (3, 3, 1, 32),
    "conv2": (3, 3, 32, 64),
    "dense1": (7 * 7 * 64, 256),
    "dense2": (256, _CLASSES),
  }
  weights = {
    name: (rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1]))).astype(np.float32)
    for name, s in shapes.items()
  }
  return test.astype(np.float32) / 255, weights


def measure_ours() -> Job:
  """The pass, with the one measure."""
  import jax
  import jax.numpy as jnp

  from analysis.orbits import measure
  from models import layers, platform

  platform.keep_freed_memory()
  images, weights = _measuring_data()
  thetas = [360 * i / ANGLES for i in range(ANGLES)]

  def network(weights: Any, x: Any) -> Any:
    seen = {}
    for i, width in ((1, 32), (2, 64)):
      kernel = weights[f"conv{i}"]
      zeros = jnp.zeros(width)
      seen[f"conv{i}"] = layers.convolution(x, kernel, zeros, padding=1)
      seen[f"relu{i}"] = jax.nn.relu(seen[f"conv{i}"])
      x = seen[f"pool{i}"] = layers.max_pool(seen[f"relu{i}"])
    x = seen["flatten"] = x.reshape(x.shape[0], -1)
    x = seen["dense1"] = x @ weights["dense1"]
    x = seen["relu3"] = jax.nn.relu(x)
    x = seen["dense2"] = x @ weights["dense2"]
    return x, seen

  fn = jax.tree_util.Partial(network, jax.tree.map(jnp.asarray, weights))

  def block() -> float:
    table = measure(fn, images, [("rotation", thetas)], ["normalized_variance"])
    rows = table[table["measure"] == "normalized_variance_reference"]
    assert len(rows) == 10
    return float(rows["value"].iloc[-1])

  return Job(block, IMAGES * ANGLES)


def measure_tmeasures() -> Job:
  """The same with tmeasures, whose own options are the defaults."""
  import torch
  from tmeasures import pytorch as tm
  from tmeasures.pytorch.transformations.affine import RotationGenerator
  from torch import nn

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  images, weights = _measuring_data()

  class Network(tm.ActivationsModule):
    def __init__(self) -> None:
      super().__init__()
      self.steps = nn.ModuleList(
        [
          nn.Conv2d(1, 32, 3, padding=1, bias=False),
          nn.ReLU(),
          nn.MaxPool2d(2),
          nn.Conv2d(32, 64, 3, padding=1, bias=False),
          nn.ReLU(),
          nn.MaxPool2d(2),
          nn.Flatten(),
          nn.Linear(7 * 7 * 64, 256, bias=False),
          nn.ReLU(),
          nn.Linear(256, _CLASSES, bias=False),
        ]
      )

    def activation_names(self) -> list[str]:
      return [str(i) for i in range(len(self.steps))]

    def forward_activations(self, args: Any) -> list[Any]:
      activations, x = [], args
      for step in self.steps:
        x = step(x)
        activations.append(x)
      return activations

  model = Network()
  dense1 = weights["dense1"].reshape(7, 7, 64, 256).transpose(3, 2, 0, 1)
  arrays = [
    weights["conv1"].transpose(3, 2, 0, 1),
    weights["conv2"].transpose(3, 2, 0, 1),
    dense1.reshape(256, -1),
    weights["dense2"].T,
  ]
  with torch.no_grad():
    for parameter, array in zip(model.parameters(), arrays, strict=True):
      parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
  model.eval()
  pixels = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
  generator = RotationGenerator([i / ANGLES for i in range(ANGLES)])
  options = tm.PyTorchMeasureOptions(batch_size=32, verbose=False)

  def block() -> float:
    result = tm.NormalizedVarianceInvariance().eval(
      _Images(pixels), generator, model, options
    )
    values = result.layers[-1].numpy()
    return float(values[np.isfinite(values)].mean())

  return Job(block, IMAGES * ANGLES)


class _Images:
  """A map-style data set, as torch's loaders take it."""

  def __init__(self, pixels: Any) -> None:
    self.pixels = pixels

  def __len__(self) -> int:
    return len(self.pixels)

  def __getitem__(self, index: int) -> Any:
    return self.pixels[index]


JOBS: dict[str, Callable[..., Job]] = {
  "train_ours": train_ours,
  "train_flax": train_flax,
  "train_torch": train_torch,
  "train_torch_channels_last": functools.partial(
    train_torch, channels_last=True
  ),
  "measure_ours": measure_ours,
  "measure_tmeasures": measure_tmeasures,
}


def serve() -> None:
  """Answers every line on stdin with the time of one block, in seconds."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("job", choices=JOBS)
  parser.add_argument("--pooling")
  parser.add_argument("--cores", help="comma-separated, to be bound to")
  options = vars(parser.parse_args())
  name, cores = options.pop("job"), options.pop("cores")
  if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
  arguments = {k: v for k, v in options.items() if v is not None}
  # Libraries print: the answers keep stdout, everything else goes to stderr.
  with os.fdopen(os.dup(1), "w") as answers:
    os.dup2(2, 1)
    job = JOBS[name](**arguments)
    for _ in sys.stdin:
      start = time.perf_counter()
      value = job.block()
      seconds = time.perf_counter() - start
      answer = {"seconds": seconds, "items": job.items, "value": value}
      print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    serve()
