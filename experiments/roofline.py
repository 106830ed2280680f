"""What a machine can do at most, and what the layers' kernels do of it.

A kernel does some operations on some memory. Its arithmetic intensity is their
quotient, counting each input and output once; no kernel can be faster than the
machine's peak, nor than its memory delivers that many operations.

  kind       peak (a matrix product), memory or cache (a += s b, on arrays far
             larger than the caches, or as large as a layer's), kernel (of a
             layer), step (a whole training step) or pass (of measuring)
  network    max or none: how it pools
  name       layer, or what is done
  direction  forward or backward
  images     at once
  flops, bytes, repeat, seconds

References:
  S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual
  performance model for multicore architectures", CACM 52(4), 2009.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from models import cost, layers, platform, pooling
from models.cnn import CNN
from models.geometry import Step, walk

SIDE = 32  # pixels of an image

_LEAST_S = 0.02  # a timing is of calls for at least so long


class Sizes(NamedTuple):
  """How large everything is.

  Attributes:
    gemm: rows of the matrices.
    memory: numbers of an array that no cache holds.
    cache: numbers of an array that is as large as a layer's.
    piece: images of a kernel: what training on a CPU cuts batches into.
    batch: images of a training step.
    width: channels.
    depth: convolutions.
    networks: how they pool.
    images: that are measured.
    elements: of the orbit that is measured.
  """

  gemm: int
  memory: int
  cache: int
  piece: int
  batch: int
  width: int
  depth: int
  networks: tuple[str, ...]
  images: int
  elements: int


FULL = Sizes(2048, 2**26, 2**19, 16, 128, 32, 3, ("max", "none"), 64, 16)
_SMOKE = Sizes(64, 2**12, 2**10, 2, 8, 4, 1, ("max",), 4, 3)


class Timed(NamedTuple):
  """Something to time, and what it needs to do."""

  kind: str
  network: str
  name: str
  direction: str
  images: int
  flops: float
  bytes: float
  call: Callable[[], Any]
  calls: int = 1


def measure(rounds: int, *, smoke: bool = False) -> pd.DataFrame:
  """Times everything, in turn.

  Args:
    rounds: repeats of each, after one that compiles.
    smoke: whether to try it out, tiny.

  Returns:
    A row an item and repeat, with the columns above.
  """
  sizes = _SMOKE if smoke else FULL
  everything = [*_limits(sizes)]
  for network in sizes.networks:
    kernels = list(_kernels(network, sizes))
    everything += [*kernels, _step(network, kernels, sizes)]
  everything += _passes(sizes)
  calls = [_calls(item) for item in everything]
  rows = []
  for repeat in range(1, rounds + 1):
    for item, count in zip(everything, calls, strict=True):
      seconds = _seconds(item.call, count)
      rows.append((*item[:7], repeat, float(f"{seconds:.4g}")))
  columns = [*Timed._fields[:7], "repeat", "seconds"]
  return pd.DataFrame(rows, columns=columns)


def _calls(item: Timed) -> int:
  """How many calls a timing needs, after one that compiles."""
  item.call()
  return math.ceil(_LEAST_S / max(_seconds(item.call, 1), 1e-6))


def _seconds(call: Callable[[], Any], count: int) -> float:
  # The first after other work finds its memory mapped by nobody.
  jax.block_until_ready(call())
  start = time.perf_counter()
  result = None
  for _ in range(count):
    result = call()
  jax.block_until_ready(result)
  return (time.perf_counter() - start) / count


# --- the machine -------------------------------------------------------------


def _limits(sizes: Sizes) -> Iterator[Timed]:
  n = sizes.gemm
  a = jax.random.normal(jax.random.key(0), (n, n))
  product = platform.jit(lambda a: a @ a)
  yield Timed(
    "peak",
    "",
    f"{n} x {n} product",
    "",
    0,
    2 * n**3,
    12 * n**2,
    lambda: product(a),
  )
  for kind, count in (("memory", sizes.memory), ("cache", sizes.cache)):
    yield Timed(
      kind,
      "",
      f"a += s b, {4 * count:,} bytes each",
      "",
      0,
      2 * count,
      12 * count,
      _Triad(count),
    )


class _Triad:
  """a += s b, in place."""

  def __init__(self, count: int) -> None:
    self._a, self._b = jnp.zeros(count), jnp.ones(count)
    self._run = platform.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)

  def __call__(self) -> Any:
    self._a = self._run(self._a, self._b)
    return self._a


# --- training ----------------------------------------------------------------


def _kernels(network: str, sizes: Sizes) -> Iterator[Timed]:
  """Both directions of every layer, as training runs them."""
  model = CNN(depth=sizes.depth, width=sizes.width, pooling=network)
  flops_of = cost.flops(model.specs, SIDE)
  first, piece = model.specs[0].name, sizes.piece
  for steps in _together(walk(model.specs, SIDE)):
    names = [step.spec.name for step in steps]
    fn, params, x = _layer(steps, piece)
    forward = platform.jit(lambda p, x, fn=fn: jax.vjp(fn, p, x))
    # Nobody needs the gradient of the images.
    last = 1 if names[0] == first else 2
    backward = platform.jit(lambda pull, g, last=last: pull(g)[:last])
    y, pull = forward(params, x)
    common = ("kernel", network, "+".join(names))
    flops = [piece * flops_of[name] for name in names]
    yield Timed(
      *common,
      "forward",
      piece,
      sum(flops),
      _bytes(params, x, y),
      lambda f=forward, p=params, x=x: f(p, x),
    )
    products = flops[0] * (last if jax.tree.leaves(params) else 1)
    yield Timed(
      *common,
      "backward",
      piece,
      products + sum(flops[1:]),
      _bytes(pull, y, backward(pull, y)),
      lambda b=backward, pull=pull, y=y: b(pull, y),
    )


def _together(steps: list[Step]) -> list[list[Step]]:
  """The layers, a convolution and the activation after it as one."""
  result: list[list[Step]] = []
  for step in steps:
    if result and step.spec.kind == "relu":
      result[-1].append(step)
    else:
      result.append([step])
  return result


def _layer(steps: list[Step], images: int) -> tuple[Callable, Any, Any]:
  """A layer as a function of parameters and input, and these."""
  spec, below = steps[0].spec, steps[0].below
  shape = (*(below.spatial or ()), steps[0].inputs)
  x = jax.random.normal(jax.random.key(1), (images, *shape))
  options = {"train": True}
  if spec.kind in pooling.POOL_KINDS:
    return lambda p, x: pooling.pool(spec, x, train=True), {}, x
  if spec.kind == "dense":
    x = x.reshape(images, -1)
    module: Any = layers.Dense(spec.features)
  else:
    assert spec.kind == "conv"
    module = layers.Conv(
      spec.features, spec.kernel_size, spec.stride, spec.padding
    )
    options["rectify"] = len(steps) > 1
  params = module.init(jax.random.key(0), x)
  return lambda p, x: module.apply(p, x, **options), params, x


def _bytes(*trees: Any) -> int:
  """Of different arrays, each once."""
  arrays = {id(a): a.nbytes for a in jax.tree.leaves(trees)}
  return sum(arrays.values())


def _step(network: str, kernels: list[Timed], sizes: Sizes) -> Timed:
  """A whole step: its operations and memory are those of its kernels."""
  import dataclasses

  from experiments import datasets, training
  from experiments.config import DataConfig, TrainConfig

  steps = 2
  data = datasets.load(DataConfig(train_examples=steps * sizes.batch))
  config = TrainConfig(epochs=1, batch_size=sizes.batch)
  config = dataclasses.replace(config, strategy="auto")
  model = CNN(depth=sizes.depth, width=sizes.width, pooling=network)
  trainer = training.make_trainer(model, config, data)
  images = training.on_device(data.train)
  axis = trainer.strategy == "scan"
  seed = jnp.zeros((1,) if axis else (), jnp.uint32)
  epoch = jnp.zeros((), jnp.uint32)
  state = trainer.create_train_state(seed)

  def call() -> Any:
    nonlocal state
    state, losses = trainer.train_epoch(state, seed, epoch, images)
    return losses

  per_image = steps * sizes.batch / sizes.piece
  return Timed(
    "step",
    network,
    f"{steps} whole steps",
    "",
    steps * sizes.batch,
    per_image * sum(k.flops for k in kernels),
    per_image * sum(k.bytes for k in kernels),
    call,
  )


# --- measuring ---------------------------------------------------------------


def _passes(sizes: Sizes) -> Iterator[Timed]:
  """The bare network on transformed images, and the pass with measures."""
  from analysis.orbits import measure, orbit
  from experiments import datasets
  from experiments.config import DataConfig
  from experiments.scaling import MEASURES

  model = CNN(depth=sizes.depth, width=sizes.width, pooling="max")
  variables = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
  fn = jax.tree_util.Partial(model.apply, variables)
  split = datasets.load(DataConfig()).train
  images = split.images[: sizes.images].astype(np.float32) / 255
  labels = split.labels[: sizes.images]
  rotations = orbit("rotation", list(np.linspace(-90, 90, sizes.elements)))
  apply = platform.jit(lambda fn, x: fn(x))
  moved = [
    jnp.asarray(rotations.family.warp(images, theta))
    for theta in rotations.thetas
  ]
  count = sizes.images * sizes.elements
  flops = count * sum(cost.flops(model.specs, SIDE).values())
  units = sum(
    int(np.prod(a.shape[1:])) for a in apply(fn, moved[0])[1].values()
  )

  def bare() -> Any:
    return [apply(fn, x) for x in moved]

  def with_measures(*names: str) -> Callable[[], Any]:
    return lambda: measure(
      fn,
      images,
      [rotations],
      names,
      geometry=model.geometry(SIDE),
      labels=labels,
    )

  size = 4 * count * (units + SIDE**2)
  common = ("", count, flops, size)
  yield Timed("pass", "max", "network alone", *common, bare)
  lists = (
    ("invariance error", ("invariance_error",)),
    ("normalised variance", ("normalized_variance",)),
    ("both", ("invariance_error", "normalized_variance")),
    ("default measures", MEASURES),
    ("all measures", ("all",)),
  )
  for name, measures in lists[:1] if sizes is _SMOKE else lists:
    call = with_measures(*measures)
    yield Timed("pass", "max", name, *common, call)
