"""Every architecture by name. Variants are `functools.partial`s of a module."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from models.cnn import CNN
from models.geometry import LayerGeometry
from models.mlp import MLP


class Model(Protocol):
  """What every architecture offers; flax's `init` and `apply` among it."""

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the activations in forward order."""
    ...

  def geometry(self, image_size: int) -> dict[str, LayerGeometry]:
    """Geometry of every layer on a canvas of `image_size` pixels."""
    ...

  def parameter_counts(self, image_size: int) -> dict[str, int]:
    """Learned numbers of every layer on a canvas of `image_size` pixels."""
    ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Initial variables from a random key and an example image."""
    ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """(logits, {layer: activation}) from variables and images."""
    ...


MODELS: Mapping[str, Callable[..., Model]] = {
  "cnn": CNN,
  "mlp": MLP,
  # The lecture's example: LeNet-5's first convolution, 5x5 and unpadded.
  "lecture": functools.partial(
    CNN, depth=1, width=8, kernel_size=5, pooling="none", padding="valid"
  ),
}
