"""The convolutional network: convolution, activation, pooling, repeated."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import layers, pooling
from models.geometry import POINTWISE, LayerSpec
from models.scale import ScaleConv
from models.specified import Specified
from models.untied import LocallyConnected

PADDINGS = ("same", "circular", "reflect", "valid", "full")
HEADS = ("dense", "gap", "gmp")
NORMS = ("none", "batch", "group")
ACTIVATIONS = {
  "relu": nn.relu,
  "leaky_relu": nn.leaky_relu,
  "elu": nn.elu,
  "gelu": nn.gelu,
  "softplus": nn.softplus,
  "tanh": nn.tanh,
  "identity": lambda x: x,
}
MAX_DEPTH = 8

_BORDERS = {"circular": "circular", "reflect": "reflect"}
_HEAD_KINDS = {"gap": "global_avg", "gmp": "global_max"}

Activations = dict[str, Array]


class CNN(Specified, nn.Module):
  """`depth` blocks of convolution, activation and pooling, then a linear head.

  The layer list `specs` is the one description of the network: the forward
  pass, the geometry and the parameter counts all read it. A block is, in this
  order and each by its name with the block's number: `conv`, `norm`, `add`
  (the shortcut), the activation (`relu`), and the pooling (`pool`).

  Attributes:
    num_classes: number of logits.
    depth: number of convolutions, 1 to 8.
    width: channels of every convolution, or of the first.
    kernel_size: width of every kernel; odd unless `padding` is "valid" or
      "full".
    pooling: what downsamples; see `models.pooling`.
    pool_after: "all" blocks, or numbers as in "2/4": the blocks that are
      followed by it.
    padding: "same" (zeros), "circular" and "reflect" keep the resolution,
      "valid" does not pad, "full" pads with zeros wherever a kernel still
      touches the map.
    head: "dense" reads every position, "gap" the average over positions, "gmp"
      the largest value.
    width_schedule: "constant", "double" (at every block), or the channels of
      each block as in "32/32/64".
    activation: a key of `ACTIVATIONS`.
    norm: "none", "batch" or "group" (of 8 channels groups, or fewer).
    residual: whether a block's input is added before its activation, through
      1x1 weights where its shape differs.
    bias: whether convolutions have a bias; with `norm` they never have.
    weight_sharing: whether positions share weights; else layers are locally
      connected.
    scales: factors of a pyramid that every convolution takes the largest
      response over; empty for an ordinary one. See `models.scale`.
    dtype: of the computation; parameters and logits are float32.
  """

  num_classes: int = 10
  depth: int = 3
  width: int = 32
  kernel_size: int = 3
  pooling: str = "max"
  pool_after: str = "all"
  padding: str = "same"
  head: str = "dense"
  width_schedule: str = "constant"
  activation: str = "relu"
  norm: str = "none"
  residual: bool = False
  bias: bool = True
  weight_sharing: bool = True
  scales: tuple[float, ...] = ()
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    _check(self)
    super().__post_init__()

  @property
  def border(self) -> str:
    """What padding holds: "zero", "circular" or "reflect"."""
    return _BORDERS.get(self.padding, "zero")

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    kind = pooling.parse_pooling(self.pooling)
    widths, pooled = _widths(self), _pooled_blocks(self)
    result: list[LayerSpec] = []
    dilation = 1
    for i in range(1, self.depth + 1):
      source = result[-1].name if result else ""
      stride = 2 if kind.kind == "stride" and i in pooled else 1
      result.append(self._convolution(i, widths[i - 1], stride, dilation))
      if self.norm != "none":
        result.append(LayerSpec(f"norm{i}", f"{self.norm}_norm"))
      if self.residual:
        result.append(
          LayerSpec(
            f"add{i}", "add", widths[i - 1], stride=stride, source=source
          )
        )
      result.append(LayerSpec(f"{self.activation}{i}", self.activation))
      if i in pooled:
        result += pooling.pooling_specs(kind, i, self.border)
        dilation *= 2 if kind.kind == "dilate" else 1
    if self.head != "dense":
      result.append(LayerSpec(self.head, _HEAD_KINDS[self.head]))
    result.append(LayerSpec("logits", "dense", self.num_classes))
    return tuple(result)

  def _convolution(
    self, block: int, width: int, stride: int, dilation: int
  ) -> LayerSpec:
    kind = "conv" if self.weight_sharing else "local"
    reach = (self.kernel_size - 1) * dilation
    # A strided layer pads as if it were not: the same on both sides, and each
    # of its positions is one of the unstrided layer's.
    padding = {"valid": 0, "full": reach}.get(self.padding, reach // 2)
    return LayerSpec(
      f"conv{block}",
      "scale_conv" if self.scales else kind,
      width,
      self.kernel_size,
      stride,
      padding,
      border=self.border,
      dilation=dilation,
      bias=self.bias and self.norm == "none",
      copies=len(self.scales) or 1,
    )

  @nn.compact
  def __call__(
    self, images: Float[Array, "n h w c"], *, train: bool = False
  ) -> tuple[Float[Array, "n k"], Activations]:
    """Logits and the activation of every layer.

    Args:
      images: in [0, 1].
      train: whether to use gradients that only reverse mode knows, and the
        batch's own statistics in batch normalisation.

    Returns:
      The logits, and the activations by layer name in forward order.

    Raises:
      ValueError: as `geometry`.
    """
    self.geometry(images.shape[1])  # refuses impossible depths by name
    x = images.astype(self.dtype)
    activations = {}
    rectified = None
    for spec, after in zip(self.specs, (*self.specs[1:], None), strict=True):
      if rectified is not None:
        x, rectified = rectified, None
      elif spec.kind == "add":
        shortcut = activations[spec.source] if spec.source else images
        x = x + self._shortcut(spec, shortcut.astype(self.dtype), train)
      elif train and spec.kind == "conv" and after and after.kind == "relu":
        # Both at once is faster. The maps before are not computed where, as in
        # training, nobody reads them.
        conv = self._conv(spec)
        rectified = conv(x, rectify=True, train=True)
        x = conv(x, train=True)
      else:
        x = self._layer(spec, x, train)
      activations[spec.name] = x
    return x, activations

  def _layer(self, spec: LayerSpec, x: Array, train: bool) -> Array:
    if spec.kind in pooling.POOL_KINDS:
      return pooling.pool(spec, x, train=train)
    match spec.kind:
      case "conv" | "local" | "scale_conv":
        return self._convolve(spec, x, train)
      case "relu":
        return layers.relu(x, train=train)
      case "batch_norm" | "group_norm":
        return layers.normalise(
          spec.kind, x, self.dtype, spec.name, train=train
        )
      case "global_avg":
        return jnp.mean(x, axis=(1, 2))
      case "global_max":
        return jnp.max(x, axis=(1, 2))
      case "dense":
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return layers.Dense(spec.features, name=spec.name)(x, train=train)
      case kind:
        assert kind in POINTWISE
        return ACTIVATIONS[kind](x)

  def _convolve(self, spec: LayerSpec, x: Array, train: bool) -> Array:
    sizes = (spec.features, spec.kernel_size)
    common: dict[str, Any] = {
      "stride": spec.stride,
      "padding": spec.padding,
      "use_bias": spec.bias,
      "dtype": self.dtype,
      "name": spec.name,
    }
    if spec.kind == "local":
      return LocallyConnected(*sizes, border=spec.border, **common)(x)
    if spec.kind == "scale_conv":
      return ScaleConv(*sizes, self.scales, **common)(x, train=train)
    return self._conv(spec)(x, train=train)

  def _conv(self, spec: LayerSpec) -> layers.Conv:
    return layers.Conv(
      spec.features,
      spec.kernel_size,
      spec.stride,
      spec.padding,
      border=spec.border,
      dilation=spec.dilation,
      use_bias=spec.bias,
      dtype=self.dtype,
      name=spec.name,
    )

  def _shortcut(self, spec: LayerSpec, x: Array, train: bool) -> Array:
    if x.shape[-1] == spec.features and spec.stride == 1:
      return x
    projection = layers.Conv(
      spec.features,
      1,
      spec.stride,
      use_bias=False,
      dtype=self.dtype,
      name=spec.name,
    )
    return projection(x, train=train)


def _widths(model: CNN) -> list[int]:
  """Channels of each block."""
  schedule = model.width_schedule
  if schedule == "constant":
    return [model.width] * model.depth
  if schedule == "double":
    return [model.width * 2**i for i in range(model.depth)]
  try:
    widths = [int(n) for n in schedule.split("/")]
  except ValueError:
    widths = []
  if len(widths) != model.depth or min(widths) < 1:
    raise ValueError(
      f"width_schedule={schedule!r} is not constant, double or"
      f" {model.depth} positive numbers joined by /, one a block"
    )
  return widths


def _pooled_blocks(model: CNN) -> set[int]:
  """Numbers of the blocks that are followed by pooling."""
  if model.pool_after == "all":
    return set(range(1, model.depth + 1))
  parts = [n for n in model.pool_after.split("/") if n.isdecimal()]
  blocks = {int(n) for n in parts}
  wrong = len(blocks) != len(model.pool_after.split("/"))
  if wrong or not blocks <= set(range(1, model.depth + 1)):
    raise ValueError(
      f"pool_after={model.pool_after!r} is not all or different numbers from 1"
      f" to the depth, {model.depth}, joined by /"
    )
  return blocks


def _check(model: CNN) -> None:
  """Refuses field values that no network can have."""
  for field, allowed in (
    ("padding", PADDINGS),
    ("head", HEADS),
    ("norm", NORMS),
    ("activation", tuple(ACTIVATIONS)),
  ):
    value = getattr(model, field)
    if value not in allowed:
      raise ValueError(
        f"{field}={value!r} is not one of {', '.join(map(repr, allowed))}"
      )
  kind = pooling.parse_pooling(model.pooling).kind
  if not 1 <= model.depth <= MAX_DEPTH:
    raise ValueError(f"depth={model.depth} is not between 1 and {MAX_DEPTH}")
  for field in ("width", "kernel_size", "num_classes"):
    if getattr(model, field) < 1:
      raise ValueError(f"{field}={getattr(model, field)} is not positive")
  _widths(model), _pooled_blocks(model)
  keeps_size = model.padding not in ("valid", "full")
  if keeps_size and model.kernel_size % 2 == 0:
    raise ValueError(
      f"kernel_size={model.kernel_size} is even: it has no centre, so"
      f" padding={model.padding!r} cannot keep the size; use an odd kernel or"
      " padding='valid'"
    )
  if model.residual and not keeps_size:
    raise ValueError(
      f"residual=True needs a padding that keeps the size, not"
      f" {model.padding!r}: what is added would not fit"
    )
  if model.scales and not model.weight_sharing:
    raise ValueError("scales need weight_sharing=True")
  if model.scales and model.border != "zero":
    raise ValueError(
      f"scales need padding 'same', 'valid' or 'full', not {model.padding!r}"
    )
  if kind == "dilate" and (model.scales or not model.weight_sharing):
    raise ValueError("pooling='dilate' is for ordinary convolutions")
