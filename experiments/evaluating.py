"""Loss and accuracy over a split that lies on the device.

Two ways of the same sums: a compiled batch at a time, the fast one on a CPU,
and all of it in one compiled program, which an accelerator runs without asking
the host for anything.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from experiments.datasets import Split
from experiments.devices import ALONE, Layout
from models import platform
from models.zoo import Model

# Images a batch, at most.
_BATCH = 256

Params = Any

# Of a batch: params, images, labels -> sum of losses, number of hits.
Step = Callable[..., tuple[Array, Array]]


class DeviceSplit(NamedTuple):
  """A split on the device: uint8 images and int32 labels."""

  images: Array
  labels: Array


def on_device(split: Split, layout: Layout = ALONE) -> DeviceSplit:
  """A split in the memory of the device, or of each of several."""
  return DeviceSplit(layout.copied(split.images), layout.copied(split.labels))


def as_float(images: Array) -> Float[Array, "n h w c"]:
  """uint8 images as float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def cross_entropy(
  logits: Float[Array, "n k"], labels: Int[Array, " n"]
) -> Float[Array, " n"]:
  """Softmax cross entropy of each image, in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def evaluate_sums(
  model: Model,
  params: Params,
  data: DeviceSplit,
  *,
  step: Step | None = None,
) -> tuple[Array, Array]:
  """Mean loss and accuracy over a split, a batch at a time.

  Args:
    model: the network.
    params: its variables.
    data: the split, on the device or not.
    step: tests a batch, compiled; `evaluate_batch` if None.

  Returns:
    Loss in nats and accuracy in 0..1.
  """
  step = step or functools.partial(_compiled_batch, model)
  count = data.labels.shape[0]
  size = _batch_size(count)
  added = [
    step(params, data.images[i : i + size], data.labels[i : i + size])
    for i in range(0, count, size)
  ]
  loss, hits = (
    functools.reduce(jnp.add, some) for some in zip(*added, strict=True)
  )
  return loss / count, hits / count


def evaluate_scanned(
  model: Model,
  params: Params,
  data: DeviceSplit,
  *,
  step: Step | None = None,
) -> tuple[Array, Array]:
  """The same in one program: a scan over whole batches, then what is left.

  Args:
    model: the network.
    params: its variables.
    data: the split, on the device.
    step: tests a batch; `evaluate_batch` if None.

  Returns:
    Loss in nats and accuracy in 0..1; the same as of `evaluate_sums`, to
    rounding.
  """
  step = step or functools.partial(evaluate_batch, model)
  count = data.labels.shape[0]
  size = _batch_size(count)
  whole = count // size * size

  def add(
    sums: tuple[Array, Array], batch: DeviceSplit
  ) -> tuple[tuple[Array, Array], None]:
    loss, hits = step(params, *batch)
    return (sums[0] + loss, sums[1] + hits), None

  sums = jnp.zeros(()), jnp.zeros((), jnp.int32)
  if whole:
    batches = jax.tree.map(
      lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), data
    )
    sums, _ = lax.scan(add, sums, batches)
  if whole < count:
    sums, _ = add(sums, jax.tree.map(lambda a: a[whole:], data))
  return sums[0] / count, sums[1] / count


def _batch_size(count: int) -> int:
  """Batches as equal as can be: mostly one shape to compile, not two."""
  return -(-count // -(-count // _BATCH))


def evaluate_batch(
  model: Model, params: Params, images: Array, labels: Array
) -> tuple[Array, Array]:
  """Sum of the losses of a batch, and number of images classified rightly."""
  logits, _ = model.apply(params, as_float(images))
  correct = jnp.argmax(logits, axis=-1) == labels
  return cross_entropy(logits, labels).sum(), correct.sum()


_compiled_batch = platform.jit(evaluate_batch, static_argnames="model")
