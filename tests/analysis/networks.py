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
