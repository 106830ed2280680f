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
      one half: a 2x2 window sits between pixels.
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
    kind: "conv", "relu", "max_pool", "avg_pool", "global_avg" or "dense".
    features: output channels or units (0: as many as its input).
    kernel_size: width of the window in positions of the layer below.
    stride: positions of the layer below per position of this one.
    padding: positions added on each side.
  """

  name: str
  kind: str
  features: int = 0
  kernel_size: int = 1
  stride: int = 1
  padding: int = 0


def output_size(
  width: int, kernel_size: int, padding: int = 0, stride: int = 1
) -> int:
  """Width of a map after a sliding window: (W - K + 2P) / S + 1, rounded down.

  Args:
    width: input width W, in positions.
    kernel_size: window width K.
    padding: positions P added on each side.
    stride: step S of the window.

  Returns:
    The output width; 0 or negative where the window does not fit.
  """
  return (width - kernel_size + 2 * padding) // stride + 1


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
  if spec.kind in ("dense", "global_avg"):
    return LayerGeometry(0, 0.0, image_size, None)
  if below.spatial is None or spec.kind == "relu":
    return below
  size = below.spatial[0]
  out = output_size(size, spec.kernel_size, spec.padding, spec.stride)
  if out < 1:
    raise ValueError(
      f"layer {spec.name} would shrink a {size}x{size} map to"
      f" {max(out, 0)}x{max(out, 0)} px (kernel {spec.kernel_size}, stride"
      f" {spec.stride}, padding {spec.padding}) on a {image_size} px canvas:"
      " use a smaller --depth or a larger --canvas"
    )
  reach = spec.kernel_size - 1
  return LayerGeometry(
    stride=below.stride * spec.stride,
    offset=below.offset + below.stride * (reach / 2 - spec.padding),
    receptive_field=below.receptive_field + reach * below.stride,
    spatial=(out, out),
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
  geometries = layer_geometries(specs, image_size)
  spatial: tuple[int, int] | None = (image_size, image_size)
  counts = {}
  for spec in specs:
    positions = spatial[0] * spatial[1] if spatial else 1
    counts[spec.name] = 0
    if spec.kind == "conv":
      inputs = spec.kernel_size**2 * channels
      counts[spec.name] = (inputs + 1) * spec.features
    elif spec.kind == "dense":
      counts[spec.name] = (positions * channels + 1) * spec.features
    channels = spec.features or channels
    spatial = geometries[spec.name].spatial
  return counts
