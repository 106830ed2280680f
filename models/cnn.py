"""The convolutional network: convolution, ReLU, pooling, repeated."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import layers
from models.geometry import (
  LayerGeometry,
  LayerSpec,
  layer_geometries,
  parameter_counts,
)

POOLINGS = ("max", "none", "avg", "stride")
PADDINGS = ("same", "valid", "circular")
HEADS = ("dense", "gap")

Activations = dict[str, Array]


class CNN(nn.Module):
  """`depth` blocks of convolution, ReLU and pooling, then a linear head.

  The layer list `specs` is the one description of the network: the forward
  pass, the geometry and the parameter counts all read it.

  Attributes:
    num_classes: number of logits.
    depth: number of convolutions, 1 to 6.
    width: channels of every convolution.
    kernel_size: width of every kernel; odd unless `padding="valid"`.
    pooling: what follows each ReLU: "max" or "avg" (2x2, stride 2), or
      nothing: "none" keeps the resolution, "stride" halves it by the
      convolution's own stride.
    padding: "same" (zeros) and "circular" keep the resolution, "valid" does
      not pad.
    head: "dense" reads every position, "gap" the average over positions.
    dtype: of the computation; parameters and logits are float32.
  """

  num_classes: int = 10
  depth: int = 3
  width: int = 32
  kernel_size: int = 3
  pooling: str = "max"
  padding: str = "same"
  head: str = "dense"
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    _check(self)
    super().__post_init__()

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    padding = 0 if self.padding == "valid" else self.kernel_size // 2
    stride = 2 if self.pooling == "stride" else 1
    result = []
    for i in range(1, self.depth + 1):
      result.append(
        LayerSpec(
          f"conv{i}", "conv", self.width, self.kernel_size, stride, padding
        )
      )
      result.append(LayerSpec(f"relu{i}", "relu"))
      if self.pooling in ("max", "avg"):
        kind = f"{self.pooling}_pool"
        result.append(LayerSpec(f"pool{i}", kind, kernel_size=2, stride=2))
    if self.head == "gap":
      result.append(LayerSpec("gap", "global_avg"))
    result.append(LayerSpec("logits", "dense", self.num_classes))
    return tuple(result)

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the activations in forward order."""
    return tuple(spec.name for spec in self.specs)

  def geometry(self, image_size: int) -> dict[str, LayerGeometry]:
    """Geometry of every layer on a canvas of `image_size` pixels.

    Raises:
      ValueError: a layer would shrink its map below one position.
    """
    return layer_geometries(self.specs, image_size)

  def parameter_counts(self, image_size: int) -> dict[str, int]:
    """Learned numbers of every layer on a canvas of `image_size` pixels."""
    return parameter_counts(self.specs, image_size)

  @nn.compact
  def __call__(
    self, images: Float[Array, "n h w c"], *, train: bool = False
  ) -> tuple[Float[Array, "n k"], Activations]:
    """Logits and the activation of every layer.

    Args:
      images: in [0, 1].
      train: whether to use gradients that only reverse mode knows.

    Returns:
      The logits, and the activations by layer name in forward order.

    Raises:
      ValueError: a layer would shrink its map below one position.
    """
    self.geometry(images.shape[1])  # refuses impossible depths by name
    x = images.astype(self.dtype)
    activations = {}
    for spec in self.specs:
      x = activations[spec.name] = self._layer(spec, x, train)
    return x, activations

  def _layer(self, spec: LayerSpec, x: Array, train: bool) -> Array:
    match spec.kind:
      case "conv":
        conv = layers.Conv(
          spec.features,
          spec.kernel_size,
          spec.stride,
          spec.padding,
          self.padding == "circular",
          self.dtype,
          name=spec.name,
        )
        return conv(x, train=train)
      case "relu":
        return layers.relu(x, train=train)
      case "max_pool":
        return layers.max_pool(x, train=train)
      case "avg_pool":
        return layers.avg_pool(x)
      case "global_avg":
        return jnp.mean(x, axis=(1, 2))
      case _:
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return layers.Dense(spec.features, name=spec.name)(x, train=train)


def _check(model: CNN) -> None:
  """Refuses field values that no network can have."""
  for field, allowed in (
    ("pooling", POOLINGS),
    ("padding", PADDINGS),
    ("head", HEADS),
  ):
    value = getattr(model, field)
    if value not in allowed:
      raise ValueError(
        f"{field}={value!r} is not one of {', '.join(map(repr, allowed))}"
      )
  if not 1 <= model.depth <= 6:
    raise ValueError(f"depth={model.depth} is not between 1 and 6")
  for field in ("width", "kernel_size", "num_classes"):
    if getattr(model, field) < 1:
      raise ValueError(f"{field}={getattr(model, field)} is not positive")
  if model.padding != "valid" and model.kernel_size % 2 == 0:
    raise ValueError(
      f"kernel_size={model.kernel_size} is even: it has no centre, so"
      f" padding={model.padding!r} cannot keep the size; use an odd kernel or"
      " padding='valid'"
    )
