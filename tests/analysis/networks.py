"""Small functions to measure: none of them has seen flax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Where(NamedTuple):
  """A geometry that is not ours: only the attributes count."""

  stride: int
  offset: float
  receptive_field: int
  spatial: tuple[int, int] | bool | None


def identity(images):
  return images.reshape(len(images), -1), {"pixels": images}


IDENTITY_GEOMETRY = {"pixels": Where(1, 0.0, 1, True)}


def _weights(seed, *shape):
  rng = np.random.default_rng(seed)
  scale = 1 / np.sqrt(np.prod(shape[:-1]))
  return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)


def _conv(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def plain(images):
  """Convolution, ReLU, 2x2 maximum, strided convolution, dense layer."""
  conv1 = _conv(images, _weights(0, 3, 3, 1, 3), 1, 1) + np.float32(0.1)
  relu1 = jax.nn.relu(conv1)
  pool1 = lax.reduce_window(
    relu1, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
  )
  conv2 = jnp.tanh(_conv(pool1, _weights(1, 3, 3, 3, 4), 2, 1))
  flat = conv2.reshape(len(images), -1)
  logits = flat @ _weights(2, flat.shape[-1], 10)
  layers = {"conv1": conv1, "relu1": relu1, "pool1": pool1, "conv2": conv2}
  return logits, {**layers, "logits": logits}


PLAIN_GEOMETRY = {
  "conv1": Where(1, 0.0, 3, (16, 16)),
  "relu1": Where(1, 0.0, 3, (16, 16)),
  "pool1": Where(2, 0.5, 4, (8, 8)),
  "conv2": Where(4, 0.5, 8, (4, 4)),
  "logits": Where(0, 0.0, 16, None),
}


def circular_stack(downsample):
  """Three circular convolutions, each downsampled; average; dense layer.

  Invariant to circular shifts of whole pixels exactly if every `downsample` is
  equivariant to them.
  """

  def network(images):
    x, layers = images, {}
    for i in range(1, 4):
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
      x = _conv(x, _weights(i, 3, 3, x.shape[-1], 6), 1, 0)
      x = layers[f"relu{i}"] = jax.nn.relu(x)
      x = layers[f"down{i}"] = downsample(x)
    gap = layers["gap"] = x.mean(axis=(1, 2))
    logits = layers["logits"] = gap @ _weights(4, 6, 10)
    return logits, layers

  return network
