"""Downsampling other than the largest or the mean value of a window.

Functions of maps (n, h, w, c), differentiable in forward and reverse mode.
Without parameters:

* `blur_pool` smooths before it samples, so that a one-pixel shift changes the
  samples little;
* `spectral_pool` keeps the low frequencies;
* `adaptive_polyphase` lets the map itself say where to sample, so that a
  circular shift changes which samples are taken by nothing but a shift.

With parameters, which modules in `models.pooling` learn:

* `lp_pool` lies between the mean (exponent 1) and the largest value;
* `scored_polyphase` samples where a score is highest.

References:
  R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
  O. Rippel, J. Snoek and R. Adams, "Spectral representations for convolutional
  neural networks", NeurIPS 2015.
  A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural
  networks", CVPR 2021.
  R. Rojas-Gomez, T.-Y. Lim, A. Schwing, M. Do and R. Yeh, "Learnable polyphase
  sampling for shift invariant and equivariant convolutional networks", NeurIPS
  2022.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from models.layers import window_slices

_BINOMIAL = {
  1: (1,),
  2: (1, 1),
  3: (1, 2, 1),
  4: (1, 3, 3, 1),
  5: (1, 4, 6, 4, 1),
}

# How `jnp.pad` calls them.
_PAD_MODES = {"reflect": "reflect", "circular": "wrap", "zero": "constant"}

# Below it a value counts as 0, where 0 has no derivative.
_TINY = 1e-6

Map = Float[Array, "n h w c"]


def blur_pool(
  x: Map, size: int, stride: int = 2, *, border: str = "reflect"
) -> Float[Array, "n p q c"]:
  """Smooths each channel with a binomial filter, then takes every second place.

  The filter is separable, its weights sum to 1: a constant map stays as it is
  (but for its edges under a zero border). Output position j is centred on
  input position `stride * j` for an odd size, half a position further for an
  even one.

  Args:
    x: input maps.
    size: taps of the filter along each axis, 1 (none: plain striding) to 5.
    stride: positions between samples; 1 only smooths.
    border: what lies outside the map: "reflect" (mirrored, edge not repeated,
      as published), "circular" or "zero".

  Returns:
    Maps of ceil(h / stride) x ceil(w / stride) positions.

  Raises:
    ValueError: a size, stride or border that does not exist.

  References:
    R. Zhang, ICML 2019; there max pooling is a maximum of stride 1 followed by
    this.
  """
  if size not in _BINOMIAL:
    raise ValueError(
      f"blur filter of size {size} does not exist: use 1 to {max(_BINOMIAL)}"
    )
  if border not in _PAD_MODES:
    known = ", ".join(map(repr, _PAD_MODES))
    raise ValueError(f"border={border!r} is not one of {known}")
  _check_stride(stride)
  # The extra place of an even filter is behind, as in the published layer.
  pads = ((size - 1) // 2, size // 2)
  weights = np.array(_BINOMIAL[size], np.float32)
  weights /= weights.sum()
  for axis in (1, 2):
    width = x.shape[axis]
    padding = [pads if a == axis else (0, 0) for a in range(4)]
    x = jnp.pad(x, padding, mode=_PAD_MODES[border])
    # Sums of slices: faster than a convolution that keeps channels apart.
    slices = [
      weight.astype(x.dtype)
      * lax.slice_in_dim(x, i, i + width, stride=stride, axis=axis)
      for i, weight in enumerate(weights)
    ]
    x = functools.reduce(jnp.add, slices)
  return x


def adaptive_polyphase(x: Map, stride: int = 2) -> Float[Array, "n p q c"]:
  """Takes, image by image, the polyphase component of largest norm (APS).

  Striding can start at stride**2 places. Starting where the samples are
  largest makes the choice move along with the image: a circularly shifted
  input gives a circularly shifted output. With circular convolutions before
  and a global average after it, the network is invariant to such shifts.

  Exact unless two components' norms agree to rounding: which of them is taken
  may then change with the shift. Where a position lies in the image depends on
  the image, so the layer has no `LayerGeometry`.

  Args:
    x: input maps, their sides multiples of the stride.
    stride: positions between samples.

  Returns:
    Maps of h / stride x w / stride positions.

  Raises:
    ValueError: a side that is not a multiple of the stride, or a stride below
      1.

  References:
    A. Chaman and I. Dokmanic, CVPR 2021.
  """
  index = polyphase_index(x, stride)[:, None, None, None]
  chosen, *others = _polyphase_components(x, stride)
  # Selecting by `where` costs a pass, a gather and its gradient cost many.
  for k, component in enumerate(others, start=1):
    chosen = jnp.where(index == k, component, chosen)
  return chosen


def scored_polyphase(
  x: Map,
  score: Callable[[Array], Array],
  stride: int = 2,
  *,
  train: bool = False,
) -> Float[Array, "n p q c"]:
  """Takes, image by image, the polyphase component of the highest score.

  If the score does not change with circular shifts of a component, what was
  said of `adaptive_polyphase` holds.

  Args:
    x: input maps, their sides multiples of the stride.
    score: from (n, p, q, c) to (n,).
    stride: positions between samples.
    train: whether the gradient is that of the components' softmax-weighted
      sum, so that the score can learn, instead of the component's that is
      taken. The value is the same.

  Returns:
    Maps of h / stride x w / stride positions.

  Raises:
    ValueError: as `adaptive_polyphase`.

  References:
    R. Rojas-Gomez et al., NeurIPS 2022, whose training draws the component at
    random (Gumbel softmax) instead.
  """
  components = _polyphase_components(x, stride)
  scores = jnp.stack([score(component) for component in components], axis=1)
  index = jnp.argmax(scores, axis=1)[:, None, None, None]
  chosen = components[0]
  for k, component in enumerate(components[1:], start=1):
    chosen = jnp.where(index == k, component, chosen)
  if not train:
    return chosen
  shares = jax.nn.softmax(scores, axis=1).astype(x.dtype)
  mixed = functools.reduce(
    jnp.add,
    [
      shares[:, k][:, None, None, None] * component
      for k, component in enumerate(components)
    ],
  )
  return lax.stop_gradient(chosen) + (mixed - lax.stop_gradient(mixed))


def lp_pool(
  x: Map, exponent: Any, *, window: int = 2, stride: int = 2
) -> Float[Array, "n p q c"]:
  """(mean over each window of x^p)^(1/p), channel by channel.

  The mean for p = 1, the largest value as p goes to infinity. Made for
  activations that are not negative: values below 0 count as 0.

  Args:
    x: input maps.
    exponent: p, at least 1.
    window: width of the window.
    stride: step of the window.

  Returns:
    Maps of `output_size(h, window, 0, stride)` positions.

  References:
    P. Sermanet, S. Chintala and Y. LeCun, "Convolutional neural networks
    applied to house numbers digit classification", ICPR 2012; C. Gulcehre,
    K. Cho, R. Pascanu and Y. Bengio, "Learned-norm pooling for deep feedforward
    and recurrent neural networks", ECML 2014 (the exponent learned).
  """
  slices = window_slices(x, window, stride)
  # Relative to the largest value powers neither overflow nor vanish. It takes
  # no gradient: the result does not depend on it. A smallest value keeps
  # 0^p differentiable in p.
  largest = functools.reduce(jnp.maximum, slices)
  scale = lax.stop_gradient(jnp.maximum(largest, _TINY))
  terms = [jnp.maximum(part / scale, _TINY) ** exponent for part in slices]
  mean = functools.reduce(jnp.add, terms) / len(terms)
  return jnp.where(largest > 0, scale * mean ** (1 / exponent), 0)


def spectral_pool(x: Map, stride: int = 2) -> Float[Array, "n p q c"]:
  """Keeps the lowest h / stride by w / stride frequencies of each channel.

  The map is taken as periodic. Its samples at every `stride`-th position after
  an ideal low-pass filter; of the highest frequency kept, which for an even
  number of samples has no sign, the real part.

  Args:
    x: input maps, their sides multiples of the stride.
    stride: positions between samples.

  Returns:
    Maps of h / stride x w / stride positions, position j on position
    `stride * j`.

  Raises:
    ValueError: a side that is not a multiple of the stride, or a stride below
      1.

  References:
    O. Rippel et al., NeurIPS 2015.
  """
  _check_sides(x, stride)
  rows, columns = (
    jnp.asarray(_low_pass(n, n // stride), x.dtype) for n in x.shape[1:3]
  )
  return jnp.einsum("pi,nijc,qj->npqc", rows, x, columns)


@functools.cache
def _low_pass(size: int, kept: int) -> np.ndarray:
  """(kept, size) float32: samples of the band-limited interpolation."""
  frequencies = np.fft.fftfreq(kept, 1 / kept)
  offsets = np.arange(kept)[:, None] * (size / kept) - np.arange(size)[None]
  angles = 2 * np.pi * frequencies * offsets[..., None] / size
  return (np.cos(angles).sum(-1) / size).astype(np.float32)


def polyphase_index(x: Map, stride: int = 2) -> Int[Array, " n"]:
  """Which polyphase component `adaptive_polyphase` takes of each image.

  Args:
    x: input maps, their sides multiples of the stride.
    stride: positions between samples.

  Returns:
    For each image `stride * i + j` if the component that starts at row i and
    column j has the largest l2 norm over positions and channels; of equal
    norms the first, so 0 for a constant map.

  Raises:
    ValueError: a side that is not a multiple of the stride, or a stride below
      1.
  """
  squares = [
    (component.astype(jnp.float32) ** 2).sum(axis=(1, 2, 3))
    for component in _polyphase_components(x, stride)
  ]
  return jnp.argmax(jnp.stack(squares, axis=1), axis=1)


def _polyphase_components(x: Array, stride: int) -> list[Array]:
  _check_sides(x, stride)
  return [
    x[:, i::stride, j::stride] for i in range(stride) for j in range(stride)
  ]


def _check_sides(x: Array, stride: int) -> None:
  _check_stride(stride)
  height, width = x.shape[1:3]
  if height % stride or width % stride:
    raise ValueError(
      f"a {height}x{width} map does not split into components of stride"
      f" {stride}: make both sides multiples of {stride}, by padding or a"
      " larger canvas"
    )


def _check_stride(stride: int) -> None:
  if stride < 1:
    raise ValueError(f"stride={stride} is not positive: use 1 or more")
