r"""Question: how invariant is each layer of an Equinox network?

Equinox modules take one image at a time, channels first. The adapter maps them
over the batch and brings images and maps into the form that is measured.
Needs `pip install equinox`.

  python -m examples.digits digits.npz
  python -m experiments.measure --workdir=results/equinox \
    --model=examples/equinox_module.py:make_model --images=digits.npz \
    --measures=invariance_error,equivariance_error,consistency \
    --transforms=translation:1 --shift_map=

Expected output, in about 10 s (weights of seed 0, untrained):

   layer   transform dose unit          measure   mean
  logits translation    0   px invariance_error 0.0000
  logits translation    1   px invariance_error 0.5620
  output translation    0   px      consistency 1.0000
  output translation    1   px      consistency 0.8164
  results/equinox/measurements.parquet

The table holds every layer: a row each for every measure and transformation.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from models.adapters import from_equinox


class Network(eqx.Module):
  """A convolution with ReLU and max pooling, and a linear head."""

  features: eqx.nn.Sequential
  logits: eqx.nn.Linear

  def __init__(self, key: jax.Array) -> None:
    first, second = jax.random.split(key)
    self.features = eqx.nn.Sequential(
      [
        eqx.nn.Conv2d(1, 8, 3, padding=1, key=first),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.MaxPool2d(2, 2),
      ]
    )
    self.logits = eqx.nn.Linear(8 * 16 * 16, 10, key=second)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits of 10 classes for one image (c, h, w)."""
    return self.logits(jnp.ravel(self.features(x)))


def make_model() -> jax.tree_util.Partial:
  """The network to measure; load your own weights here."""
  return from_equinox(Network(jax.random.key(0)))
