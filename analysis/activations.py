"""What a network makes of images and of their transformed copies."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from analysis import gradients, sampling
from analysis.actions import ImageTaps
from models import platform

# Where forward passes keep it: no layer is called so.
OUTPUT_KEY = "the output"


class Activations(NamedTuple):
  """What a forward pass leaves: dictionaries by layer, the output among them.

  Attributes:
    reference: (b, u) of the untransformed images.
    transformed: (t, b, u) of the transformed ones.
    moved: (t, b, H, W, c) transformed images.
  """

  reference: dict[str, Any]
  transformed: dict[str, Any]
  moved: Any


def flat(fn: Callable, images: Array) -> dict[str, Array]:
  """Every layer, and the output, as float32 (n, u)."""
  result = _float32(fn, images)
  return {k: a.reshape(a.shape[0], -1) for k, a in result.items()}


def _float32(fn: Callable, images: Array) -> dict[str, Array]:
  output, layers = fn(images)
  # Activations may be of any floating type, such as bfloat16.
  result = {name: a.astype(jnp.float32) for name, a in layers.items()}
  result[OUTPUT_KEY] = output.astype(jnp.float32)
  return result


def _run_forward(
  fn: Callable, images: Array, taps: ImageTaps, *, border: str, chunk: int
) -> Activations:
  moved = _warp_all(images, taps, border)
  elements, count = moved.shape[:2]

  def some(images: Array, moved: Array) -> tuple[dict, dict]:
    after = flat(fn, moved.reshape(-1, *images.shape[1:]))
    split = {k: a.reshape(elements, -1, a.shape[-1]) for k, a in after.items()}
    return flat(fn, images), split

  if chunk >= count:
    return Activations(*some(images, moved), moved)
  # The images of a chunk at a time; what is missing in the last is repeated.
  index = np.arange(-(-count // chunk) * chunk).reshape(-1, chunk) % count
  before, after = jax.lax.map(
    lambda at: some(images[at], moved[:, at]), jnp.asarray(index)
  )
  before = {k: a.reshape(-1, a.shape[-1])[:count] for k, a in before.items()}
  after = {
    k: jnp.moveaxis(a, 0, 1).reshape(elements, -1, a.shape[-1])[:, :count]
    for k, a in after.items()
  }
  return Activations(before, after, moved)


def _warp_all(images: Array, taps: ImageTaps, border: str) -> Array:
  """(t, b, h, w, c) transformed images."""
  samples = sampling.resample(images, taps.linear)
  if taps.cubic is not None:
    coefficients = sampling.spline_coefficients(images, border)
    smooth = sampling.resample(coefficients, taps.cubic)
    samples = jnp.where(taps.on_grid[None, :, None, None], samples, smooth)
  return jnp.moveaxis(samples, 0, 1).reshape(-1, *images.shape)


forward = platform.jit(_run_forward, static_argnames=("border", "chunk"))


def _run_warp(images: Array, taps: ImageTaps, *, border: str) -> Array:
  """(1 + t, b, h, w, c) the images, and transformed."""
  return jnp.concatenate([images[None], _warp_all(images, taps, border)])


_warp = platform.jit(_run_warp, static_argnames="border")


def _run_kept(
  fn: Callable, images: Array, *, without: tuple[str, ...]
) -> dict[str, Array]:
  values = _float32(fn, images)
  return {k: a for k, a in values.items() if k not in without}


_kept = platform.jit(_run_kept, static_argnames="without")

# Images a call of the network: a cache holds what layers hand to each other.
_A_CALL = 64


def forward_in_parts(
  fn: Callable,
  images: Any,
  taps: ImageTaps,
  *,
  border: str,
  rectified: Mapping[str, str],
) -> Activations:
  """`forward` some transformations at a time, into the host's memory.

  Args:
    fn: the network.
    images: (b, H, W, c).
    taps: how they are transformed.
    border: what lies outside.
    rectified: layers that are left out of the transformed ones, each with that
      of which it is the ReLU.

  Returns:
    Activations in NumPy arrays that look at the memory of the device; those of
    transformed images are a list of arrays (k, b, u), of k elements each.
  """
  every = np.asarray(_warp(images, taps, border=border))
  elements, count = every.shape[:2]
  calls = -(-elements // max(_A_CALL // count, 1))
  cuts = [elements * i // calls for i in range(calls + 1)]
  without = tuple(rectified)
  # All calls are under way before the first result is waited for.
  under_way = [
    _kept(fn, every[i:j].reshape(-1, *every.shape[2:]), without=without)
    for i, j in itertools.pairwise(cuts)
  ]
  blocks = {
    name: [_by_element(values[name], count) for values in under_way]
    for name in under_way[0]
  }
  reference = {name: arrays[0][0] for name, arrays in blocks.items()}
  for name, source in rectified.items():
    reference[name] = np.maximum(reference[source], np.float32(0))
    reference[name].flags.writeable = False  # as the others are
  transformed = {
    name: [a for a in (arrays[0][1:], *arrays[1:]) if len(a)]
    for name, arrays in blocks.items()
  }
  return Activations(reference, transformed, every[1:])


def joined(values: Any) -> Array:
  """(t, b, u) transformed activations, whether or not they came in parts."""
  return jnp.asarray(
    np.concatenate(values) if isinstance(values, list) else values
  )


def _by_element(values: Array, count: int) -> np.ndarray:
  """(k, b, u) from the activations (k b, ...) of b images."""
  return np.asarray(values).reshape(-1, count, math.prod(values.shape[1:]))


def _run_reference(fn: Callable, images: Array) -> dict[str, Array]:
  return flat(fn, images)


reference = platform.jit(_run_reference)


def _run_tangents(
  fn: Callable, images: Array, *, family: Any, kinds: tuple[str, ...]
) -> dict[str, dict[str, Array]]:
  """{kind: {layer: (g, b, u)}}."""
  result = {}
  for kind in kinds:
    moves = gradients.directions(images, family, kind)
    result[kind] = gradients.tangents(lambda x: flat(fn, x), images, moves)
  return result


tangents = platform.jit(_run_tangents, static_argnames=("family", "kinds"))


def _run_rates(
  fn: Callable, images: Array, *, family: Any, kinds: tuple[str, ...]
) -> dict[str, list[dict[str, Array]]]:
  """{kind: one dictionary a generator, of (b, ...) by layer}."""

  def rates(kind: str, direction: Array) -> dict[str, Array]:
    changes = jax.jvp(lambda x: _float32(fn, x), (images,), (direction,))[1]
    # Published code differentiates outputs only: layers need not be stored.
    of_layers = kind in gradients.GRADIENTS
    return changes if of_layers else {OUTPUT_KEY: changes[OUTPUT_KEY]}

  return {
    kind: [rates(kind, v) for v in gradients.directions(images, family, kind)]
    for kind in kinds
  }


rates_of_change = platform.jit(_run_rates, static_argnames=("family", "kinds"))
