"""Squared derivatives of layers along a family, added up by native loops."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis import gradients, native
from analysis.kernels import blocks, tangents
from analysis.measures.reduced import Tangents


class TangentLayer(NamedTuple):
  """What derivatives of a layer are compared with.

  Attributes:
    positions: (height, width), or None.
    velocity: (g, h, w, 2) of its positions, or None.
    inside: (p,) 1 where the receptive field lies inside the canvas, or None.
  """

  positions: tuple[int, int] | None
  velocity: Any
  inside: Any


class TangentSums:
  """The sums of all layers over a pass, by kind of gradient."""

  def __init__(
    self, layers: Mapping[str, TangentLayer], kinds: tuple[str, ...]
  ) -> None:
    """Sums of nothing.

    Args:
      layers: those that are differentiated.
      kinds: of tangents; only gradients are summed.
    """
    self._kinds = tuple(k for k in kinds if k in gradients.GRADIENTS)
    self._layers = {
      name: layer._replace(
        velocity=_contiguous(layer.velocity), inside=_contiguous(layer.inside)
      )
      for name, layer in layers.items()
    }
    self._matrices = {
      (size, kind): _contiguous(gradients.derivative_matrix(size, kind))
      for layer in layers.values()
      if layer.velocity is not None
      for size in layer.positions or ()
      for kind in self._kinds
    }
    self._totals: dict[tuple[str, str], np.ndarray] = {}

  def add(
    self, changes: Mapping[str, Any], before: Mapping[str, Any], images: int
  ) -> None:
    """Adds a step.

    Args:
      changes: {kind: one dictionary a generator, of (b, ...) by layer}.
      before: (b, u) activations by layer.
      images: how many of the b are no padding.
    """
    arrays = {
      (kind, name): (
        [_rows(of[name]) for of in changes[kind]],
        np.asarray(before[name]),
      )
      for kind in self._kinds
      for name in self._layers
    }
    shares = threads = native.threads()
    parts = [
      {key: np.zeros((2, len(rates))) for key, (rates, _) in arrays.items()}
      for _ in range(shares)
    ]

    def share(key: tuple[str, str], part: int) -> None:
      first, last = (images * k // shares for k in (part, part + 1))
      self._add_squares(key, *arrays[key], first, last, parts[part][key])

    native.run(
      [
        functools.partial(share, key, part)
        for key in arrays
        for part in range(shares)
      ],
      threads,
    )
    for part in parts:
      for key, value in part.items():
        self._totals[key] = self._totals.get(key, 0) + value

  def _add_squares(
    self,
    key: tuple[str, str],
    rates: list[np.ndarray],
    values: np.ndarray,
    first: int,
    last: int,
    sums: np.ndarray,
  ) -> None:
    """Adds those of some images to (2, g): invariant, equivariant."""
    kind, name = key
    layer = self._layers[name]
    invariant, equivariant = sums
    for g, rate in enumerate(rates):
      invariant[g] += tangents.sum_of_squares(rate, first, last)
    if layer.velocity is None or layer.positions is None:
      return
    height, width = layer.positions
    tangents.aligned_squares(
      blocks.addresses([rate[None] for rate in rates]),
      values.reshape(len(values), height, width, -1),
      self._matrices[height, kind],
      self._matrices[width, kind],
      layer.velocity,
      layer.inside,
      first,
      last,
      equivariant,
    )

  def total(self, name: str) -> dict[str, Tangents]:
    """Of one layer over all images, by kind."""
    mapped = self._layers[name].velocity is not None
    result = {}
    for kind in self._kinds:
      invariant, equivariant = self._totals[kind, name].astype(np.float32)
      result[kind] = Tangents(invariant, equivariant if mapped else None)
    return result


def _rows(values: Any) -> np.ndarray:
  """Each image's in a row, without a copy."""
  array = np.asarray(values)
  return array.reshape(len(array), -1)


def _contiguous(values: Any) -> Any:
  return None if values is None else np.ascontiguousarray(values, np.float32)
