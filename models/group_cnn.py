"""The group-equivariant network: the control for rotation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import group, layers
from models.geometry import LayerGeometry, LayerSpec
from models.specified import Specified

_POOLINGS = {"max": "max_pool", "avg": "avg_pool", "none": ""}
_PADDINGS = ("same", "circular")
_HEADS = {"gap": "global_avg", "gmp": "global_max"}


class GroupCNN(Specified, nn.Module):
  """`depth` blocks of group convolution, ReLU and pooling, then group pooling.

  The maps of blocks are returned as (n, h, w, orientations * channels), an
  orientation's channels side by side; `orientations` names the layer that takes
  the largest of them. It and its geometry are those of an ordinary map that
  turns with the image. What follows has no positions and is invariant.

  Attributes:
    num_classes: number of logits.
    depth: number of convolutions, 1 to 8.
    width: channels of each orientation.
    kernel_size: width of every kernel, odd.
    pooling: after each ReLU "max" or "avg" (2x2, stride 2), or "none".
    padding: "same" (zeros) or "circular".
    head: what of all positions: "gap" the average, "gmp" the largest.
    group: "p4" for quarter turns, "p4m" for mirror images too.
    norm: "none", "batch" or "group", as in `CNN`; a channel's orientations are
      normalised together, which keeps the symmetry.
    dtype: of the computation; parameters and logits are float32.
  """

  num_classes: int = 10
  depth: int = 3
  width: int = 16
  kernel_size: int = 3
  pooling: str = "max"
  padding: str = "same"
  head: str = "gap"
  group: str = "p4"
  norm: str = "none"
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    _check(self)
    super().__post_init__()

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    copies = group.ORIENTATIONS[self.group]
    result = []
    for i in range(1, self.depth + 1):
      kind = "lifting_conv" if i == 1 else "group_conv"
      result.append(
        LayerSpec(
          f"conv{i}",
          kind,
          self.width,
          self.kernel_size,
          padding=self.kernel_size // 2,
          border="circular" if self.padding == "circular" else "zero",
          bias=self.norm == "none",
          copies=copies,
        )
      )
      if self.norm != "none":
        kind = f"{self.norm}_norm"
        result.append(LayerSpec(f"norm{i}", kind, copies=copies))
      result.append(LayerSpec(f"relu{i}", "relu", copies=copies))
      if self.pooling != "none":
        result.append(
          LayerSpec(
            f"pool{i}",
            _POOLINGS[self.pooling],
            kernel_size=2,
            stride=2,
            copies=copies,
          )
        )
    result.append(LayerSpec("orientations", "group_pool", copies=copies))
    result.append(LayerSpec(self.head, _HEADS[self.head]))
    result.append(LayerSpec("logits", "dense", self.num_classes))
    return tuple(result)

  def geometry(self, image_size: int) -> dict[str, LayerGeometry]:
    """Geometry of every layer on a canvas of `image_size` pixels.

    Raises:
      ValueError: a canvas that cannot be halved evenly at each pooling.
    """
    halvings = self.depth if self.pooling != "none" else 0
    if image_size % 2**halvings:
      raise ValueError(
        f"{halvings} poolings halve a {image_size} px canvas unevenly, and a"
        " row left out breaks the symmetry: use a multiple of"
        f" {2**halvings} for --canvas, or a smaller --depth"
      )
    return super().geometry(image_size)

  @nn.compact
  def __call__(
    self, images: Float[Array, "n h w c"], *, train: bool = False
  ) -> tuple[Float[Array, "n k"], dict[str, Array]]:
    """Logits and activations; see `CNN.__call__`."""
    self.geometry(images.shape[1])
    x = images.astype(self.dtype)
    activations = {}
    for spec in self.specs:
      x = self._layer(spec, x, train)
      shape = x.shape
      if x.ndim == 5:
        shape = (*x.shape[:3], -1)
      activations[spec.name] = x.reshape(shape)
    return x, activations

  def _layer(self, spec: LayerSpec, x: Array, train: bool) -> Array:
    match spec.kind:
      case "lifting_conv" | "group_conv":
        conv = GroupConv(
          spec.features,
          spec.kernel_size,
          self.group,
          self.padding == "circular",
          spec.bias,
          name=spec.name,
        )
        return conv(x, train=train)
      case "batch_norm" | "group_norm":
        return layers.normalise(
          spec.kind, x, self.dtype, spec.name, train=train
        )
      case "relu":
        return layers.relu(x, train=train)
      case "max_pool" | "avg_pool":
        flat = x.reshape(*x.shape[:3], -1)
        if spec.kind == "max_pool":
          flat = layers.max_pool(flat, train=train)
        else:
          flat = layers.avg_pool(flat)
        return flat.reshape(*flat.shape[:3], *x.shape[3:])
      case "group_pool":
        return group.group_pool(x)
      case "global_avg":
        return jnp.mean(x, axis=(1, 2))
      case "global_max":
        return jnp.max(x, axis=(1, 2))
      case _:
        x = x.astype(jnp.float32)
        return layers.Dense(spec.features, name=spec.name)(x, train=train)


class GroupConv(nn.Module):
  """A lifting or group convolution with weights of its own (He)."""

  features: int
  kernel_size: int
  group: str
  circular: bool = False
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Maps of the group, from images or from maps of the group."""
    lifts = x.ndim == 4
    shape = (self.kernel_size, self.kernel_size, *x.shape[3:], self.features)
    init = nn.initializers.variance_scaling(
      2.0,
      "fan_in",
      "truncated_normal",
      in_axis=tuple(range(len(shape) - 1)),
      out_axis=-1,
    )
    kernel = self.param("kernel", init, shape).astype(x.dtype)
    bias = jnp.zeros(self.features)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
    bias = bias.astype(x.dtype)
    options = {"circular": self.circular, "train": train}
    if lifts:
      return group.lifting_convolution(
        x, kernel, bias, group=self.group, **options
      )
    return group.group_convolution(x, kernel, bias, **options)


def _check(model: GroupCNN) -> None:
  for field, allowed in (
    ("pooling", tuple(_POOLINGS)),
    ("padding", _PADDINGS),
    ("head", tuple(_HEADS)),
    ("group", tuple(group.ORIENTATIONS)),
    ("norm", ("none", "batch", "group")),
  ):
    value = getattr(model, field)
    if value not in allowed:
      raise ValueError(
        f"{field}={value!r} is not one of {', '.join(map(repr, allowed))} for a"
        " group convolution"
      )
  if not 1 <= model.depth <= 8:
    raise ValueError(f"depth={model.depth} is not between 1 and 8")
  for field in ("width", "num_classes"):
    if getattr(model, field) < 1:
      raise ValueError(f"{field}={getattr(model, field)} is not positive")
  if model.kernel_size < 1 or model.kernel_size % 2 == 0:
    raise ValueError(f"kernel_size={model.kernel_size} is not odd and positive")
