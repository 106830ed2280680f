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

import pandas as pd

from analysis import checks, memory, native, network, passes
from analysis.actions import Geometry, Orbit, as_orbits, orbit
from analysis.measures import Measure, resolve
from analysis.passes import Given, Pass

__all__ = ["Orbit", "measure", "measure_arrays", "orbit"]


def measure(
  apply_fn: network.Network,
  images: Any,
  transformations: Any,
  measures: Sequence[str | Measure],
  *,
  geometry: Mapping[str, Geometry] | None = None,
  labels: Any = None,
  batch_size: int | None = None,
  memory_limit: int | None = None,
  per_unit: bool = False,
  devices: Sequence[Any] | None = None,
  progress: Callable[[int], None] | None = None,
) -> Any:
  """Measures a network layer by layer under orbits of transformations.

  Args:
    apply_fn: jittable, from images to (output, {layer: activation}), each
      array with the images as leading axis. A `jax.tree_util.Partial` over
      parameters is compiled once for all parameters of the same shapes, and
      once for all orbits of as many elements.
    images: (n, h, w, c) floating point in [0, 1], or uint8 in 0..255.
    transformations: orbits, (family, thetas) pairs, or {family name: thetas}.
    measures: names (see `analysis.measures.MEASURES`) or `Measure`s; "all" for
      every measure.
    geometry: where each layer's positions lie in the image, in forward order.
      A spatial layer without it has no equivariance value, and its row says
      why.
    labels: (n,) classes, for measures that need them.
    batch_size: images a forward pass; chosen by the size of the activations if
      None. The result does not depend on it beyond rounding.
    memory_limit: bytes that the process (on a CPU) or each device may use, by
      the estimate of `analysis.memory`; three quarters of what there is if
      None. It bounds the images a forward pass, whatever was asked for; the
      result does not depend on it beyond rounding.
    per_unit: whether to return the values of every unit too, where a measure
      has them.
    devices: divide the images among these; jax's default device if None.
    progress: called after every step with the number of images done in it.

  Returns:
    One row a value, columns `analysis.tables.COLUMNS`. `theta` holds an
    element's parameters, "d/d" and a parameter for a derivative, or "all" for a
    value of the whole orbit, whose `magnitude` and `displacement_px` are then
    the largest of its elements. With `per_unit`, (table, {orbit: {row's
    measure: {layer: array of the layer's unit shape}}}).

  Raises:
    MemoryLimitError: the limit is too small for one image.
    ValueError: wrong images, labels, transformations or measures; a function
      that `analysis.network` refuses; activations that are not finite. The
      message names the value.
  """
  orbits = as_orbits(transformations)
  chosen = resolve(measures)
  images = checks.check_images(images)
  labels = checks.check_labels(labels, len(images), chosen)
  for o in orbits:
    checks.check_orbit_size(chosen, len(o.thetas), o.name)
  fn = network.as_partial(apply_fn)
  output, layers = network.probe(fn, images, geometry or {})
  run = Pass(
    fn=fn,
    images=images,
    labels=labels,
    layers=layers,
    rectified=network.rectified(fn, images.shape[1:]),
    output=output.shape[1:],
    geometry=geometry or {},
    measures=chosen,
    batch_size=batch_size,
    memory_limit=memory_limit or memory.default_limit(),
    devices=tuple(devices or ()),
    progress=progress,
  )
  with native.one_blas_thread():
    statistics = passes.statistics(run)
    results = [passes.measure_orbit(run, o, statistics) for o in orbits]
  table = pd.concat([r.table() for r in results], ignore_index=True)
  if not per_unit:
    return table
  return table, {
    o.name: r.units() for o, r in zip(orbits, results, strict=True)
  }


def measure_arrays(
  reference: Mapping[str, Any],
  transformed: Mapping[str, Any],
  measures: Sequence[str | Measure],
  *,
  per_unit: bool = False,
  output: str | None = None,
  labels: Any = None,
  batch_size: int = 32,
  transformations: Any = None,
  geometry: Mapping[str, Geometry] | None = None,
  image_shape: tuple[int, int] | None = None,
) -> Any:
  """The same measures on activations that somebody else computed.

  Args:
    reference: {layer: (n, ...)} activations of the untransformed images.
    transformed: {layer: (t, n, ...)} and of the transformed ones. The orbit is
      what is here: it holds the identity only if an element is the identity.
    measures: names or `Measure`s. Those that need what is not given (maps
      without transformations and geometry, derivatives of the network) have a
      row, NaN with the reason.
    per_unit: whether to return the values of every unit too, where a measure
      has them: the variance family, with tmeasures' conventions.
    output: the layer that is the network's output, for measures that need it;
      by default the one called "logits" or "output", or the only one.
    labels: (n,) classes, for measures that need them.
    batch_size: images a step; measures of pairs take all images at once.
    transformations: the one orbit of t elements that was applied, as
      `measure` takes it, if known.
    geometry: where each layer's positions lie in the image, if known; with
      `transformations` it makes equivariance known too, but for its floor.
    image_shape: (height, width) of the images, needed with `geometry`.

  Returns:
    The table, `theta` being the index of the orbit element unless
    `transformations` are given; with `per_unit`, (table, {row's measure:
    {layer: array of the layer's unit shape}}).

  Raises:
    ValueError: layers, shapes, labels, transformations or measures that do not
      fit, or activations that are not finite.
  """
  chosen = resolve(measures)
  layers, count, elements = checks.check_arrays(reference, transformed)
  output = checks.output_layer(output, layers, chosen)
  labels = checks.check_labels(labels, count, chosen)
  checks.check_orbit_size(chosen, elements, "given")
  o = checks.check_given_orbit(transformations, elements, geometry, image_shape)
  given = Given(
    reference=reference,
    transformed=transformed,
    output=output,
    labels=labels,
    geometry=geometry or {},
    image_shape=image_shape,
    measures=chosen,
    batch_size=batch_size,
  )
  result = passes.measure_given(given, o)
  return (result.table(), result.units()) if per_unit else result.table()
