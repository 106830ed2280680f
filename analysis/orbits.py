"""The one pass: images x transformations -> activations -> all measures.

Each batch of images is transformed by every element of an orbit, each
transformed image goes through the network once, and every measure updates its
sums from the activations, which are then dropped. Memory does not grow with
the number of images.

  def fn(images): ...  # -> (logits, {"layer name": activation})
  measure(fn, images, [(rotation, [-15, 0, 15])], ["invariance_error"])
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from analysis import sampling
from analysis.actions import (
  Geometry,
  ImageTaps,
  Orbit,
  as_orbits,
  image_taps,
  map_actions,
  orbit,
)
from analysis.checks import (
  check_arrays,
  check_images,
  check_labels,
  check_orbit_size,
  output_layer,
)
from analysis.measures import MapAction, Measure, OrbitBatch, resolve
from analysis.tables import (
  collect_rows,
  describe_given,
  describe_orbit,
  table,
)
from models import platform

__all__ = ["Orbit", "measure", "measure_arrays", "orbit"]

ApplyFn = Callable[[Any], tuple[Any, Mapping[str, Any]]]

# Bytes of activations and images a step, at most. On a CPU a step beyond some 8
# images no longer fits the cache and is slower; on an accelerator a larger step
# is faster.
_STEP_CPU = (128 * 2**20, 8)
_STEP_ACCELERATOR = (2 * 2**30, 256)


def measure(
  apply_fn: ApplyFn,
  images: Any,
  transformations: Any,
  measures: Sequence[str | Measure],
  *,
  geometry: Mapping[str, Geometry] | None = None,
  labels: Any = None,
  batch_size: int | None = None,
  progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
  """Measures a network layer by layer under orbits of transformations.

  Args:
    apply_fn: jittable, from images to (output, {layer: activation}), each
      array with the images as leading axis. A `jax.tree_util.Partial` over
      parameters is compiled once for all parameters of the same shapes, and
      once for all orbits of as many elements.
    images: (n, h, w, c) floating point in [0, 1], or uint8 in 0..255.
    transformations: orbits, (family, thetas) pairs, or {family name: thetas}.
    measures: names (see `analysis.measures.MEASURES`) or `Measure`s.
    geometry: where each layer's positions lie in the image, in forward order.
      A spatial layer without it has no equivariance value, and its row says
      why.
    labels: (n,) classes, for measures that need them.
    batch_size: images a step; chosen by the size of the activations if None.
      The result does not depend on it beyond rounding.
    progress: called after every step with the number of images done in it.

  Returns:
    One row a value, columns `analysis.tables.COLUMNS`. `theta` holds an
    element's parameters, or "all" for a value of the whole orbit, whose
    `magnitude` and `displacement_px` are then the largest of its elements.

  Raises:
    ValueError: wrong images, labels, transformations or measures; a function
      that does not return (output, {name: array}); activations that are not
      finite. The message names the value.
  """
  orbits = as_orbits(transformations)
  chosen = resolve(measures)
  images = check_images(images)
  labels = check_labels(labels, len(images), chosen)
  for o in orbits:
    check_orbit_size(chosen, len(o.thetas), o.name)
  fn = _as_partial(apply_fn)
  output, layers = _probe(fn, images, geometry or {})
  intensity = np.asarray(images, np.float64).sum(axis=(0, 3))
  tables = []
  for o in orbits:
    maps, reasons = {}, {}
    if any("maps" in m.needs for m in chosen):
      maps, reasons = map_actions(o, layers, geometry or {}, images.shape[1:3])
    state = _initial_state(chosen, len(o.thetas), layers, output, images, maps)
    size = batch_size or _batch_size(len(o.thetas), layers, len(images))
    taps = image_taps(o, images.shape[1:3])
    for start in range(0, len(images), size):
      state = _step(
        state,
        fn,
        *_padded(images, labels, start, size),
        taps,
        maps,
        measures=chosen,
        border=o.border,
      )
      if progress is not None:
        jax.block_until_ready(state)
        progress(min(size, len(images) - start))
    names = list(layers)
    rows = collect_rows(chosen, jax.device_get(state), names, reasons)
    tables.append(table(rows, names, len(images), describe_orbit(o, intensity)))
  return pd.concat(tables, ignore_index=True)


def measure_arrays(
  reference: Mapping[str, Any],
  transformed: Mapping[str, Any],
  measures: Sequence[str | Measure],
  *,
  per_unit: bool = False,
  output: str | None = None,
  labels: Any = None,
  batch_size: int = 32,
) -> Any:
  """The same measures on activations that somebody else computed.

  Args:
    reference: {layer: (n, ...)} activations of the untransformed images.
    transformed: {layer: (t, n, ...)} and of the transformed ones. The orbit is
      what is here: it holds the identity only if an element is the identity.
    measures: names or `Measure`s. Those that need maps (equivariance) have one
      row a layer, NaN with the reason.
    per_unit: whether to return the values of every unit too, where a measure
      has them: the variance family, with tmeasures' conventions.
    output: the layer that is the network's output, for measures that need it;
      by default the one called "logits" or "output", or the only one.
    labels: (n,) classes, for measures that need them.
    batch_size: images a step.

  Returns:
    The table, `theta` being the index of the orbit element; with `per_unit`,
    (table, {measure: {layer: array of the layer's unit shape}}).

  Raises:
    ValueError: layers, shapes, labels or measures that do not fit.
  """
  chosen = resolve(measures)
  layers, count, elements = check_arrays(reference, transformed)
  output = output_layer(output, layers, chosen)
  labels = check_labels(labels, count, chosen)
  check_orbit_size(chosen, elements, "given")
  state = None
  for start in range(0, count, batch_size):
    stop = min(start + batch_size, count)
    ref = {
      k: jnp.asarray(reference[k][start:stop], jnp.float32) for k in layers
    }
    moved = {
      k: jnp.asarray(transformed[k][:, start:stop], jnp.float32) for k in layers
    }
    batch = OrbitBatch(
      ref,
      moved,
      output=ref[output].reshape(stop - start, -1),
      transformed_output=moved[output].reshape(elements, stop - start, -1),
      images=None,
      transformed_images=None,
      labels=jnp.asarray(labels[start:stop]),
      weight=jnp.ones(stop - start),
      maps={},
    )
    if state is None:
      state = _zeros(tuple(m.init(_shapes(batch)) for m in chosen))
    state = _update(state, batch, measures=chosen)
  why = dict.fromkeys(layers, "needs the transformations: use measure()")
  rows = collect_rows(chosen, jax.device_get(state), layers, why)
  result = table(rows, layers, count, describe_given)
  if not per_unit:
    return result
  units: dict[str, dict[str, Any]] = {}
  for row in rows:
    if row.units is not None:
      units.setdefault(row.measure, {})[row.layer] = row.units
  return result, units


# --- the network -------------------------------------------------------------


def _as_partial(apply_fn: ApplyFn) -> jax.tree_util.Partial:
  """The function as a pytree: its parameters are arguments, not constants."""
  if isinstance(apply_fn, jax.tree_util.Partial):
    return apply_fn
  return jax.tree_util.Partial(apply_fn)


def _probe(
  fn: ApplyFn, images: np.ndarray, geometry: Mapping[str, Any]
) -> tuple[jax.ShapeDtypeStruct, dict[str, tuple[int, ...]]]:
  """Output shape and unit shape of each layer, in forward order.

  The order is that of the geometry if it names all layers, else the one that
  tracing sees; a function that is itself jitted returns them sorted.
  """
  order: list[str] = []

  def traced(x: Array) -> tuple[Any, dict[str, Any]]:
    result = fn(x)
    if (
      not isinstance(result, tuple)
      or len(result) != 2
      or not isinstance(result[1], Mapping)
    ):
      raise ValueError(
        "the function must return (output, {name: activation}), got"
        f" {type(result).__name__}"
      )
    order.extend(result[1])
    return result[0], dict(result[1])

  example = jax.ShapeDtypeStruct((2, *images.shape[1:]), jnp.float32)
  output, layers = jax.eval_shape(traced, example)
  if not order:
    raise ValueError("the function returned no activation to measure")
  for name, struct in {"output": output, **layers}.items():
    if len(struct.shape) < 2 or struct.shape[0] != 2:
      raise ValueError(
        f"layer {name!r} has shape {struct.shape} for 2 images: the images must"
        " be the leading axis, with at least one more"
      )
  if set(order) <= set(geometry):
    order = [name for name in geometry if name in layers]
  return output, {name: layers[name].shape[1:] for name in order}


# --- the pass ----------------------------------------------------------------


def _initial_state(
  measures: Sequence[Measure],
  elements: int,
  layers: Mapping[str, tuple[int, ...]],
  output: jax.ShapeDtypeStruct,
  images: np.ndarray,
  maps: dict[str, MapAction],
) -> tuple[Any, ...]:
  def struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  shapes = OrbitBatch(
    {name: struct(1, *shape) for name, shape in layers.items()},
    {name: struct(elements, 1, *shape) for name, shape in layers.items()},
    output=struct(1, *output.shape[1:]),
    transformed_output=struct(elements, 1, *output.shape[1:]),
    images=struct(1, *images.shape[1:]),
    transformed_images=struct(elements, 1, *images.shape[1:]),
    labels=struct(1),
    weight=struct(1),
    maps=_shapes(maps),
  )
  return _zeros(tuple(m.init(shapes) for m in measures))


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def _zeros(state: Any) -> Any:
  """Copies: donating a buffer that two leaves share would free it twice."""
  return jax.tree.map(lambda a: jnp.array(a, copy=True), state)


def _batch_size(
  elements: int, layers: Mapping[str, tuple[int, ...]], count: int
) -> int:
  """Images a step so that the activations of one orbit fit the target."""
  image = 4 * sum(int(np.prod(shape)) for shape in layers.values())
  target, most = _STEP_CPU if platform.on_cpu() else _STEP_ACCELERATOR
  return int(np.clip(target // (image * elements), 1, min(most, count)))


def _padded(
  images: np.ndarray, labels: np.ndarray, start: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """One batch in [0, 1], a ragged last one filled with images of weight 0."""
  part, classes = images[start : start + size], labels[start : start + size]
  if part.dtype == np.uint8:
    # On the host: inside the step XLA would merge the division with what
    # follows and round it differently there, and the identity would not be
    # exact.
    part = part.astype(np.float32) / 255
  missing = size - len(part)
  weight = np.ones(size, np.float32)
  if missing:
    weight[-missing:] = 0
    blank = np.zeros((missing, *part.shape[1:]), part.dtype)
    part = np.concatenate([part, blank])
    classes = np.concatenate([classes, np.full(missing, -1, np.int32)])
  return part, classes, weight


def _run_step(
  state: tuple[Any, ...],
  fn: ApplyFn,
  images: Array,
  labels: Array,
  weight: Array,
  taps: ImageTaps,
  maps: dict[str, MapAction],
  *,
  measures: tuple[Measure, ...],
  border: str,
) -> tuple[Any, ...]:
  """Transforms a batch by a whole orbit and updates every measure."""
  moved = _warp_all(images, taps, border)
  output, reference = fn(images)
  moved_output, activations = fn(moved.reshape(-1, *images.shape[1:]))
  split = moved.shape[:2]
  # Activations may be of any floating type, such as bfloat16.
  as_float = jnp.float32
  batch = OrbitBatch(
    {k: a.astype(as_float) for k, a in reference.items()},
    {
      k: a.astype(as_float).reshape(*split, *a.shape[1:])
      for k, a in activations.items()
    },
    output=output.astype(as_float).reshape(split[1], -1),
    transformed_output=moved_output.astype(as_float).reshape(*split, -1),
    images=images,
    transformed_images=moved,
    labels=labels,
    weight=weight,
    maps=maps,
  )
  return _run_update(state, batch, measures=measures)


def _warp_all(images: Array, taps: ImageTaps, border: str) -> Array:
  """(t, b, h, w, c) transformed images."""
  samples = sampling.resample(images, taps.linear)
  if taps.cubic is not None:
    coefficients = sampling.spline_coefficients(images, border)
    smooth = sampling.resample(coefficients, taps.cubic)
    samples = jnp.where(taps.on_grid[None, :, None, None], samples, smooth)
  return jnp.moveaxis(samples, 0, 1).reshape(-1, *images.shape)


def _run_update(
  state: tuple[Any, ...], batch: OrbitBatch, *, measures: tuple[Measure, ...]
) -> tuple[Any, ...]:
  return tuple(m.update(s, batch) for m, s in zip(measures, state, strict=True))


_step = platform.jit(
  _run_step, static_argnames=("measures", "border"), donate_argnums=0
)
_update = platform.jit(
  _run_update, static_argnames="measures", donate_argnums=0
)
