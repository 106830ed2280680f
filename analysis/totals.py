"""Reductions of all layers over a whole pass, on a CPU.

In place of an update of every measure at every step, the sums that they read
are added up by native loops, once for all measures; those that read nothing
else see them once, after the last step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from analysis import activations, native, streaming
from analysis.actions import Orbit
from analysis.activations import OUTPUT_KEY
from analysis.measures import (
  Elements,
  Images,
  MapAction,
  OrbitBatch,
  Shapes,
  Statistics,
  maps,
  reduced,
)
from analysis.streaming import Batch, Layer
from models import platform


class Totals:
  """Sums of every layer of a pass under one orbit."""

  def __init__(
    self,
    layers: Sequence[Layer],
    shapes: Mapping[str, Shapes],
    o: Orbit,
    elements: Elements,
    known: Mapping[str, Statistics],
    velocities: Mapping[str, Any],
    rectified: Mapping[str, str],
  ) -> None:
    """Sums of nothing.

    Args:
      layers: with the measures of each.
      shapes: of each, by key.
      o: the orbit.
      elements: its elements.
      known: statistics by layer, where measures need them.
      velocities: of each layer's positions, by key, where it has any.
      rectified: layers that steps leave out of the transformed ones, each with
        that of which it is the ReLU.
    """
    # Needs Numba, as the loops of `native` do.
    from analysis.tangent_sums import TangentLayer, TangentSums

    self._layers = {layer.key: layer for layer in layers}
    self._shapes = shapes
    self._family = o.family
    self._elements = elements
    self._known = known
    self._rectified = rectified
    self._loops = native.Loops(elements)
    # The action on each resolution that ideal layers are needed of.
    self._ideals: dict[tuple, MapAction] = {}
    differentiated: dict[str, TangentLayer] = {}
    for key, layer in self._layers.items():
      self._loops.add_layer(
        key,
        layer.reads,
        shapes[key],
        known.get(key),
        rectified=key in rectified,
      )
      if "ideal" in layer.reads:
        place, action = _place(layer), layer.action
        assert action is not None
        if place not in self._ideals:
          self._ideals[place] = action
          size = shapes[key]._replace(units=action.mask.shape[1])
          self._loops.add_layer(
            place, frozenset({"undone", "reference"}), size, None
          )
      if "tangents" in layer.reads:
        inside = None if layer.action is None else layer.action.inside
        differentiated[key] = TangentLayer(
          layer.positions, velocities.get(key), inside
        )
    needs = frozenset().union(*(layer.needs for layer in layers))
    self._kinds = streaming.tangent_kinds(needs)
    self._tangents = TangentSums(differentiated, self._kinds)

  def differentiate(
    self, fn: Any, batch: Batch, seen: activations.Activations
  ) -> dict[str, Array]:
    """Adds derivatives along the family, if a measure reads them.

    Args:
      fn: the network.
      batch: the images.
      seen: their activations.

    Returns:
      The derivatives of the output, (g, b, k), by kind.
    """
    if not self._kinds:
      return {}
    changes = activations.rates_of_change(
      fn, batch.images, family=self._family, kinds=self._kinds
    )
    images = int(np.asarray(batch.weight).sum())
    self._tangents.add(changes, seen.reference, images)
    return {
      kind: jnp.asarray(np.stack([rates[OUTPUT_KEY] for rates in of]))
      for kind, of in changes.items()
    }

  def step(
    self, seen: activations.Activations, batch: Batch
  ) -> dict[str, reduced.Reductions]:
    """Adds the activations of a step.

    Args:
      seen: the activations.
      batch: the images.

    Returns:
      By layer, what measures that see every step may read of this one.
    """
    index = np.asarray(batch.index)[np.asarray(batch.weight) > 0]
    pictures = Images(batch.images, seen.moved)
    before: dict[Any, Array] = dict(seen.reference)
    after: dict[Any, Array] = dict(seen.transformed)
    for name, source in self._rectified.items():
      after[name] = after[source]
    for place, action in self._ideals.items():
      before[place], after[place] = _averages(pictures, action)
    return self._loops.step(before, after, index)

  def states(self, key: str) -> tuple[Any, ...]:
    """States of the measures that read no activations, after the last step."""
    layer = self._layers[key]
    groups = layer.groups(arrays=False)
    if not groups:
      return ()
    known = self._loops.total(key)
    if "ideal" in layer.reads:
      ideal = self._loops.total(_place(layer))
      known = known._replace(ideal=reduced.Ideal(ideal.undone, ideal.reference))
    if "tangents" in layer.reads:
      known = known._replace(tangents=self._tangents.total(key))
    batch = OrbitBatch(
      *[None] * 3,
      action=layer.action,
      images=None,
      tangents=None,
      aligned_tangents=None,
      elements=self._elements,
      statistics=self._known.get(key),
      labels=None,
      weight=None,
      index=None,
      reductions=known,
    )
    states = streaming.initial_states(groups, self._shapes[key])
    updates = tuple(update for _, update in groups)
    # Some sums are float64: so they stay.
    with jax.enable_x64(True):
      return streaming.run_groups(states, batch, updates=updates)


def _place(layer: Layer) -> tuple:
  """What the ideal layer depends on: where the layer's positions lie."""
  where = layer.where
  assert where is not None
  return where.stride, where.offset, layer.positions


def _run_averages(images: Images, action: MapAction) -> tuple[Array, Array]:
  """(b, p) and (t, b, p) the images at the map's resolution."""
  before, after = (maps.area_average(a, action) for a in images)
  count, elements = len(before), len(after)
  return before.reshape(count, -1), after.reshape(elements, count, -1)


_averages = platform.jit(_run_averages)
