"""The kinds of downsampling by name, as `--pooling` gives them.

  none             keeps the resolution
  stride           halves it by the convolution's own stride
  dilate           keeps it, and spreads the kernels of later layers so that
                   they see what they would after `stride`
  max, avg         largest or mean value of each window; max:3/2 is a window of
                   3 every 2 positions, 2/2 if nothing is said
  lp, mixed        between the two, learned: an exponent, a share; lp:3/2
  blur             a binomial filter of 3 taps, then every second position;
                   blur:5 for 2 to 5 taps
  aps, lps         every second position, starting where the map's norm is
                   largest, or where a learned score is highest
  spectral         the lower half of the frequencies
  max_blur, avg_blur, max_aps, avg_aps, max_lps, avg_lps
                   after the largest or mean value of windows of 2, every 1

Circular padding makes every window wrap around; else windows stay inside the
map, and what does not fill one is left out. `aps`, `lps` and `spectral` refuse
sides that are odd, `blur` rounds them up, the others down.

References:
  C.-Y. Lee, P. Gallagher and Z. Tu, "Generalizing pooling functions in
  convolutional neural networks: mixed, gated, and tree", AISTATS 2016.
  See also `models.downsampling`.
"""

import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models import downsampling, layers
from models.geometry import POLYPHASE_SCORES, LayerSpec

_WINDOWS = {
  "max": "max_pool",
  "avg": "avg_pool",
  "lp": "lp_pool",
  "mixed": "mixed_pool",
}
_SAMPLERS = {
  "blur": "blur_pool",
  "aps": "polyphase",
  "lps": "learned_polyphase",
}
_ALONE = ("none", "stride", "dilate", "spectral")
_BEFORE = ("max", "avg")

POOL_KINDS = frozenset({*_WINDOWS.values(), *_SAMPLERS.values(), "spectral"})

# Exponent and share that learned pooling starts from.
_FIRST_EXPONENT, _FIRST_SHARE = 3.0, 0.5

_KNOWN = (
  "max, avg, lp or mixed (alone or as max:3/2), none, stride, dilate, spectral,"
  " blur (alone or as blur:2 to blur:5), aps, lps, and max_ or avg_ before"
  " these three"
)


class Pooling(NamedTuple):
  """What a `--pooling` says.

  Attributes:
    kind: of the last layer that it adds, as in `LayerSpec`; "none", "stride"
      or "dilate" if it adds none.
    window: width of the window, or taps of the filter.
    stride: positions between samples.
    before: "max", "avg" or "": what of overlapping windows of 2 is taken
      first.
  """

  kind: str
  window: int = 1
  stride: int = 2
  before: str = ""


def parse_pooling(text: str) -> Pooling:
  """Reads a kind of downsampling; see the module.

  Raises:
    ValueError: text of another form, or a window or filter that does not
      exist.
  """
  name, colon, numbers = text.partition(":")
  before, _, sampler = name.rpartition("_")
  if name in _ALONE and not colon:
    return Pooling(name)
  if name in _WINDOWS:
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", numbers or "2/2")
    if match and (colon == "" or numbers):
      return Pooling(_WINDOWS[name], int(match[1]), int(match[2]))
  elif sampler in _SAMPLERS and (before in _BEFORE or name == sampler):
    kind = _SAMPLERS[sampler]
    if sampler == "blur" and (numbers or "3") in ("2", "3", "4", "5"):
      return Pooling(kind, int(numbers or 3), 2, before)
    if sampler != "blur" and not colon:
      return Pooling(kind, 1, 2, before)
  raise ValueError(f"pooling={text!r} is not one of {_KNOWN}")


def pooling_specs(pooling: Pooling, block: int, border: str) -> list[LayerSpec]:
  """The layers that downsample after a block; the last is `pool{block}`.

  Args:
    pooling: what kind.
    block: number of the block.
    border: of the network's padding: "zero", "circular" or "reflect".
  """
  if pooling.kind in _ALONE and pooling.kind != "spectral":
    return []
  wraps = border == "circular"
  result = []
  if pooling.before:
    # Polyphase sampling needs even sides, which windows of 2 take away; before
    # a blur they are left to shrink the map by one, as published.
    extra = int(wraps or pooling.kind != "blur_pool")
    result.append(
      LayerSpec(
        f"{pooling.before}{block}",
        _WINDOWS[pooling.before],
        kernel_size=2,
        extra=extra,
        border=border,
      )
    )
  padding = extra = 0
  if pooling.kind == "blur_pool":
    padding = (pooling.window - 1) // 2
    extra = pooling.window // 2 - padding
    # A filter with zeros around the map would darken its edges.
    border = "circular" if wraps else "reflect"
  elif wraps:
    extra = max(pooling.window - pooling.stride, 0)
  result.append(
    LayerSpec(
      f"pool{block}",
      pooling.kind,
      kernel_size=pooling.window,
      stride=pooling.stride,
      padding=padding,
      extra=extra,
      border=border,
    )
  )
  return result


def pool(
  spec: LayerSpec, x: Float[Array, "n h w c"], *, train: bool
) -> Float[Array, "n p q c"]:
  """Runs a pooling layer; call it inside a module, as some kinds learn.

  Args:
    spec: the layer, of a kind in `POOL_KINDS`.
    x: input maps.
    train: whether to use gradients that only reverse mode knows.

  Returns:
    The maps.
  """
  if spec.kind == "blur_pool":
    return downsampling.blur_pool(
      x, spec.kernel_size, spec.stride, border=spec.border
    )
  if spec.extra:
    x = layers.pad_map(x, 0, spec.extra, border=spec.border)
  window, stride = spec.kernel_size, spec.stride
  match spec.kind:
    case "max_pool":
      return layers.max_pool(x, window=window, stride=stride, train=train)
    case "avg_pool":
      return layers.avg_pool(x, window=window, stride=stride)
    case "lp_pool":
      return LpPool(window, stride, name=spec.name)(x)
    case "mixed_pool":
      return MixedPool(window, stride, name=spec.name)(x, train=train)
    case "polyphase":
      return downsampling.adaptive_polyphase(x, stride)
    case "learned_polyphase":
      return LearnedPolyphase(stride, name=spec.name)(x, train=train)
    case _:
      return downsampling.spectral_pool(x, stride)


class LpPool(nn.Module):
  """`lp_pool` with a learned exponent, the same for all channels.

  The parameter is log(p - 1), so that p stays above 1.
  """

  window: int = 2
  stride: int = 2

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps of `output_size(h, window, 0, stride)` positions."""
    first = nn.initializers.constant(jnp.log(_FIRST_EXPONENT - 1))
    raw = self.param("log_exponent_above_1", first, ())
    exponent = (1 + jnp.exp(raw)).astype(x.dtype)
    return downsampling.lp_pool(
      x, exponent, window=self.window, stride=self.stride
    )


class MixedPool(nn.Module):
  """A learned mix of maximum and average, the same for all channels.

  The parameter is the logit of the maximum's share.
  """

  window: int = 2
  stride: int = 2

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Maps of `output_size(h, window, 0, stride)` positions."""
    first = nn.initializers.constant(
      jnp.log(_FIRST_SHARE) - jnp.log1p(-_FIRST_SHARE)
    )
    share = jax.nn.sigmoid(self.param("logit_of_max", first, ()))
    share = share.astype(x.dtype)
    largest = layers.max_pool(
      x, window=self.window, stride=self.stride, train=train
    )
    mean = layers.avg_pool(x, window=self.window, stride=self.stride)
    return share * largest + (1 - share) * mean


class LearnedPolyphase(nn.Module):
  """Polyphase sampling by a learned score (LPS).

  The score of a component is a convolution, a ReLU, the mean over positions and
  a weighted sum: the same number for every circular shift of the component.
  """

  stride: int = 2

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Maps of h / stride x w / stride positions."""
    shape = (3, 3, x.shape[-1], POLYPHASE_SCORES)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (POLYPHASE_SCORES,))
    weights = self.param(
      "weights", nn.initializers.normal(1.0), (POLYPHASE_SCORES,)
    )

    def score(component: Array) -> Array:
      maps = layers.convolution(
        component.astype(jnp.float32), kernel, bias, padding=1, circular=True
      )
      return nn.relu(maps).mean(axis=(1, 2)) @ weights

    return downsampling.scored_polyphase(x, score, self.stride, train=train)
