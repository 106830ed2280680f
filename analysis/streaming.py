"""The machinery of the pass: batches of images through network and measures.

A step transforms a batch of images by a whole orbit, runs the network once over
untransformed and transformed images, and hands each layer's activations to the
measures in one compiled function a layer. Layers of the same shape share that
function, and activations are dropped when their layer is done.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from analysis import gradients
from analysis.actions import Geometry, Orbit
from analysis.activations import OUTPUT_KEY
from analysis.measures import (
  Elements,
  Images,
  MapAction,
  Measure,
  OrbitBatch,
  Shapes,
  Statistics,
)
from analysis.measures.maps import align
from models import platform

OUTPUT = "output"

# (init, update): measures that share them share a state.
Group = tuple[Callable, Callable]


class Layer(NamedTuple):
  """A layer in a pass: what is known of it, and who measures it.

  Attributes:
    name: the layer's name.
    shape: of one image's activation.
    action: how the orbit acts on its map, if it has one whose place is known.
    where: the map's geometry.
    measures: those that apply to it.
    is_output: whether it is the network's output, not a layer of that name.
  """

  name: str
  shape: tuple[int, ...]
  action: MapAction | None
  where: Geometry | None
  measures: tuple[Measure, ...]
  is_output: bool = False

  @property
  def key(self) -> str:
    """What forward passes call it."""
    return OUTPUT_KEY if self.is_output else self.name

  @property
  def positions(self) -> tuple[int, int] | None:
    """(height, width) of the map, or None."""
    return self.shape[:2] if len(self.shape) == 3 else None

  @property
  def needs(self) -> frozenset[str]:
    """What its measures need."""
    return frozenset().union(*(m.needs for m in self.measures))

  @property
  def reads(self) -> frozenset[str]:
    """The reductions that its measures read."""
    return frozenset().union(*(m.reads for m in self.measures))

  def groups(self, *, arrays: bool | None = None) -> tuple[Group, ...]:
    """The different (init, update) of its measures: one state each.

    Args:
      arrays: only of measures that read activations, or do not; None for all.

    Returns:
      The groups.
    """
    chosen = [m for m in self.measures if arrays in (None, m.arrays)]
    return tuple(dict.fromkeys((m.init, m.update) for m in chosen))


def tangent_kinds(needs: frozenset[str]) -> tuple[str, ...]:
  """The kinds of tangents among what measures need."""
  kinds = [n.partition(":")[2] for n in needs if n.startswith("tangents:")]
  return tuple(sorted(kinds))


# --- devices -----------------------------------------------------------------


class Placement:
  """Where arrays go: on one device, or images divided among several."""

  def __init__(self, devices: Sequence[Any] | None) -> None:
    self.count = len(devices) if devices else 1
    self._split = self._copied = None
    if devices and len(devices) > 1:
      mesh = Mesh(np.asarray(devices), ("images",))
      self._split = NamedSharding(mesh, PartitionSpec("images"))
      self._copied = NamedSharding(mesh, PartitionSpec())

  def split(self, tree: Any) -> Any:
    """Arrays with the images as leading axis."""
    return tree if self._split is None else jax.device_put(tree, self._split)

  def copied(self, tree: Any) -> Any:
    """Arrays that every device needs."""
    return tree if self._copied is None else jax.device_put(tree, self._copied)


# --- batches -----------------------------------------------------------------


class Batch(NamedTuple):
  """Images of one step, in [0, 1], a ragged last one filled up."""

  images: Any
  labels: Any
  weight: Any
  index: Any


def shuffled(images: int) -> np.ndarray:
  """Indices of all images in an order that is random, but always the same."""
  return np.random.default_rng(0).permutation(images)


def batches(
  images: np.ndarray,
  labels: np.ndarray,
  size: int,
  order: np.ndarray | None = None,
) -> Iterator[Batch]:
  """All images, in the given order or their own, in batches of one size.

  What is missing in the last one is copies of its first image with weight 0: a
  real image, because a network may divide by zero on a blank one.
  """
  order = np.arange(len(images)) if order is None else order
  for start in range(0, len(images), size):
    place = np.arange(start, start + size)
    real = place < len(images)
    index = order[np.where(real, place, start)].astype(np.int32)
    part = images[index]
    if part.dtype == np.uint8:
      # On the host: inside the step XLA would merge the division with what
      # follows and round it differently there, and the identity would not be
      # exact.
      part = part.astype(np.float32) / 255
    yield Batch(part, labels[index], real.astype(np.float32), index)


# --- the measures ------------------------------------------------------------


def shapes_of(
  layer: Layer, o: Orbit | None, elements: int, images: int, batch: int
) -> Shapes:
  """What measures may know of a layer before the first batch."""
  return Shapes(
    elements=elements,
    units=int(np.prod(layer.shape)),
    positions=layer.positions,
    generators=len(o.family.generator) if o is not None else 0,
    images=images,
    batch=batch,
    action=layer.action,
  )


def initial_states(groups: Sequence[Group], shapes: Shapes) -> tuple[Any, ...]:
  """The empty states of groups of measures."""
  return unshared(tuple(init(shapes) for init, _ in groups))


def unshared(state: Any) -> Any:
  """Copies: donating a buffer that two leaves share would free it twice."""
  return jax.tree.map(
    lambda a: (jnp if isinstance(a, jax.Array) else np).array(a, copy=True),
    state,
  )


def _run_align(maps: Array, action: MapAction) -> Array:
  return align(maps, action)


_align = platform.jit(_run_align)


def run_aligned_tangent(
  change: Array, maps: Array, velocity: Array, *, gradient: str
) -> Array:
  """(g, b, p, c) d/ds T_-s f(T_s x): what T_-s takes back is subtracted."""
  moved = gradients.advect(maps, velocity, gradient)
  difference = change.reshape(moved.shape) - moved
  return difference.reshape(*moved.shape[:2], -1, moved.shape[-1])


_aligned_tangent = platform.jit(run_aligned_tangent, static_argnames="gradient")


def _run_update(
  states: tuple[Any, ...], batch: OrbitBatch, *, updates: tuple[Callable, ...]
) -> tuple[Any, ...]:
  return tuple(
    update(state, batch) for update, state in zip(updates, states, strict=True)
  )


run_groups = platform.jit(
  _run_update, static_argnames="updates", donate_argnums=0
)

# Activations of a step above which measures are compiled apart on a CPU: given
# several, XLA there keeps what they share in memory instead of computing it
# where it is needed, and takes up to twice as long. Below it, calls cost more.
_APART = 400_000


def update_layer(
  layer: Layer,
  groups: Sequence[Group],
  states: tuple[Any, ...],
  values: tuple[Array, Array],
  batch: Batch,
  *,
  images: Images | None,
  elements: Elements,
  statistics: Statistics | None,
  changes: Mapping[str, Array] | None = None,
  velocity: Any = None,
  known: Any = None,
) -> tuple[Any, ...]:
  """One step of measures of one layer.

  Args:
    layer: the layer.
    groups: of its measures.
    states: of these groups; not to be used afterwards.
    values: its activations (b, u) and (t, b, u).
    batch: the images' labels, weights and indices.
    images: the images, if known.
    elements: of the orbit.
    statistics: of the layer, if a measure needs them.
    changes: its tangents by kind, if a measure needs them.
    velocity: (g, h, w, 2) of its positions, for aligned tangents.
    known: `Reductions` of the batch, if some are known.

  Returns:
    The new states.
  """
  before, after = values
  aligned, still = None, {}
  chosen = [m for m in layer.measures if (m.init, m.update) in groups]
  needs = frozenset().union(*(m.needs for m in chosen))
  if layer.action is not None:
    if "aligned" in needs:
      aligned = _align(
        after.reshape(*after.shape[:2], *layer.shape), layer.action
      )
    for kind, change in (changes or {}).items():
      if kind in gradients.GRADIENTS:
        maps = before.reshape(-1, *layer.shape)
        still[kind] = _aligned_tangent(change, maps, velocity, gradient=kind)
  step = OrbitBatch(
    reference=before,
    transformed=after,
    aligned=aligned,
    action=layer.action,
    images=images if "images" in needs else None,
    tangents=changes,
    aligned_tangents=still,
    elements=elements,
    statistics=statistics,
    labels=batch.labels,
    weight=batch.weight,
    index=batch.index,
    reductions=known,
  )
  updates = tuple(update for _, update in groups)
  if not platform.on_cpu() or after.size <= _APART:
    return run_groups(states, step, updates=updates)
  return tuple(
    run_groups((state,), step, updates=(update,))[0]
    for state, update in zip(states, updates, strict=True)
  )
