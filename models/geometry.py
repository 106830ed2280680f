"""Output size, stride, sampling offset, receptive field and parameters.

Everything here is arithmetic on a list of layers: no array, no flax. The
measures use it to know where in the image a position of a feature map sits.

References:
  V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep
  learning", 2016, arXiv:1603.07285.
  A. Araujo, W. Norris and J. Sim, "Computing receptive fields of
  convolutional neural networks", Distill, 2019.
"""

from collections.abc import Sequence
from typing import NamedTuple


class LayerGeometry(NamedTuple):
  """Where the positions of a layer's map lie in the image.

  Position `j` of a map (along either axis) is centred on the image
  coordinate `offset + stride * j`, in pixels, pixel centres at integers.

  Attributes:
    stride: image pixels between neighbouring positions; 0 for a layer
      without positions (dense, global average).
    offset: image coordinate of position 0, in pixels. It is a multiple of
      one half: a 2x2 window sits between pixels. NaN where it depends on the
      image, as after polyphase sampling.
    receptive_field: width in image pixels of what one position can see,
      padding included, so it may exceed the canvas.
    spatial: (height, width) of the map, or None for a layer without
      positions.
  """

  stride: int
  offset: float
  receptive_field: int
  spatial: tuple[int, int] | None


class LayerSpec(NamedTuple):
  """One layer of an architecture, as plain numbers.

  Attributes:
    name: the name of its activation.
    kind: what it computes. A key of the tables in this module, "conv" and the
      like, or one of `POINTWISE`.
    features: output channels or units (0: as many as its input).
    kernel_size: width of the window in positions of the layer below.
    stride: positions of the layer below per position of this one.
    padding: positions added on each side.
    extra: positions added behind, beyond `padding`.
    border: what the padding holds: "zero", "circular" or "reflect".
    dilation: positions from one tap of the kernel to the next.
    bias: whether a learned layer has a bias.
    source: of an "add": the layer that is added, "" for the image.
    copies: orientations of a group's kernel, or scales of one.
  """

  name: str
  kind: str
  features: int = 0
  kernel_size: int = 1
  stride: int = 1
  padding: int = 0
  extra: int = 0
  border: str = "zero"
  dilation: int = 1
  bias: bool = True
  source: str = ""
  copies: int = 1

  @property
  def reach(self) -> int:
    """Positions from the first tap of the window to its last."""
    return (self.kernel_size - 1) * self.dilation


# Layers that keep positions and channels.
POINTWISE = frozenset(
  {
    *("relu", "leaky_relu", "elu", "gelu", "softplus", "tanh", "identity"),
    *("batch_norm", "group_norm", "add", "group_pool"),
  }
)

# Layers without positions.
_GLOBAL = frozenset({"dense", "global_avg", "global_max"})

# Channels that score a component for learned polyphase sampling.
POLYPHASE_SCORES = 8


def output_size(
  width: int, kernel_size: int, padding: float = 0, stride: int = 1
) -> int:
  """Width of a map after a sliding window: (W - K + 2P) / S + 1, rounded down.

  Args:
    width: input width W, in positions.
    kernel_size: window width K.
    padding: positions P added on each side; a half where one side has one
      more.
    stride: step S of the window.

  Returns:
    The output width; 0 or negative where the window does not fit.
  """
  return int((width - kernel_size + 2 * padding) // stride) + 1


def layer_geometries(
  specs: Sequence[LayerSpec], image_size: int
) -> dict[str, LayerGeometry]:
  """Geometry of every layer of a stack on a square canvas.

  Args:
    specs: the layers in forward order.
    image_size: width and height of the image, in pixels.

  Returns:
    The geometry by layer name, in forward order.

  Raises:
    ValueError: a layer would shrink its map below one position; the message
      names the layer and the size.
  """
  here = LayerGeometry(1, 0.0, 1, (image_size, image_size))
  result = {}
  for spec in specs:
    here = _after(spec, here, image_size)
    result[spec.name] = here
  return result


def _after(
  spec: LayerSpec, below: LayerGeometry, image_size: int
) -> LayerGeometry:
  if spec.kind in _GLOBAL:
    return LayerGeometry(0, 0.0, image_size, None)
  if below.spatial is None or spec.kind in POINTWISE:
    return below
  size = below.spatial[0]
  if spec.kind in ("polyphase", "learned_polyphase", "spectral"):
    return _after_sampling(spec, below, image_size)
  padding = spec.padding + spec.extra / 2
  out = output_size(size, spec.reach + 1, padding, spec.stride)
  if out < 1:
    raise ValueError(
      f"layer {spec.name} would shrink a {size}x{size} map to"
      f" {max(out, 0)}x{max(out, 0)} px (kernel {spec.reach + 1}, stride"
      f" {spec.stride}, padding {spec.padding}) on a {image_size} px canvas:"
      " use a smaller --depth or a larger --canvas"
    )
  return LayerGeometry(
    stride=below.stride * spec.stride,
    offset=below.offset + below.stride * (spec.reach / 2 - spec.padding),
    receptive_field=below.receptive_field + spec.reach * below.stride,
    spatial=(out, out),
  )


def _after_sampling(
  spec: LayerSpec, below: LayerGeometry, image_size: int
) -> LayerGeometry:
  """Sampling that the map as a whole decides on, or takes part in."""
  size, stride = (below.spatial or (0, 0))[0], spec.stride
  if size % stride:
    raise ValueError(
      f"layer {spec.name} cannot sample every {stride}nd place of a"
      f" {size}x{size} map on a {image_size} px canvas: its sides must be"
      f" multiples of {stride}; use another --canvas, --padding or --pooling"
    )
  spectral = spec.kind == "spectral"
  return LayerGeometry(
    stride=below.stride * stride,
    offset=below.offset if spectral else float("nan"),
    receptive_field=below.receptive_field
    + (size - 1 if spectral else 0) * below.stride,
    spatial=(size // stride, size // stride),
  )


def parameter_counts(
  specs: Sequence[LayerSpec], image_size: int, channels: int = 1
) -> dict[str, int]:
  """Learned numbers of every layer, weights and biases.

  A convolution has K * K * C_in * C_out weights whatever the image's size; a
  dense layer has one weight for each input and output. Pooling has none.

  Args:
    specs: the layers in forward order.
    image_size: width and height of the image, in pixels.
    channels: channels of the image.

  Returns:
    The number of parameters by layer name, in forward order.

  Raises:
    ValueError: as `layer_geometries`.
  """
  counts = {}
  for step in walk(specs, image_size, channels):
    counts[step.spec.name] = _parameters(step)
  return counts


class Step(NamedTuple):
  """A layer and what it stands between.

  Attributes:
    spec: the layer.
    below: geometry of its input.
    inputs: channels of its input, or of the layer that an "add" adds.
    here: its own geometry.
  """

  spec: LayerSpec
  below: LayerGeometry
  inputs: int
  here: LayerGeometry


def walk(
  specs: Sequence[LayerSpec], image_size: int, channels: int = 1
) -> list[Step]:
  """Every layer with the geometry and the channels of its input.

  Raises:
    ValueError: as `layer_geometries`.
  """
  below = LayerGeometry(1, 0.0, 1, (image_size, image_size))
  geometries = layer_geometries(specs, image_size)
  known = {"": channels}
  result = []
  for spec in specs:
    here = geometries[spec.name]
    inputs = known[spec.source] if spec.kind == "add" else channels
    result.append(Step(spec, below, inputs, here))
    channels = known[spec.name] = spec.features or channels
    below = here
  return result


def positions(where: LayerGeometry) -> int:
  """Number of positions of a layer's map, 1 for a layer without."""
  return where.spatial[0] * where.spatial[1] if where.spatial else 1


def _parameters(step: Step) -> int:
  spec, inputs = step.spec, step.inputs
  window = spec.kernel_size**2 * inputs
  match spec.kind:
    case "conv" | "scale_conv" | "lifting_conv":
      return (window + spec.bias) * spec.features
    case "group_conv":
      return (window * spec.copies + spec.bias) * spec.features
    case "local":
      return positions(step.here) * (window + spec.bias) * spec.features
    case "dense":
      return (positions(step.below) * inputs + spec.bias) * spec.features
    case "batch_norm" | "group_norm":
      return 2 * inputs
    case "add" if inputs != spec.features or spec.stride > 1:
      return inputs * spec.features  # a 1x1 convolution of the shortcut
    case "lp_pool" | "mixed_pool":
      return 1
    case "learned_polyphase":
      return (9 * inputs + 1) * POLYPHASE_SCORES + POLYPHASE_SCORES
    case _:
      return 0
