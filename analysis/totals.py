"""Reductions of all layers over a whole pass, on a CPU.

In place of an update of every measure at every step, the sums that they read
are added up by native loops, once for all measures; those that read nothing
else see them once, after the last step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from analysis import activations, gradients, native, streaming
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
  reductions,
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
  ) -> None:
    """Sums of nothing.

    Args:
      layers: with the measures of each.
      shapes: of each, by key.
      o: the orbit.
      elements: its elements.
      known: statistics by layer, where measures need them.
      velocities: of each layer's positions, by key, where it has any.
    """
    self._layers = {layer.key: layer for layer in layers}
    self._shapes = shapes
    self._family = o.family
    self._elements = elements
    self._known = known
    self._loops = native.Loops(elements)
    # The action on each resolution that ideal layers are needed of.
    self._ideals: dict[tuple, MapAction] = {}
    self._tangents: Any = None
    self._kinds: tuple[str, ...] = ()
    self._tangent_layers: dict[str, TangentLayer] = {}
    for key, layer in self._layers.items():
      self._loops.add_layer(key, layer.reads, shapes[key], known.get(key))
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
        self._tangent_layers[key] = TangentLayer(velocities.get(key), inside)
    needs = frozenset().union(*(layer.needs for layer in layers))
    self._kinds = streaming.tangent_kinds(needs)

  def differentiate(self, fn: Any, batch: Batch) -> dict[str, Array]:
    """Adds derivatives along the family, if a measure reads them.

    Args:
      fn: the network.
      batch: the images.

    Returns:
      The derivatives of the output, (g, b, k), by kind.
    """
    if not self._kinds:
      return {}
    self._tangents, outputs = _add_tangents(
      self._tangents,
      fn,
      batch.images,
      batch.weight,
      self._tangent_layers,
      family=self._family,
      kinds=self._kinds,
    )
    return outputs

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
      tangents = {kind: of[key] for kind, of in self._tangents.items()}
      known = known._replace(tangents=tangents)
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


class TangentLayer(NamedTuple):
  """What derivatives of a layer are compared with.

  Attributes:
    velocity: (g, h, w, 2) of its positions, or None.
    inside: (p,) 1 where the receptive field lies inside the canvas, or None.
  """

  velocity: Any
  inside: Any


def _run_add_tangents(
  totals: Any,
  fn: Any,
  images: Array,
  weight: Array,
  layers: Mapping[str, TangentLayer],
  *,
  family: Any,
  kinds: tuple[str, ...],
) -> tuple[Any, dict[str, Array]]:
  """Adds {kind: {layer: Tangents}}; gives those of the output by kind too."""
  before = activations.flat(fn, images)
  shapes = {k: a.shape for k, a in jax.eval_shape(fn, images)[1].items()}
  result, outputs = {}, {}
  for kind in kinds:
    moves = gradients.directions(images, family, kind)
    change = gradients.tangents(
      lambda x: activations.flat(fn, x), images, moves
    )
    outputs[kind] = change[OUTPUT_KEY]
    if kind not in gradients.GRADIENTS:
      continue
    result[kind] = {}
    for name, layer in layers.items():
      aligned = None
      if layer.velocity is not None:
        maps = before[name].reshape(shapes[name])
        aligned = streaming.run_aligned_tangent(
          change[name], maps, layer.velocity, gradient=kind
        )
      result[kind][name] = reductions.tangents_of(
        change[name], aligned, layer.inside, weight
      )
  if totals is not None:
    result = jax.tree.map(jnp.add, totals, result)
  return result, outputs


_add_tangents = platform.jit(
  _run_add_tangents, static_argnames=("family", "kinds")
)
