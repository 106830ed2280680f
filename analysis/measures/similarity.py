"""Similarity of a layer's activations with and without the transformation."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from analysis.measures import base, sums


class _Cosine(NamedTuple):
  cosines: Any  # (t,) sum over images that have one
  images: Any  # (t,)


def _init_cosine(shapes: base.Shapes) -> _Cosine:
  zeros = jnp.zeros(shapes.elements)
  return _Cosine(zeros, zeros)


def _update_cosine(state: _Cosine, batch: base.OrbitBatch) -> _Cosine:
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
  cosines = jnp.where(known, product / jnp.where(known, norms, 1), 0)
  return _Cosine(
    state.cosines + cosines @ batch.weight,
    state.images + known.astype(jnp.float32) @ batch.weight,
  )


def _finalize_cosine(state: _Cosine) -> list[base.Row]:
  rows = []
  for element, (total, count) in enumerate(
    zip(np.asarray(state.cosines), np.asarray(state.images), strict=True)
  ):
    value = float(total / count) if count else float("nan")
    note = "" if count else "no image differs from the mean"
    rows.append(base.Row("cosine", value, element, note=note))
  return rows


cosine = base.Measure(
  _init_cosine,
  _update_cosine,
  _finalize_cosine,
  name="cosine",
  protocol="cosine/centred",
  needs=frozenset({"statistics"}),
)
"""mean_i cos(f(t x_i) - m, f(x_i) - m), m the mean of f over the images.

1: invariant up to the distance from the mean; 0: unrelated; -1 at least.
Without the centring the common part of all activations would hold it near 1.
Blind to the length of the deviation: an activation that shrinks towards the
mean still has cosine 1. Images whose activation is the mean itself, before or
after, have no cosine and are left out; NaN if none is left.
"""


class _Cka(NamedTuple):
  before: Any  # () HSIC of f(x) with itself, summed over blocks
  cross: Any  # (t,) of f(x) with f(t x)
  after: Any  # (t,) of f(t x) with itself


# The unbiased HSIC is defined for at least four images.
_LEAST = 4


def _init_cka(shapes: base.Shapes) -> _Cka:
  zeros = jnp.zeros(shapes.elements)
  return _Cka(jnp.zeros(()), zeros, zeros)


def _update_cka(state: _Cka, batch: base.OrbitBatch) -> _Cka:
  weight = batch.weight
  count = weight.sum()
  before = _centred(batch.reference, weight)
  after = jnp.moveaxis(_centred(batch.transformed, weight), 2, 1)
  gram = before @ before.T
  grams = jnp.einsum("tui,tuj->tij", after, after)
  off = jnp.outer(weight, weight) * (1 - jnp.eye(len(weight)))
  gram, grams = gram * off, grams * off[None]
  grams_before = jnp.broadcast_to(gram, grams.shape)
  return _Cka(
    state.before + _hsic(gram[None], gram[None], count)[0],
    state.cross + _hsic(grams_before, grams, count),
    state.after + _hsic(grams, grams, count),
  )


def _centred(values: Any, weight: Any) -> Any:
  """Less the mean over the images: (..., b, u).

  That changes no HSIC, but keeps its differences of large sums small. Taken
  from the first image beforehand, what never varies is exactly 0.
  """
  values = values - values[..., :1, :]
  mean = sums.sum_over_images(values, weight / weight.sum())
  return values - mean[..., None, :]


def _hsic(one: Any, other: Any, count: Any) -> Any:
  """Unbiased HSIC of Gram matrices (t, b, b) of zero diagonal, times count."""
  row_one, row_other = one.sum(-1), other.sum(-1)
  product = (one * other).sum((-2, -1))
  totals = row_one.sum(-1) * row_other.sum(-1)
  rows = (row_one * row_other).sum(-1)
  # A block of fewer images says nothing and must not divide by zero.
  n = jnp.maximum(count, _LEAST)
  value = product + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
  return jnp.where(count >= _LEAST, value * count / (n * (n - 3)), 0)


def _finalize_cka(state: _Cka) -> list[base.Row]:
  before = float(state.before)
  rows = []
  for element, (cross, after) in enumerate(
    zip(
      np.asarray(state.cross, np.float64),
      np.asarray(state.after, np.float64),
      strict=True,
    )
  ):
    value, note = float("nan"), ""
    if before > 0 and after > 0:
      value = float(cross / np.sqrt(before * after))
    else:
      note = "no variation over images beyond chance, or fewer than 4 images"
    rows.append(base.Row("cka", value, element, note=note))
  return rows


cka = base.Measure(
  _init_cka,
  _update_cka,
  _finalize_cka,
  name="cka",
  protocol="cka/linear-debiased",
  needs=frozenset({"pairs"}),
)
"""Debiased linear centred kernel alignment of f(x) and f(t x).

HSIC(f(x), f(t x)) / sqrt(HSIC(f(x), f(x)) HSIC(f(t x), f(t x))) with the
unbiased estimator of HSIC, linear kernels. It says how much information on the
images' mutual similarities is kept, and never that the layer is invariant: it
ignores orthogonal maps, so that a circular shift of all maps scores 1. About 0:
unrelated; being unbiased it can be slightly negative, or above 1.

Over all images at once; where their activations do not fit in memory, HSIC is
averaged over random blocks of images and the protocol says so (Nguyen et
al.). NaN for fewer than 4 images or if nothing varies over them beyond chance.

Sources: S. Kornblith, M. Norouzi, H. Lee and G. Hinton, "Similarity of neural
network representations revisited", ICML 2019; L. Song, A. Smola, A. Gretton, J.
Bedo and K. Borgwardt, "Feature selection via dependence maximization", JMLR 13,
2012 (the unbiased estimator); T. Nguyen, M. Raghu and S. Kornblith, "Do wide
and deep networks learn the same things?", ICLR 2021 (averaging over blocks).
"""
