"""What a measure is, what it is given, and sums that several measures share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class MapAction(NamedTuple):
  """How an orbit acts on the positions of one feature map.

  Attributes:
    indices: (t, k, p) positions that t^-1 reads, for each of the p positions.
    weights: (t, k, p) their interpolation weights.
    mask: (t, p) 1 where the position's receptive field, before and after,
      lies inside the canvas.
    defined: (t, p) 1 wherever t^-1 reads inside the map.
    rows: (h, H) matrix that averages image rows over each map row.
    columns: (w, W) the same for columns.
  """

  indices: Any
  weights: Any
  mask: Any
  defined: Any
  rows: Any
  columns: Any


class OrbitBatch(NamedTuple):
  """A batch of images under all transformations of one orbit.

  Attributes:
    reference: {layer: (b, ...)} activations of the untransformed images.
    transformed: {layer: (t, b, ...)} activations of the transformed images.
    output: (b, k) network output for the untransformed images, or None.
    transformed_output: (t, b, k) and for the transformed ones, or None.
    images: (b, H, W, c) untransformed images, or None.
    transformed_images: (t, b, H, W, c), or None.
    labels: (b,) class of each image, -1 where unknown.
    weight: (b,) 1 for an image, 0 for the padding of a ragged last batch. The
      first image of a batch is never padding.
    maps: {layer: MapAction} of the spatial layers whose geometry is known.
  """

  reference: dict[str, Any]
  transformed: dict[str, Any]
  output: Any
  transformed_output: Any
  images: Any
  transformed_images: Any
  labels: Any
  weight: Any
  maps: dict[str, MapAction]


class Row(NamedTuple):
  """One value of a measure.

  Attributes:
    layer: the layer's name, or "output".
    measure: the measure's name.
    value: the value; NaN where it is undefined, with the reason in `note`.
    element: index of the orbit element, or None for the orbit as a whole.
    floor: the same measure for an ideal layer, or NaN.
    dead_fraction: fraction of the layer's units that never vary, or NaN.
    total_variance: the yardstick V, or NaN.
    note: why a value is missing, or empty.
    units: the value of every unit, where the measure has one.
  """

  layer: str
  measure: str
  value: float
  element: int | None = None
  floor: float = float("nan")
  dead_fraction: float = float("nan")
  total_variance: float = float("nan")
  note: str = ""
  units: Any = None


class Measure(NamedTuple):
  """Three pure functions that turn a stream of batches into rows.

  Attributes:
    init: from an `OrbitBatch` of shapes to the empty state, a pytree.
    update: (state, `OrbitBatch`) -> state; jittable. The result of a stream
      does not depend on how it is cut into batches, beyond rounding.
    finalize: from the state, on the host, to the rows.
    name: of the measure, and of its main row.
    needs: what the batches must carry for it: any of "labels", "output" and
      "maps". A layer without a map is left out of `finalize`'s rows.
    min_elements: smallest orbit that the measure is defined for.
  """

  init: Callable[[OrbitBatch], Any]
  update: Callable[[Any, OrbitBatch], Any]
  finalize: Callable[[Any], list[Row]]
  name: str
  needs: frozenset[str] = frozenset()
  min_elements: int = 1


class Moments(NamedTuple):
  """Running count, origin and sums of deviations of every unit.

  The deviations are taken from an origin that starts at the first image and
  follows the mean: sums of raw squares would cancel in float32, and a unit
  that never varies keeps sums of exactly 0.

  Attributes:
    count: number of images.
    origin: about the mean, to rounding.
    total: sum of deviations from the origin: what rounding left of it.
    squares: sum of squared deviations from the origin.
  """

  count: Any
  origin: Any
  total: Any
  squares: Any

  @property
  def variance(self) -> Any:
    """Unbiased variance of every unit (NaN for fewer than two images)."""
    squares = self.squares - self.total**2 / self.count
    return squares / (self.count - 1)


def init_moments(shape: tuple[int, ...]) -> Moments:
  """Moments of nothing, for units of the given shape."""
  zeros = jnp.zeros(shape)
  return Moments(jnp.zeros(()), zeros, zeros, zeros)


def update_moments(
  moments: Moments,
  values: Float[Array, "..."],
  weight: Float[Array, " b"],
  *,
  axis: int = 0,
) -> Moments:
  """Adds a batch: one pass over the values, stable for any batch size.

  Args:
    moments: of the images seen so far.
    values: activations of the batch: the units' shape with the images as
      additional axis.
    weight: 1 for an image, 0 for padding; the first is an image.
    axis: which axis of the values the images are.

  Returns:
    The moments of all images.
  """
  first = lax.index_in_dim(values, 0, axis, keepdims=False)
  old = jnp.where(moments.count > 0, moments.origin, first)
  deviations = values - jnp.expand_dims(old, axis)
  total = moments.total + sum_over_images(deviations, weight, axis=axis)
  squares = moments.squares + sum_over_images(deviations**2, weight, axis=axis)
  count = moments.count + weight.sum()
  # The sums move to the new origin by the step as it is after rounding.
  new = old + total / count
  step = new - old
  return Moments(
    count,
    new,
    total - count * step,
    squares - step * (2 * total - count * step),
  )


def sum_over_images(
  values: Float[Array, "..."], weight: Float[Array, " b"], *, axis: int = 0
) -> Float[Array, "..."]:
  """Weighted sum over the images, unit by unit."""
  shape = [1] * values.ndim
  shape[axis] = -1
  return (values * weight.reshape(shape)).sum(axis)


def sum_over_units(values: Float[Array, "t ..."]) -> Float[Array, " t"]:
  """Sum of everything but the leading axis.

  What is to be summed over images and units is summed over images first: that
  leaves the units side by side for the processor's vector instructions. The
  barrier keeps XLA from merging the two sums into one slow loop.
  """
  values = lax.optimization_barrier(values)
  return values.reshape(values.shape[0], -1).sum(-1)


def layer_shapes(shapes: OrbitBatch) -> Mapping[str, tuple[int, ...]]:
  """Shape of one image's activation, by layer."""
  return {name: s.shape[1:] for name, s in shapes.reference.items()}


def orbit_size(shapes: OrbitBatch) -> int:
  """Number of elements of the orbit."""
  return jax.tree.leaves(shapes.transformed)[0].shape[0]
