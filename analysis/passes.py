"""One orbit at a time: which measures apply to which layer, and their run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis import (
  activations,
  gradients,
  memory,
  native,
  references,
  streaming,
)
from analysis.actions import (
  Geometry,
  Orbit,
  elements_of,
  image_taps,
  map_actions,
)
from analysis.activations import OUTPUT_KEY
from analysis.measures import (
  Elements,
  Images,
  Measure,
  Statistics,
)
from analysis.measures.yardstick import yardstick
from analysis.streaming import OUTPUT, Batch, Layer
from analysis.tables import ALL_LAYERS, Result
from analysis.totals import Totals

Missing = tuple[str, Measure, str]

# Images a forward pass when only the untransformed ones are needed.
_REFERENCE_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Pass:
  """A network to measure: the arguments of `measure`, checked.

  Attributes:
    fn: the network.
    images: (n, H, W, c).
    labels: (n,) classes, -1 for none.
    layers: unit shape of each layer, in forward order.
    rectified: layers that are the ReLU of another, with that one.
    output: shape of one image's output.
    geometry: of the layers that have one.
    measures: all that are asked for.
    batch_size: images a forward pass, if the caller wants a number.
    memory_limit: bytes that may be used.
    devices: that images are divided among.
    progress: called with the number of images done.
  """

  fn: jax.tree_util.Partial
  images: np.ndarray
  labels: np.ndarray
  layers: Mapping[str, tuple[int, ...]]
  rectified: Mapping[str, str]
  output: tuple[int, ...]
  geometry: Mapping[str, Geometry]
  measures: tuple[Measure, ...]
  batch_size: int | None
  memory_limit: int
  devices: tuple[Any, ...]
  progress: Callable[[int], None] | None


@dataclasses.dataclass(frozen=True)
class Given:
  """Activations to measure: the arguments of `measure_arrays`, checked."""

  reference: Mapping[str, Any]
  transformed: Mapping[str, Any]
  output: str
  labels: np.ndarray
  geometry: Mapping[str, Geometry]
  image_shape: tuple[int, int] | None
  measures: tuple[Measure, ...]
  batch_size: int


# --- which measure applies to which layer ------------------------------------


def _plan(
  measures: tuple[Measure, ...],
  o: Orbit | None,
  shapes: Mapping[str, tuple[int, ...]],
  output: tuple[int, ...] | None,
  actions: tuple[Mapping[str, Any], Mapping[str, str]],
  geometry: Mapping[str, Geometry],
) -> tuple[list[Layer], list[Missing]]:
  """Layers with the measures that apply, and why the others do not.

  Args:
    measures: all that are asked for.
    o: the orbit, if it is known.
    shapes: unit shape of each layer, in forward order.
    output: shape of one image's output; None if no measure is of the output.
    actions: on the layers' maps, and the reasons for those that have none.
    geometry: of the layers.

  Returns:
    The layers, and (layer, measure, reason) of what does not apply.
  """
  missing: list[Missing] = []
  applicable = []
  for m in measures:
    reason = m.refuses(o)
    if o is None and not reason and any("tangents" in n for n in m.needs):
      reason = "needs the network: use measure()"
    if reason:
      where = OUTPUT if m.scope == "output" else ALL_LAYERS
      missing.append((where, m, reason))
    else:
      applicable.append(m)
  layers = []
  maps, reasons = actions
  for name, shape in shapes.items():
    own: list[Measure] = [yardstick]
    for m in applicable:
      if m.scope == "layer" and "aligned" in m.needs and name not in maps:
        missing.append((name, m, reasons[name]))
      elif m.scope == "layer":
        own.append(m)
    layers.append(
      Layer(name, shape, maps.get(name), geometry.get(name), tuple(own))
    )
  of_output = tuple(m for m in applicable if m.scope == "output")
  if of_output and output is not None:
    size = (int(np.prod(output)),)
    layers.append(
      Layer(OUTPUT, size, None, None, (yardstick, *of_output), True)
    )
  return layers, missing


# --- networks ----------------------------------------------------------------


def statistics(run: Pass) -> dict[str, Statistics]:
  """What measures must know beforehand of each layer, if any needs it."""
  if not any("statistics" in m.needs for m in run.measures):
    return {}
  count = len(run.images)
  units = {name: int(np.prod(shape)) for name, shape in run.layers.items()}
  marks = references.chosen(count)
  affordable = memory.images_a_step(
    run.memory_limit, sum(units.values()), 1, run.measures
  )
  wanted = run.batch_size or _REFERENCE_BATCH
  size = min(wanted, _REFERENCE_BATCH, count, affordable)
  loops, states = None, {}
  if native.usable() and streaming.Placement(run.devices).count == 1:
    loops = native.References(units, references.kept(count))
  else:
    states = {
      name: streaming.unshared(references.init(u, count))
      for name, u in units.items()
    }
  for batch in streaming.batches(run.images, run.labels, size):
    values = activations.reference(run.fn, batch.images)
    used = marks[batch.index]
    if loops is not None:
      loops.step(values, int(batch.weight.sum()), used)
      continue
    states = {
      k: references.update(state, values[k], batch.weight, used)
      for k, state in states.items()
    }
  if loops is not None:
    return loops.statistics()
  return {k: references.statistics(state) for k, state in states.items()}


def measure_orbit(
  run: Pass, o: Orbit, known: Mapping[str, Statistics]
) -> Result:
  """Measures a network under one orbit.

  Args:
    run: the network.
    o: the orbit.
    known: statistics by layer.

  Returns:
    The rows of all layers.

  Raises:
    MemoryLimitError: see `memory.choose_sizes`.
    ValueError: activations that are not finite, or that cannot be
      differentiated though a measure asks for it.
  """
  shape = run.images.shape[1:3]
  actions = map_actions(o, run.layers, run.geometry, shape)
  layers, missing = _plan(
    run.measures, o, run.layers, run.output, actions, run.geometry
  )
  needs = frozenset().union(*(layer.needs for layer in layers))
  place = streaming.Placement(run.devices)
  sizes = memory.choose_sizes(
    len(run.images),
    o,
    sum(int(np.prod(s)) for s in run.layers.values()),
    run.measures,
    wanted=run.batch_size,
    limit=run.memory_limit,
    devices=place.count,
  )
  intensity = np.asarray(run.images, np.float64).sum(axis=(0, 3))
  elements = elements_of(o, intensity)
  kinds = streaming.tangent_kinds(needs)
  still = {layer.key: _velocity(o, layer, shape) for layer in layers if kinds}
  count = len(run.images)
  shapes = {
    layer.key: streaming.shapes_of(layer, o, len(o.thetas), count, sizes.batch)
    for layer in layers
  }
  summed = native.usable() and place.count == 1
  # With totals, measures that read nothing else see all images at the end.
  groups = {
    layer.key: layer.groups(arrays=True if summed else None) for layer in layers
  }
  in_parts = summed and sizes.chunk == sizes.batch
  rectified = {
    k: source
    for k, source in run.rectified.items()
    if in_parts and not groups.get(k)
  }
  totals = None
  if summed:
    totals = Totals(layers, shapes, o, elements, known, still, rectified)
  states = {
    key: streaming.initial_states(groups[key], shapes[key]) for key in groups
  }
  fn, taps, states, known, fixed = place.copied(
    (run.fn, image_taps(o, shape), states, known, elements)
  )
  order = None
  if "pairs" in needs and sizes.batches > 1:
    # Sorted by class, neighbours would be more alike than pairs at large.
    order = streaming.shuffled(count)
  for batch in streaming.batches(run.images, run.labels, sizes.batch, order):
    done = int(batch.weight.sum())
    batch = place.split(batch)
    if in_parts:
      seen = activations.forward_in_parts(
        fn, batch.images, taps, border=o.border, rectified=rectified
      )
    else:
      seen = activations.forward(
        fn, batch.images, taps, border=o.border, chunk=sizes.chunk
      )
    changes, reduced = {}, {}
    if totals is not None:
      reduced = totals.step(seen, batch)
      outputs = _differentiated(totals.differentiate, fn, batch, seen)
      changes = {k: {OUTPUT_KEY: v} for k, v in outputs.items()}
    elif kinds:
      changes = _differentiated(
        activations.tangents, fn, batch.images, family=o.family, kinds=kinds
      )
    seen_images = Images(batch.images, seen.moved)
    for layer in layers:
      key = layer.key
      if not groups[key]:
        continue
      states[key] = streaming.update_layer(
        layer,
        groups[key],
        states[key],
        (
          jnp.asarray(seen.reference[key]),
          activations.joined(seen.transformed[key]),
        ),
        batch,
        images=seen_images,
        elements=fixed,
        statistics=known.get(key),
        changes={k: c[key] for k, c in changes.items() if key in c},
        velocity=still.get(key),
        known=reduced.get(key),
      )
    del seen, changes, seen_images
    jax.block_until_ready(states)
    if run.progress is not None:
      run.progress(done)
  result = Result(
    o, count, elements, list(run.layers), sizes.batch, run.measures, intensity
  )
  for layer in layers:
    by_group = _by_group(groups[layer.key], states[layer.key])
    if totals is not None:
      late = layer.groups(arrays=False)
      by_group |= _by_group(late, totals.states(layer.key))
    _collect(result, layer, by_group)
  _collect_missing(result, missing)
  return result


def _differentiated(step: Callable, *args: Any, **options: Any) -> Any:
  """What a step returns that may differentiate the network."""
  try:
    return step(*args, **options)
  except (TypeError, NotImplementedError, ValueError) as error:
    line = str(error).strip().splitlines()[0]
    raise ValueError(
      f"the network cannot be differentiated ({line}): leave lie_derivative out"
      " of the measures"
    ) from error


def _velocity(o: Orbit, layer: Layer, shape: tuple[int, int]) -> Any:
  """(g, h, w, 2) of the layer's positions, if it has any."""
  if layer.action is None or layer.where is None:
    return None
  return gradients.velocities(
    o.family,
    (layer.shape[0], layer.shape[1]),
    shape,
    stride=layer.where.stride,
    offset=layer.where.offset,
  ).astype(np.float32)


def _by_group(groups: Any, states: Any) -> dict[streaming.Group, Any]:
  return dict(zip(groups, jax.device_get(states), strict=True))


def _collect(
  result: Result, layer: Layer, by_group: Mapping[streaming.Group, Any]
) -> None:
  """Adds the rows of a layer to the result."""
  for m in layer.measures:
    result.add(layer, m, m.finalize(by_group[m.init, m.update]))


def _collect_missing(result: Result, missing: list[Missing]) -> None:
  for name, m, reason in missing:
    result.add_missing(name, m, reason)


# --- arrays ------------------------------------------------------------------


def measure_given(given: Given, o: Orbit | None) -> Result:
  """Measures activations that somebody else computed.

  Args:
    given: the activations.
    o: the orbit, if it is known.

  Returns:
    The rows of all layers.

  Raises:
    ValueError: activations that are not finite, or a geometry that does not
      fit.
  """
  names = list(given.reference)
  shapes = {k: tuple(np.shape(given.reference[k])[1:]) for k in names}
  count, count_elements = _counts(given)
  elements = _given_elements(o, count_elements)
  why = "needs the transformations and geometry="
  actions: tuple[dict, dict] = ({}, dict.fromkeys(names, why))
  if o is not None and given.image_shape is not None:
    actions = map_actions(o, shapes, given.geometry, given.image_shape)
  layers, missing = _plan(
    given.measures, o, shapes, shapes[given.output], actions, given.geometry
  )
  paired = any("pairs" in layer.needs for layer in layers)
  size = count if paired else min(given.batch_size, count)
  result = Result(o, count, elements, names, size, given.measures)
  for layer in layers:
    key = given.output if layer.is_output else layer.name
    before, after = (
      _flat(given.reference[key]),
      _flat(given.transformed[key], 2),
    )
    known = _given_statistics(before) if "statistics" in layer.needs else None
    shape = streaming.shapes_of(layer, o, count_elements, count, size)
    groups = layer.groups()
    states = streaming.initial_states(groups, shape)
    for batch in _given_batches(given.labels, size):
      at = batch.index
      states = streaming.update_layer(
        layer,
        groups,
        states,
        (jnp.asarray(before[at]), jnp.asarray(after[:, at])),
        batch,
        images=None,
        elements=elements,
        statistics=known,
      )
    _collect(result, layer, _by_group(groups, states))
  _collect_missing(result, missing)
  return result


def _counts(given: Given) -> tuple[int, int]:
  first = next(iter(given.reference))
  return len(given.reference[first]), len(given.transformed[first])


def _flat(values: Any, axes: int = 1) -> np.ndarray:
  """Units in one axis, after the first `axes`; float32."""
  values = np.asarray(values)
  return values.reshape(*values.shape[:axes], -1).astype(np.float32)


def _given_elements(o: Orbit | None, count: int) -> Elements:
  if o is not None:
    return elements_of(o, None)
  nan = np.full(count, np.nan, np.float32)
  return Elements(nan, nan, np.zeros(count, np.float32))


def _given_statistics(values: np.ndarray) -> Statistics:
  state = streaming.unshared(references.init(values.shape[1], len(values)))
  marks = references.chosen(len(values))
  size = min(_REFERENCE_BATCH, len(values))
  for batch in streaming.batches(values, np.zeros(len(values)), size):
    state = references.update(
      state, jnp.asarray(batch.images), batch.weight, marks[batch.index]
    )
  return references.statistics(state)


def _given_batches(labels: np.ndarray, size: int) -> list[Batch]:
  """Batches without padding: the last may be smaller."""
  count = len(labels)
  parts = [
    np.arange(start, min(start + size, count), dtype=np.int32)
    for start in range(0, count, size)
  ]
  return [
    Batch(None, labels[at], np.ones(len(at), np.float32), at) for at in parts
  ]
