"""Distances over transformations against distances over images."""

from typing import Any, NamedTuple

import numpy as np

from analysis.measures import base, reductions, sums
from analysis.measures.variance import spread_rows


class _State(NamedTuple):
  transformations: Any  # (u,) sum over images of the sum over pairs
  samples: Any  # (u,) sum over the orbit of the sum over pairs of images
  images: Any
  pairs: Any
  elements: Any


def _init(shapes: base.Shapes) -> _State:
  units, zero = sums.zeros(shapes.units), sums.zeros()
  return _State(units, units, zero, zero, sums.zeros(shapes.elements))


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  pairs = reductions.pairs(batch)
  return _State(
    state.transformations + pairs.over_orbit,
    state.samples + pairs.over_images,
    state.images + reductions.images(batch),
    state.pairs + pairs.count,
    state.elements,
  )


def _finalize(state: _State) -> list[base.Row]:
  elements = len(state.elements)
  td = np.asarray(state.transformations, np.float64) / float(state.images)
  sd = np.asarray(state.samples, np.float64) / float(state.pairs) / elements
  names = {
    "orbit": "transformation_distance",
    "images": "sample_distance",
    "ratio": "normalized_distance",
  }
  return spread_rows(names, td / (elements * (elements - 1) / 2), sd)


normalized_distance = base.Measure(
  _init,
  _update,
  _finalize,
  name="normalized_distance",
  protocol="normalized_distance/ratio-of-means",
  needs=frozenset({"pairs"}),
  min_elements=2,
  reads=frozenset({"pairs"}),
  arrays=False,
)
"""Mean pairwise distance over the orbit, over that between images.

TD = mean over images of the mean |f_u(s x) - f_u(t x)| over pairs s != t; SD =
mean over the orbit of the mean |f_u(t x_i) - f_u(t x_j)| over pairs i != j. For
Gaussian units 2 / sqrt(pi) times the standard deviations of
`normalized_variance`, whose four rows it has: `transformation_distance`,
`sample_distance`, `normalized_distance` (ratio of means, without dead units)
and `normalized_distance_reference` (mean of the units' ratios).

All pairs, by sorting; not a random pairing. Where the activations of all images
do not fit in memory, the pairs are those within random blocks of images,
and the protocol says so. 0: invariant; 1: as far as another image. NaN if no
unit varies.

Source: F. Quiroga, J. Torrents-Barrena, L. Lanzarini and D. Puig, "Measuring
(in)variances in convolutional networks", 2019; package tmeasures, which takes
the pairs within a batch.
"""
