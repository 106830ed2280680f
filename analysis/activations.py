"""What a network makes of images and of their transformed copies."""

from collections.abc import Callable
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


def _run_at_once(
  fn: Callable, images: Array, taps: ImageTaps, *, border: str
) -> tuple[dict[str, Array], Array]:
  moved = _warp_all(images, taps, border)
  every = jnp.concatenate([images[None], moved])
  return _float32(fn, every.reshape(-1, *images.shape[1:])), every


_at_once = platform.jit(_run_at_once, static_argnames="border")


def forward_at_once(
  fn: Callable, images: Any, taps: ImageTaps, *, border: str
) -> Activations:
  """`forward` in one call of the network, for arrays in the host's memory.

  XLA would copy the larger layers to flatten and to split them.

  Args:
    fn: the network.
    images: (b, H, W, c).
    taps: how they are transformed.
    border: what lies outside.

  Returns:
    Activations in NumPy arrays that look at the memory of the device.
  """
  values, every = _at_once(fn, images, taps, border=border)
  count = len(images)
  flattened = {k: np.asarray(a).reshape(len(a), -1) for k, a in values.items()}
  every = np.asarray(every)
  return Activations(
    {k: a[:count] for k, a in flattened.items()},
    {
      k: a[count:].reshape(-1, count, a.shape[-1]) for k, a in flattened.items()
    },
    every[1:],
  )


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
  return {
    kind: [
      jax.jvp(lambda x: _float32(fn, x), (images,), (v,))[1]
      for v in gradients.directions(images, family, kind)
    ]
    for kind in kinds
  }


rates_of_change = platform.jit(_run_rates, static_argnames=("family", "kinds"))
