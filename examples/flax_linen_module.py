r"""Question: which layers of a stock Flax Linen network move with the image?

The module below knows nothing of this project. `capture_intermediates` gives
the output of each of its submodules, nested names joined by "/", and strides
and offsets are found by probing.

  python -m examples.digits digits.npz
  python -m experiments.measure --workdir=results/linen \
    --model=examples/flax_linen_module.py:make_model --images=digits.npz \
    --measures=invariance_error,equivariance_error,consistency \
    --transforms=translation:1 --shift_map=

Expected output, in about 10 s (weights of seed 0, untrained):

   layer   transform dose unit          measure   mean
  logits translation    0   px invariance_error 0.0000
  logits translation    1   px invariance_error 0.4300
  output translation    0   px      consistency 1.0000
  output translation    1   px      consistency 0.8008
  results/linen/measurements.parquet

The table holds every layer: a row each for every measure and transformation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.adapters import from_linen


class Block(nn.Module):
  """Convolution, batch normalisation, ReLU."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """The map, of the same size."""
    x = nn.Conv(self.features, (3, 3))(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.relu(x)


class Network(nn.Module):
  """A block, average pooling, a second convolution and a linear head."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
    """Logits of 10 classes."""
    x = Block(8, name="block")(x, train)
    x = nn.avg_pool(x, (2, 2), (2, 2))
    x = nn.tanh(nn.Conv(8, (3, 3), name="conv")(x))
    return nn.Dense(10, name="logits")(x.reshape(len(x), -1))


def make_model() -> jax.tree_util.Partial:
  """The network to measure; load your own parameters here."""
  module = Network()
  variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
  # `train=False` is passed on: batch normalisation must not mix images.
  return from_linen(module, variables, train=False)
