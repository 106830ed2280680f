"""Every architecture by name, and families in which only one thing changes.

Variants are `functools.partial`s of a module.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from models.cnn import CNN
from models.geometry import LayerGeometry, LayerSpec
from models.group_cnn import GroupCNN
from models.mlp import MLP


class Model(Protocol):
  """What every architecture offers; flax's `init` and `apply` among it."""

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    ...

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the activations in forward order."""
    ...

  def geometry(self, image_size: int) -> dict[str, LayerGeometry]:
    """Geometry of every layer on a canvas of `image_size` pixels."""
    ...

  def parameter_counts(
    self, image_size: int, channels: int = 1
  ) -> dict[str, int]:
    """Learned numbers of every layer on a canvas of `image_size` pixels."""
    ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Initial variables from a random key and an example image."""
    ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """(logits, {layer: activation}) from variables and images."""
    ...


Maker = Callable[..., Model]

# Half an octave each way, in steps of a quarter.
_SCALES = tuple(2.0**i for i in (-0.5, -0.25, 0.0, 0.25, 0.5))

MODELS: Mapping[str, Maker] = {
  "cnn": CNN,
  "mlp": MLP,
  # The lecture's example: LeNet-5's first convolution, 5x5 and unpadded.
  "lecture": functools.partial(
    CNN, depth=1, width=8, kernel_size=5, pooling="none", padding="valid"
  ),
  "local": functools.partial(CNN, weight_sharing=False),
  "pyramid": functools.partial(CNN, scales=_SCALES),
  "p4cnn": functools.partial(GroupCNN, group="p4"),
  "p4mcnn": functools.partial(GroupCNN, group="p4m"),
}


def matched_width(
  maker: Maker, parameters: int, *, canvas: int = 32, channels: int = 1
) -> int:
  """The width that brings a network closest to a number of parameters.

  Args:
    maker: makes the network, of any `width`.
    parameters: wanted in all.
    canvas: width and height of the images.
    channels: of the images.

  Returns:
    Channels of each convolution.

  Raises:
    ValueError: no width comes within 5 %.
  """

  def count(width: int) -> int:
    model = maker(width=width)
    return sum(model.parameter_counts(canvas, channels).values())

  width = 1
  while count(width) < parameters:
    width += 1
  best = min(
    (max(width - 1, 1), width), key=lambda w: abs(count(w) - parameters)
  )
  if abs(count(best) - parameters) > 0.05 * parameters:
    raise ValueError(
      f"no width gives {parameters} parameters to 5 %: {best} gives"
      f" {count(best)}"
    )
  return best


def _matched(maker: Maker, to: Maker) -> Maker:
  """The same network with as many parameters as another, by its width."""
  parameters = sum(to().parameter_counts(32).values())
  return functools.partial(maker, width=matched_width(maker, parameters))


_RESOLUTION = functools.partial(CNN, depth=3, width=16, head="gap")
_STRIDED = functools.partial(_RESOLUTION, pooling="stride")
_FIELD = functools.partial(CNN, depth=2, width=24, head="gap")
_POOLED = functools.partial(_FIELD, pooling="max:3/2")
_UNPOOLED = functools.partial(_FIELD, pooling="none", kernel_size=7)
_PLAIN = functools.partial(CNN, depth=3, width=22, head="gap", norm="batch")
_DEPTHS = {
  depth: functools.partial(
    CNN,
    depth=depth,
    width=24,
    pool_after=f"{depth // 2}/{depth}",
    head="gap",
  )
  for depth in (2, 4, 6, 8)
}

# Everything else equal: head (global average), padding, canvas, training.
FAMILIES: Mapping[str, Mapping[str, Maker]] = {
  # Equal resolution of every block, depth and width: only the kind of
  # downsampling differs, and the parameters of those kinds that learn.
  "downsampling": {
    kind: functools.partial(_RESOLUTION, pooling=kind)
    for kind in (
      *("max", "avg", "stride", "lp", "mixed", "blur", "max_blur", "avg_blur"),
      *("aps", "max_aps", "lps", "spectral"),
    )
  },
  # Equal parameters, depth and receptive field: only the resolution differs.
  "resolution": {
    "strided": _STRIDED,
    "dilated": functools.partial(_RESOLUTION, pooling="dilate"),
  },
  # Equal receptive field (13 px) and depth, pooled or by wider kernels; these
  # cost parameters, so also at a width that has the pooled network's.
  "receptive_field": {
    "pooled": _POOLED,
    "unpooled": _UNPOOLED,
    "unpooled, equal parameters": _matched(_UNPOOLED, _POOLED),
  },
  # Equal final resolution (8 x 8) and width: only the depth differs, and with
  # it the parameters ...
  "depth": {f"depth {depth}": make for depth, make in _DEPTHS.items()},
  # ... or equal parameters, by the width.
  "depth_at_equal_parameters": {
    f"depth {depth}": _matched(make, _DEPTHS[4])
    for depth, make in _DEPTHS.items()
  },
  # Equal receptive fields, depth and width: with and without shared weights.
  "weight_sharing": {
    "shared": functools.partial(CNN, depth=2, width=8),
    "local": functools.partial(CNN, depth=2, width=8, weight_sharing=False),
  },
  # Equal depth and pooling, parameters to 5 %: what is shared differs. With
  # batch normalisation, as published; without it the more weights share a
  # gradient the smaller the learning rate that trains them.
  "group": {
    "plain": _PLAIN,
    "p4": _matched(
      functools.partial(GroupCNN, depth=3, norm="batch"),
      _PLAIN,
    ),
    "p4m": _matched(
      functools.partial(GroupCNN, depth=3, norm="batch", group="p4m"),
      _PLAIN,
    ),
  },
  # Equal in all but what lies outside the map.
  "padding": {
    padding: functools.partial(
      CNN, depth=3, width=16, head="gap", padding=padding
    )
    for padding in ("same", "circular", "reflect", "valid", "full")
  },
}
