"""Loss and accuracy over a split that lies on the device.

Two ways of the same sums: a compiled batch at a time, the fast one on a CPU,
and all of it in one compiled program, which an accelerator runs without asking
the host for anything.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from experiments.datasets import Split
from models import platform
from models.zoo import Model

_BATCH = 256

Params = Any


class DeviceSplit(NamedTuple):
  """A split on the device: uint8 images and int32 labels."""

  images: Array
  labels: Array


def on_device(split: Split) -> DeviceSplit:
  """A split in the memory of the device."""
  return DeviceSplit(jnp.asarray(split.images), jnp.asarray(split.labels))


def as_float(images: Array) -> Float[Array, "n h w c"]:
  """uint8 images as float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def cross_entropy(
  logits: Float[Array, "n k"], labels: Int[Array, " n"]
) -> Float[Array, " n"]:
  """Softmax cross entropy of each image, in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def evaluate_sums(
  model: Model, params: Params, data: DeviceSplit
) -> tuple[Array, Array]:
  """Mean loss and accuracy over a split, a batch at a time.

  Args:
    model: the network.
    params: its variables.
    data: the split, on the device or not.

  Returns:
    Loss in nats and accuracy in 0..1.
  """
  loss, hits = jnp.zeros(()), jnp.zeros((), jnp.int32)
  count = data.labels.shape[0]
  for start in range(0, count, _BATCH):
    images = data.images[start : start + _BATCH]
    labels = data.labels[start : start + _BATCH]
    added = _compiled_batch(model, params, images, labels)
    loss, hits = loss + added[0], hits + added[1]
  return loss / count, hits / count


def evaluate_scanned(
  model: Model, params: Params, data: DeviceSplit
) -> tuple[Array, Array]:
  """The same in one program: a scan over whole batches, then what is left.

  Args:
    model: the network.
    params: its variables.
    data: the split, on the device.

  Returns:
    Loss in nats and accuracy in 0..1; the same as of `evaluate_sums`, to
    rounding.
  """
  count = data.labels.shape[0]
  whole = count // _BATCH * _BATCH

  def add(
    sums: tuple[Array, Array], batch: DeviceSplit
  ) -> tuple[tuple[Array, Array], None]:
    loss, hits = _evaluate_batch(model, params, *batch)
    return (sums[0] + loss, sums[1] + hits), None

  sums = jnp.zeros(()), jnp.zeros((), jnp.int32)
  if whole:
    batches = jax.tree.map(
      lambda a: a[:whole].reshape(-1, _BATCH, *a.shape[1:]), data
    )
    sums, _ = lax.scan(add, sums, batches)
  if whole < count:
    sums, _ = add(sums, jax.tree.map(lambda a: a[whole:], data))
  return sums[0] / count, sums[1] / count


def _evaluate_batch(
  model: Model, params: Params, images: Array, labels: Array
) -> tuple[Array, Array]:
  logits, _ = model.apply(params, as_float(images))
  correct = jnp.argmax(logits, axis=-1) == labels
  return cross_entropy(logits, labels).sum(), correct.sum()


_compiled_batch = platform.jit(_evaluate_batch, static_argnames="model")
