"""The fully connected baseline: no shared weights, no positions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import layers
from models.geometry import LayerSpec
from models.specified import Specified


class MLP(Specified, nn.Module):
  """`depth` hidden dense layers with ReLU on the flattened image.

  Attributes:
    num_classes: number of logits.
    depth: number of hidden layers, 1 to 6.
    width: units of every hidden layer.
    dtype: of the computation; parameters and logits are float32.
  """

  num_classes: int = 10
  depth: int = 2
  width: int = 128
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    if not 1 <= self.depth <= 6:
      raise ValueError(f"depth={self.depth} is not between 1 and 6")
    for field in ("width", "num_classes"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field}={getattr(self, field)} is not positive")
    super().__post_init__()

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    result = []
    for i in range(1, self.depth + 1):
      result.append(LayerSpec(f"dense{i}", "dense", self.width))
      result.append(LayerSpec(f"relu{i}", "relu"))
    result.append(LayerSpec("logits", "dense", self.num_classes))
    return tuple(result)

  @nn.compact
  def __call__(
    self, images: Float[Array, "n h w c"], *, train: bool = False
  ) -> tuple[Float[Array, "n k"], dict[str, Array]]:
    """Logits and activations; see `CNN.__call__`."""
    x = images.reshape(images.shape[0], -1).astype(self.dtype)
    activations = {}
    for spec in self.specs:
      if spec.kind == "relu":
        x = layers.relu(x, train=train)
      else:
        x = x.astype(jnp.float32 if spec.name == "logits" else self.dtype)
        x = layers.Dense(spec.features, name=spec.name)(x, train=train)
      activations[spec.name] = x
    return x, activations
