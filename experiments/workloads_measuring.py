"""The measuring jobs of the benchmark; see `experiments.workloads`."""

import os
from typing import Any

import numpy as np

from experiments.workloads import CLASSES, FULL, Job, Scale, small_cnn

_IMAGES = 300  # that are measured against tmeasures


# --- measuring: normalised variance of 10 layers -----------------------------


def _measuring_data(scale: Scale) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """300 digits of 28 px, and the weights of conv 32, conv 64, dense 256, 10."""
  from experiments import datasets
  from experiments.config import DataConfig

  count = min(_IMAGES, scale.images)
  test = datasets.load(DataConfig(canvas=28)).test.images[:count]
  rng = np.random.default_rng(0)
  shapes = {
    "conv1": (3, 3, 1, 32),
    "conv2": (3, 3, 32, 64),
    "dense1": (7 * 7 * 64, 256),
    "dense2": (256, CLASSES),
  }
  weights = {
    name: (rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1]))).astype(np.float32)
    for name, s in shapes.items()
  }
  return test.astype(np.float32) / 255, weights


def measure_ours(scale: Scale) -> Job:
  """The pass, with the one measure."""
  import jax
  import jax.numpy as jnp

  from analysis.orbits import measure
  from models import layers, platform

  platform.keep_freed_memory()
  images, weights = _measuring_data(scale)
  count = scale.elements
  thetas = [360 * i / count for i in range(count)]

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

  return Job(block, len(images) * scale.elements)


def measure_tmeasures(scale: Scale) -> Job:
  """The same with tmeasures, whose own options are the defaults."""
  import torch
  from tmeasures import pytorch as tm
  from tmeasures.pytorch.transformations.affine import RotationGenerator
  from torch import nn

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  images, weights = _measuring_data(scale)

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
          nn.Linear(256, CLASSES, bias=False),
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
  generator = RotationGenerator(
    [i / scale.elements for i in range(scale.elements)]
  )
  options = tm.PyTorchMeasureOptions(batch_size=32, verbose=False)

  def block() -> float:
    result = tm.NormalizedVarianceInvariance().eval(
      _Images(pixels), generator, model, options
    )
    values = result.layers[-1].numpy()
    return float(values[np.isfinite(values)].mean())

  return Job(block, len(images) * scale.elements)


# --- measuring: everything at once, against the bare network ------------------


def _trained_network(
  pooling: str, images: int, scale: Scale
) -> tuple[Any, Any, Any, list[Any]]:
  """A network after an epoch, digits, their labels, 3 orbits."""
  import jax

  from analysis.orbits import orbit
  from experiments import datasets, training
  from experiments.config import DataConfig, TrainConfig

  images = min(images, scale.images)
  dataset = datasets.load(DataConfig())
  model, _ = small_cnn(pooling, scale.width)
  result = next(
    iter(training.train(model, dataset, TrainConfig(epochs=1), (0,)))
  )
  fn = jax.tree_util.Partial(model.apply, result.trained)
  steps = np.linspace(-1, 1, scale.elements)
  orbits = [
    orbit("translation", [(6 * s, 3 * s) for s in steps]),
    orbit("rotation", [90 * s for s in steps]),
    orbit("scaling", list(steps)),
  ]
  # There are more for training than for tests, and time does not care.
  taken, labels = dataset.train.images[:images], dataset.train.labels[:images]
  return fn, taken.astype(np.float32) / 255, labels, orbits


def measure_network(
  measures: str,
  pooling: str = "max",
  images: int = FULL.images,
  *,
  scale: Scale,
) -> Job:
  """The pass with some measures, or "all"; gives the accuracy."""
  from analysis.orbits import measure
  from models import platform

  platform.keep_freed_memory()
  fn, pixels, labels, orbits = _trained_network(pooling, images, scale)
  both = ["normalized_variance", "invariance_error"]
  names = [*(both if measures == "both" else [measures]), "accuracy"]
  geometry = small_cnn(pooling, scale.width)[0].geometry(32)

  def block() -> float:
    table = measure(fn, pixels, orbits, names, geometry=geometry, labels=labels)
    return float(table["value"][table["measure"] == "accuracy"].mean())

  return Job(block, len(pixels) * scale.elements * len(orbits))


def forward_network(
  pooling: str = "max", images: int = FULL.images, *, scale: Scale
) -> Job:
  """The network alone on the same images, transformed beforehand."""
  import jax
  import jax.numpy as jnp

  from models import platform

  platform.keep_freed_memory()
  fn, pixels, labels, orbits = _trained_network(pooling, images, scale)
  moved = [
    np.asarray(o.family.warp(pixels, t)) for o in orbits for t in o.thetas
  ]
  apply = platform.jit(lambda fn, x: fn(x))  # all activations are returned

  def block() -> float:
    hits = 0
    for x in moved:
      for start in range(0, len(pixels), 100):
        part = slice(start, start + 100)
        logits, _ = jax.block_until_ready(apply(fn, jnp.asarray(x[part])))
        hits += int((np.asarray(logits).argmax(-1) == labels[part]).sum())
    return hits / (len(pixels) * len(moved))

  return Job(block, len(pixels) * len(moved))


class _Images:
  """A map-style data set, as torch's loaders take it."""

  def __init__(self, pixels: Any) -> None:
    self.pixels = pixels

  def __len__(self) -> int:
    return len(self.pixels)

  def __getitem__(self, index: int) -> Any:
    return self.pixels[index]
