"""Sums over images, orbit elements and units that several measures share.

How a sum is written decides how fast it is on a CPU, by factors of 10 to 40.
XLA turns a reduction over a leading axis into a loop with strides; a tree of
additions of slices becomes one vectorised loop over the units, which lie side
by side in memory. A product with a vector stands for a sum wherever XLA would
else merge the sum with what computes its terms. On an accelerator both are as
good as the plain reduction.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# More slices than this are summed by a plain reduction: a tree would take long
# to compile.
_UNROLL = 64

# Comparators of a sorting network for more values take too long to compile.
_NETWORK = 52

# Terms of a sum over units that are added element by element first.
_CHUNKS = 64


def zeros(*shape: int) -> np.ndarray:
  """Float32 zeros for a state: on the host, where making them is quick."""
  return np.zeros(shape, np.float32)


def add(terms: Sequence[Any]) -> Any:
  """Sum of at least one array, as a balanced tree."""
  terms = list(terms)
  while len(terms) > 1:
    pairs = zip(terms[::2], terms[1::2], strict=False)
    terms = [a + b for a, b in pairs] + terms[len(terms) & ~1 :]
  return terms[0]


def sum_over_images(
  values: Float[Array, "... b u"], weight: Float[Array, " b"]
) -> Float[Array, "... u"]:
  """Weighted sum over the images, unit by unit."""
  if values.ndim == 2:
    return weight @ values
  if len(weight) > _UNROLL:
    return jnp.einsum("...bu,b->...u", values, weight)
  return add([values[..., i, :] * weight[i] for i in range(len(weight))])


def sum_over_orbit(values: Float[Array, "t ..."]) -> Float[Array, "..."]:
  """Sum over the elements of an orbit."""
  if len(values) > _UNROLL:
    return values.sum(0)
  return add([values[i] for i in range(len(values))])


def sum_over_units(values: Float[Array, "... u"]) -> Float[Array, "..."]:
  """Sum over the last axis."""
  return values @ jnp.ones(values.shape[-1], values.dtype)


def sum_terms_over_units(
  term: Callable[..., Any], *arrays: Float[Array, "... u"]
) -> Float[Array, "..."]:
  """Sum over the last axis of a function of several arrays' elements.

  Args:
    term: elementwise, of as many arrays.
    *arrays: of the same number of units.

  Returns:
    The sums.
  """
  units = arrays[0].shape[-1]
  width = units // _CHUNKS
  starts = range(0, width * _CHUNKS, width) if width else ()
  parts = [slice(i, i + width) for i in starts]
  rest = slice(width * _CHUNKS, None)
  result: Any = 0.0
  if parts:
    terms = [term(*(a[..., part] for a in arrays)) for part in parts]
    result = sum_over_units(add(terms))
  if width * _CHUNKS < units:
    result = result + sum_over_units(term(*(a[..., rest] for a in arrays)))
  return result


def variance_over_orbit(
  transformed: Float[Array, "t b u"],
) -> Float[Array, "b u"]:
  """Unbiased variance over the orbit of every image and unit.

  Deviations are taken from the orbit's first element: sums of raw squares would
  cancel in float32, and a unit that does not move has exactly 0. From the
  untransformed activation it would not, where the identity is no element: a
  unit that is dead over the orbit only would be infinite instead of 0 / 0.
  """
  count = len(transformed)
  if count > _UNROLL:
    difference = transformed - transformed[:1]
    first, second = difference.sum(0), (difference**2).sum(0)
  else:
    differences = [transformed[i] - transformed[0] for i in range(1, count)]
    first, second = add(differences), add([d * d for d in differences])
  return jnp.maximum(second - first * first / count, 0) / (count - 1)


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
  def mean(self) -> Any:
    """Mean of every unit."""
    return self.origin + self.total / self.count

  @property
  def variance(self) -> Any:
    """Unbiased variance of every unit (NaN for fewer than two images)."""
    squares = self.squares - self.total**2 / self.count
    return squares / (self.count - 1)


def init_moments(*shape: int) -> Moments:
  """Moments of nothing, for units of the given shape."""
  nothing = zeros(*shape)
  return Moments(zeros(), nothing, nothing, nothing)


def update_moments(
  moments: Moments, values: Float[Array, "... b u"], weight: Float[Array, " b"]
) -> Moments:
  """Adds a batch: stable for any batch size.

  Args:
    moments: of the images seen so far, units of shape (..., u).
    values: activations of the batch.
    weight: 1 for an image, 0 for padding; the first is an image.

  Returns:
    The moments of all images.
  """
  old = jnp.where(moments.count > 0, moments.origin, values[..., 0, :])
  deviations = values - old[..., None, :]
  total = moments.total + sum_over_images(deviations, weight)
  squares = moments.squares + sum_over_images(deviations**2, weight)
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


def merge_moments(one: Moments, other: Moments) -> Moments:
  """Moments of the images of both.

  Args:
    one: of some images, possibly none.
    other: of other images, at least one.

  Returns:
    Their moments, with the origin of `other`: exactly `other` if `one` is of
    no image.
  """
  step = jnp.where(one.count > 0, other.origin - one.origin, 0)
  return Moments(
    one.count + other.count,
    other.origin,
    other.total + one.total - one.count * step,
    other.squares + one.squares - step * (2 * one.total - one.count * step),
  )


def pair_differences(
  values: Float[Array, "n ..."], count: Any = None
) -> Float[Array, "..."]:
  """Sum of |a - b| over all pairs of values along the leading axis.

  Sorted, the k-th of n values is on the high side of k pairs and on the low
  side of the others: the sum is that of (2 k - n + 1) times it, k from 0.

  Args:
    values: the values.
    count: how many of them count, if the last ones are padding.

  Returns:
    The sums.
  """
  n = len(values)
  # Measured from one of the values: equal ones have no difference at all, and
  # a large mean does not cancel.
  values = values - values[:1]
  if count is not None:
    # Padding goes to the end of the order, where its factor is 0.
    real = jnp.arange(n, dtype=values.dtype) < count
    real = real.reshape(-1, *[1] * (values.ndim - 1))
    values = jnp.where(real, values, jnp.finfo(values.dtype).max)
  rank = jnp.arange(n, dtype=values.dtype)
  total = jnp.asarray(n if count is None else count, values.dtype)
  factor = jnp.where(rank < total, 2 * rank - total + 1, 0)
  if n > _NETWORK:
    ordered = jnp.sort(values, axis=0)
    return jnp.tensordot(factor, ordered, 1)
  lanes = _sorted([values[i] for i in range(n)])
  return add([factor[i] * lane for i, lane in enumerate(lanes)])


def _sorted(lanes: list[Any]) -> list[Any]:
  """Arrays in order, element by element: Batcher's odd-even merge sort."""
  for i, j in comparators(len(lanes)):
    ordered = lanes[i] < lanes[j]
    lanes[i], lanes[j] = (
      jnp.where(ordered, lanes[i], lanes[j]),
      jnp.where(ordered, lanes[j], lanes[i]),
    )
  return lanes


def comparators(n: int) -> list[tuple[int, int]]:
  """A sorting network of n values, pairs to put in order one after the other.

  Source: K. Batcher, "Sorting networks and their applications", AFIPS 1968.
  """
  result = []
  merged = 1
  while merged < n:
    gap = merged
    while gap:
      for start in range(gap % merged, n - gap, 2 * gap):
        for i in range(start, min(start + gap, n - gap)):
          if i // (2 * merged) == (i + gap) // (2 * merged):
            result.append((i, i + gap))
      gap //= 2
    merged *= 2
  return result
