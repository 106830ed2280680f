"""What needs no statistics: arithmetic counted on real layers and arrays."""

import jax
import jax.numpy as jnp
import pandas as pd

from experiments import building, lectures
from experiments.config import ModelConfig

# The lecture's own numbers.
_CONVOLUTION, _DENSE, _WIDTH = 208, 7840, 28

# Kinds of pooling without anything to learn.
_COMMON = ("max", "max:3/3", "max:3/2", "avg", "stride", "blur", "spectral")

COLUMNS = ("check", "what", "expected", "obtained", "counted")


def table() -> pd.DataFrame:
  """Every exact check.

  Returns:
    One row a number: the check it belongs to, what it is, the number claimed
    and the one obtained, and how many layers were counted for it.
  """
  weights, dense = (row["value"] for row in lectures.parameter_numbers()[:2])
  sizes = lectures.size_table()
  lenet = sizes.query(
    "width == 32 and kernel == 5 and padding == 0 and stride == 1"
  )
  wrong = int((sizes["formula"] != sizes["layer"]).sum())
  rows = [
    (
      *("parameters", "5x5 convolution from 1 to 8 channels"),
      *(_CONVOLUTION, int(weights), 1),
    ),
    ("parameters", "dense layer of 10 units on 28x28", _DENSE, int(dense), 1),
    (
      *("output size", "32 wide, kernel of 5"),
      *(_WIDTH, int(lenet["layer"].iloc[0]), 1),
    ),
    (
      *("output size", "layers of another size than the formula's"),
      *(0, wrong, len(sizes)),
    ),
  ]
  for kind in _COMMON:
    rows.append(
      ("pooling parameters", kind, 0, _parameters_beyond(kind, "none"), 1)
    )
  return pd.DataFrame(rows, columns=list(COLUMNS))


def _parameters_beyond(kind: str, other: str) -> int:
  """Parameters that a network has more, with this pooling than with another.

  Counted in real arrays, of networks that average over positions: a dense head
  would have fewer where maps are smaller.
  """

  def count(pooling: str) -> int:
    config = ModelConfig(pooling=pooling, depth=2, width=4, head="gap")
    model = building.build_model(config, num_classes=10, canvas=32)
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  return count(kind) - count(other)
