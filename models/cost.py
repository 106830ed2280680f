"""Floating-point operations of every layer, counted as XLA counts them.

A multiplication and an addition are two operations. Products with padding are
not counted: nobody needs to compute them. Exponentials and the like are not
operations but "transcendentals", and moving data costs none.
"""

from collections.abc import Sequence

from models.geometry import (
  POLYPHASE_SCORES,
  LayerSpec,
  Step,
  positions,
  walk,
)


def flops(
  specs: Sequence[LayerSpec], image_size: int, channels: int = 1
) -> dict[str, int]:
  """Operations of every layer for one image.

  Args:
    specs: the layers in forward order.
    image_size: width and height of the image, in pixels.
    channels: channels of the image.

  Returns:
    The number of operations by layer name, in forward order.

  Raises:
    ValueError: as `models.geometry.layer_geometries`.
  """
  steps = walk(specs, image_size, channels)
  return {step.spec.name: _flops(step) for step in steps}


def units(step: Step) -> int:
  """Numbers in a layer's activation of one image."""
  per_position = step.spec.features or step.inputs
  copies = step.spec.copies if step.spec.kind in _OF_GROUPS else 1
  return positions(step.here) * per_position * copies


# Layers whose copies are orientations side by side, or keep them.
_OF_GROUPS = frozenset(
  {
    *("lifting_conv", "group_conv", "batch_norm", "group_norm", "relu"),
    *("max_pool", "avg_pool"),
  }
)


def _flops(step: Step) -> int:
  spec, inputs, count = step.spec, step.inputs, units(step)
  below = positions(step.below)
  window = spec.kernel_size**2
  match spec.kind:
    case "conv" | "local":
      products = _taps(step) ** 2 * inputs * spec.features
      return 2 * products + count
    case "lifting_conv":
      return 2 * _taps(step) ** 2 * inputs * spec.features * spec.copies + count
    case "group_conv":
      pairs = inputs * spec.features * spec.copies**2
      return 2 * _taps(step) ** 2 * pairs + count
    case "scale_conv":
      return _pyramid(step)
    case "dense":
      return 2 * below * inputs * spec.features + count
    case "relu" | "leaky_relu" | "elu" | "softplus" | "gelu":
      return count
    case "add":
      projected = inputs != spec.features or spec.stride > 1
      return count * (1 + 2 * inputs * projected)
    case "batch_norm" | "group_norm":
      return 4 * count  # less a mean, times a scale, twice
    case "max_pool":
      return (window - 1) * count
    case "avg_pool":
      return window * count
    case "lp_pool":  # powers are transcendental, what is around them is not
      return (4 * window + 3) * count
    case "mixed_pool":
      return (2 * window + 3) * count
    case "blur_pool":
      # Along rows at the full width, then along columns.
      width = (step.below.spatial or (1, 1))[0]
      rows = positions(step.here) // (step.here.spatial or (1, 1))[1] * width
      return (2 * spec.kernel_size - 1) * inputs * (rows + positions(step.here))
    case "polyphase":
      return 2 * below * inputs
    case "learned_polyphase":
      return _polyphase_score(step)
    case "spectral":
      size, half = ((w.spatial or (1, 1))[0] for w in (step.below, step.here))
      return 2 * inputs * half * size * (size + half)
    case "global_avg" | "global_max":
      return below * inputs
    case "group_pool":
      return (spec.copies - 1) * count
    case _:
      return 0


def _taps(step: Step) -> int:
  """Pairs of an output position and a tap on a real input, along one axis."""
  spec = step.spec
  size, out = ((w.spatial or (1, 1))[0] for w in (step.below, step.here))
  # Padding holds copies of real inputs; or every tap has a weight of its own,
  # also where it only ever meets zeros.
  if spec.border != "zero" or spec.kind == "local":
    return out * spec.kernel_size
  return sum(
    0 <= i * spec.stride + j * spec.dilation - spec.padding < size
    for i in range(out)
    for j in range(spec.kernel_size)
  )


def _pyramid(step: Step) -> int:
  """Convolutions of every scale, and two resamplings of all but scale 1."""
  spec, outputs = step.spec, step.spec.features
  size, out = ((w.spatial or (1, 1))[0] for w in (step.below, step.here))
  convolution = 2 * _taps(step) ** 2 * step.inputs * outputs
  resampling = 4 * (size**3 * step.inputs + out**3 * outputs)
  count = units(step)
  return (
    spec.copies * (convolution + count) + (spec.copies - 1) * resampling + count
  )


def _polyphase_score(step: Step) -> int:
  """A convolution, ReLU and mean of each component."""
  products = 9 * step.inputs + 2
  each = 2 * products * POLYPHASE_SCORES * positions(step.here)
  return step.spec.stride**2 * each
