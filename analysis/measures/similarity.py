"""Similarity of a layer's activations with and without the transformation."""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reductions, sums


class _Cosine(NamedTuple):
  cosines: Any  # (t,) sum over images that have one
  images: Any  # (t,)


def _init_cosine(shapes: base.Shapes) -> _Cosine:
  zeros = sums.zeros(shapes.elements)
  return _Cosine(zeros, zeros)


def _update_cosine(state: _Cosine, batch: base.OrbitBatch) -> _Cosine:
  cosines = reductions.cosines(batch)
  return _Cosine(state.cosines + cosines.total, state.images + cosines.images)


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
  reads=frozenset({"cosines"}),
  arrays=False,
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


def _init_cka(shapes: base.Shapes) -> _Cka:
  zeros = sums.zeros(shapes.elements)
  return _Cka(sums.zeros(), zeros, zeros)


def _update_cka(state: _Cka, batch: base.OrbitBatch) -> _Cka:
  hsic = reductions.hsic(batch)
  return _Cka(*(a + b for a, b in zip(state, hsic, strict=True)))


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
  reads=frozenset({"hsic"}),
  arrays=False,
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
