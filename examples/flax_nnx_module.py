r"""Question: how invariant is each layer of a Flax NNX network?

An NNX module holds its own state. The adapter splits it into a pure function
and that state, and records what each submodule returns. Activation functions
and pooling are no modules; to see them, make them one, as `Relu` below.

  python -m examples.digits digits.npz
  python -m experiments.measure --workdir=results/nnx \
    --model=examples/flax_nnx_module.py:make_model --images=digits.npz \
    --measures=invariance_error,equivariance_error,consistency \
    --transforms=translation:1 --shift_map=

Expected output, in about 10 s (weights of seed 0, untrained):

   layer   transform dose unit          measure   mean
  logits translation    0   px invariance_error 0.0000
  logits translation    1   px invariance_error 0.1377
  output translation    0   px      consistency 1.0000
  output translation    1   px      consistency 1.0000
  results/nnx/measurements.parquet

The table holds every layer: a row each for every measure and transformation.
"""

import jax
from flax import nnx

from models.adapters import from_nnx


class Relu(nnx.Module):
  """A ReLU that is a layer of its own."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """The positive part."""
    return nnx.relu(x)


class Network(nnx.Module):
  """Two convolutions, the second in steps of two, and a linear head."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    self.features = nnx.Sequential(
      nnx.Conv(1, 8, (3, 3), rngs=rngs),
      Relu(),
      nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs),
      Relu(),
    )
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.logits = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits of 10 classes."""
    x = self.features(x).mean(axis=(1, 2))
    return self.logits(self.dropout(x))


def make_model() -> jax.tree_util.Partial:
  """The network to measure; restore your own state here."""
  network = Network(nnx.Rngs(0))
  network.eval()  # no dropout
  return from_nnx(network)
