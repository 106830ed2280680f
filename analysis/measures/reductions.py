"""What measures read of a step, summed over its images: shared, and additive.

Each function below defines one reduction of an `OrbitBatch`. A pass on a CPU
computes them all at once by native loops (`analysis.native`) and hands them
over in the batch, summed over all images; elsewhere they are computed here, in
the program of the measures that ask for them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from analysis import sampling
from analysis.measures import maps, sums
from analysis.measures.base import OrbitBatch
from analysis.measures.reduced import (
  Cosines,
  Firing,
  Hsic,
  Ideal,
  Moved,
  Pairs,
  Spread,
  Tangents,
)


def given(batch: OrbitBatch, name: str) -> Any:
  """The reduction of that name that the batch brings, or None."""
  known = batch.reductions
  return None if known is None else getattr(known, name)


def _reduction(define: Callable[[OrbitBatch], Any]) -> Callable:
  """The reduction of that name that the batch brings, or its definition."""

  @functools.wraps(define)
  def read(batch: OrbitBatch) -> Any:
    known = given(batch, define.__name__)
    return define(batch) if known is None else known

  return read


@_reduction
def images(batch: OrbitBatch) -> Any:
  """() number of images."""
  return batch.weight.sum()


def add_reference(moments: sums.Moments, batch: OrbitBatch) -> sums.Moments:
  """Moments of f(x) (u,) with those of the batch."""
  known = given(batch, "reference")
  if known is not None:
    return sums.merge_moments(moments, known)
  return sums.update_moments(moments, batch.reference, batch.weight)


# Small enough that no sum of finite activations overflows.
_TINY = 1e-30


@_reduction
def finite(batch: OrbitBatch) -> Any:
  """(t,) finite if all f(t x) are."""
  values = batch.transformed
  tiny = jnp.full(values.shape[-1], _TINY, values.dtype)
  return (values @ tiny).sum(-1)


@_reduction
def over_orbit(batch: OrbitBatch) -> Spread:
  """`Spread` of f(t x)."""
  return _spread(batch.transformed, batch.weight)


def _spread(transformed: Any, weight: Any) -> Spread:
  variance = sums.variance_over_orbit(transformed)
  return Spread(weight @ jnp.sqrt(variance), weight @ variance)


def add_over_images(moments: sums.Moments, batch: OrbitBatch) -> sums.Moments:
  """Moments of f(t x) (t, u) with those of the batch."""
  known = given(batch, "over_images")
  if known is not None:
    return sums.merge_moments(moments, known)
  return sums.update_moments(moments, batch.transformed, batch.weight)


@_reduction
def moved(batch: OrbitBatch) -> Moved:
  """`Moved` of f(t x)."""
  squares = sums.sum_terms_over_units(
    lambda y, x: (y - x[None]) ** 2, batch.transformed, batch.reference
  )
  return Moved(squares @ batch.weight, jnp.sqrt(squares) @ batch.weight)


@_reduction
def cosines(batch: OrbitBatch) -> Cosines:
  """`Cosines` of f(t x)."""
  mean = batch.statistics.mean
  before = batch.reference - mean[None]
  product = sums.sum_terms_over_units(
    lambda y, x, m: (y - m[None, None]) * x[None],
    batch.transformed,
    before,
    mean,
  )
  squares = sums.sum_terms_over_units(
    lambda y, m: (y - m[None, None]) ** 2, batch.transformed, mean
  )
  own = sums.sum_terms_over_units(lambda x: x**2, before)
  # Roots before their product, which would leave the range of float32.
  norms = jnp.sqrt(squares) * jnp.sqrt(own)[None]
  known = norms > 0
  values = jnp.where(known, product / jnp.where(known, norms, 1), 0)
  return Cosines(
    values @ batch.weight, known.astype(jnp.float32) @ batch.weight
  )


# The unbiased HSIC is defined for at least so many images.
LEAST_IMAGES = 4


@_reduction
def hsic(batch: OrbitBatch) -> Hsic:
  """`Hsic` of f(x) and f(t x), the batch being one block."""
  weight = batch.weight
  before = _centred(batch.reference, weight)
  after = jnp.moveaxis(_centred(batch.transformed, weight), 2, 1)
  gram = before @ before.T
  grams = jnp.einsum("tui,tuj->tij", after, after)
  off = jnp.outer(weight, weight) * (1 - jnp.eye(len(weight)))
  return hsic_of(gram * off, grams * off[None], weight.sum())


def _centred(values: Any, weight: Any) -> Any:
  """Less the mean over the images: (..., b, u).

  That changes no HSIC, but keeps its differences of large sums small. Taken
  from the first image beforehand, what never varies is exactly 0.
  """
  values = values - values[..., :1, :]
  mean = sums.sum_over_images(values, weight / weight.sum())
  return values - mean[..., None, :]


def hsic_of(gram: Any, grams: Any, count: Any) -> Hsic:
  """`Hsic` from Gram matrices of zero diagonal.

  Args:
    gram: (b, b) of f(x).
    grams: (t, b, b) of f(t x).
    count: images of the block; of fewer than four it says nothing.

  Returns:
    The sums of this block.
  """
  xp = sampling.namespace(gram, grams, count)
  # A block of too few images must not divide by zero.
  n = xp.maximum(count, LEAST_IMAGES)

  def unbiased(one: Any, other: Any) -> Any:
    row_one, row_other = one.sum(-1), other.sum(-1)
    product = (one * other).sum((-2, -1))
    totals = row_one.sum(-1) * row_other.sum(-1)
    rows = (row_one * row_other).sum(-1)
    value = product + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return xp.where(count >= LEAST_IMAGES, value * count / (n * (n - 3)), 0)

  before = xp.broadcast_to(gram, grams.shape)
  return Hsic(
    unbiased(gram, gram), unbiased(before, grams), unbiased(grams, grams)
  )


@_reduction
def pairs(batch: OrbitBatch) -> Pairs:
  """`Pairs` of f(t x), the batch being one block."""
  count = batch.weight.sum()
  by_image = sums.pair_differences(batch.transformed)
  by_element = sums.pair_differences(
    jnp.moveaxis(batch.transformed, 1, 0), count
  )
  return Pairs(
    batch.weight @ by_image,
    jnp.ones(len(by_element)) @ by_element,
    count * (count - 1) / 2,
  )


@_reduction
def firing(batch: OrbitBatch) -> Firing:
  """`Firing` of f(x) and f(t x)."""
  counted = 1 - batch.elements.identity
  fires, local = [], []
  for sign, threshold in zip((1, -1), batch.statistics.thresholds, strict=True):
    on = (sign * batch.reference > threshold[None]).astype(jnp.float32)
    after = [
      jnp.where(sign * values > threshold[None], counted[i], 0)
      for i, values in enumerate(batch.transformed)
    ]
    fires.append(batch.weight @ on)
    local.append(batch.weight @ (on * sums.add(after)))
  return Firing(jnp.stack(fires), jnp.stack(local))


@_reduction
def undone(batch: OrbitBatch) -> Any:
  """(t, p) squared error of t^-1 f(t x), summed over images and channels."""
  own = batch.reference.reshape(-1, *batch.aligned.shape[2:])
  return _errors(batch.aligned, own, batch.weight)


def _errors(aligned: Any, own: Any, weight: Any) -> Any:
  """Of maps (t, b, p, c) and (b, p, c), for each element and position."""
  squares = (aligned - own[None]) ** 2
  elements, count, positions, channels = squares.shape
  by_unit = sums.sum_over_images(
    squares.reshape(elements, count, positions * channels), weight
  )
  return sums.sum_over_units(by_unit.reshape(elements, positions, channels))


def _flat(batch: OrbitBatch) -> Any:
  return batch.aligned.reshape(*batch.aligned.shape[:2], -1)


@_reduction
def undone_over_orbit(batch: OrbitBatch) -> Spread:
  """`Spread` of t^-1 f(t x)."""
  return _spread(_flat(batch), batch.weight)


def add_undone_over_images(
  moments: sums.Moments, batch: OrbitBatch
) -> sums.Moments:
  """Moments of t^-1 f(t x) (t, u) with those of the batch."""
  known = given(batch, "undone_over_images")
  if known is not None:
    return sums.merge_moments(moments, known)
  return sums.update_moments(moments, _flat(batch), batch.weight)


def add_ideal(ideal: Ideal, batch: OrbitBatch) -> Ideal:
  """`Ideal` with that of the batch; as it is if the images are not known."""
  new = given(batch, "ideal")
  if new is not None:
    return Ideal(
      ideal.errors + new.errors,
      sums.merge_moments(ideal.reference, new.reference),
    )
  if batch.images is None:
    return ideal
  return add_images(ideal, batch.images, batch.action, batch.weight)


def add_images(ideal: Ideal, images: Any, action: Any, weight: Any) -> Ideal:
  """`Ideal` with images and their transformed copies.

  Args:
    ideal: of earlier images.
    images: `Images`.
    action: how the orbit acts on maps of that resolution.
    weight: (b,).

  Returns:
    The sums over all of them.
  """
  own = maps.area_average(images.reference, action)
  own = own.reshape(len(own), -1, 1)
  moved = maps.align(maps.area_average(images.transformed, action), action)
  return Ideal(
    ideal.errors + _errors(moved, own, weight),
    sums.update_moments(ideal.reference, own[..., 0], weight),
  )


def tangents(batch: OrbitBatch, kind: str) -> Tangents:
  """`Tangents` with the image gradient of that kind."""
  known = given(batch, "tangents")
  if known is not None:
    return known[kind]
  inside = None if batch.action is None else batch.action.inside
  return tangents_of(
    batch.tangents[kind],
    batch.aligned_tangents.get(kind),
    inside,
    batch.weight,
  )


def tangents_of(
  change: Any, aligned: Any, inside: Any, weight: Any
) -> Tangents:
  """`Tangents` from derivatives.

  Args:
    change: (g, b, u) d/ds f(T_s x).
    aligned: (g, b, p, c) d/ds T_-s f(T_s x), or None.
    inside: (p,) m, or None.
    weight: (b,).

  Returns:
    The sums over the images.
  """

  def total(values: Any) -> Any:
    return sums.sum_over_units(sums.sum_over_images(values**2, weight))

  equivariant = None
  if aligned is not None:
    masked = aligned * inside[None, None, :, None]
    equivariant = total(masked.reshape(*masked.shape[:2], -1))
  return Tangents(total(change), equivariant)
