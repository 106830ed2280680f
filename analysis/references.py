"""What some measures must know of a layer before the pass: mean, thresholds.

Found from the untransformed images alone, which cost one forward pass more
among those of all transformations.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from analysis.measures import Statistics, sums
from analysis.measures.goodfellow import GLOBAL_RATE
from models import platform

# Images that thresholds are read off, at most; evenly spread.
_MOST = 2000

# By how much of itself a threshold is exceeded. It is the value of one image,
# which the pass computes again, and to rounding only: that depends on how many
# images the network is given at a time.
_ROUNDING = 1e-5

# Images that are merged into the largest values at a time.
_GROUP = 4


class State(NamedTuple):
  """Sums over the untransformed images of one layer.

  Attributes:
    moments: of every unit.
    largest: (2, m, u) largest values of f and of -f, in falling order.
  """

  moments: sums.Moments
  largest: Any


def firing(images: int) -> int:
  """How many of so many images are to exceed the threshold."""
  return max(1, round(GLOBAL_RATE * images))


def kept(images: int) -> int:
  """How many of the largest of so many images' values are kept."""
  return firing(min(images, _MOST)) + 1


def chosen(images: int) -> np.ndarray:
  """(n,) 1 for the images that thresholds are read off."""
  marks = np.zeros(images, np.float32)
  count = min(images, _MOST)
  marks[np.arange(count) * images // count] = 1
  return marks


def init(units: int, images: int) -> State:
  """The state before any image.

  Args:
    units: of the layer.
    images: number of images in all.

  Returns:
    The state.
  """
  shape = (2, kept(images), units)
  return State(sums.init_moments(units), jnp.full(shape, -jnp.inf))


def _run_update(
  state: State,
  values: Float[Array, "b u"],
  weight: Float[Array, " b"],
  marks: Float[Array, " b"],
) -> State:
  moments = sums.update_moments(state.moments, values, weight)
  used = (weight * marks)[:, None] > 0
  both = jnp.stack([jnp.where(used, s * values, -jnp.inf) for s in (1, -1)])
  missing = -values.shape[0] % _GROUP
  both = jnp.pad(both, ((0, 0), (0, missing), (0, 0)), constant_values=-jnp.inf)
  groups = both.reshape(2, -1, _GROUP, values.shape[1])
  # A loop, not all groups after each other: XLA compiles one of them.
  largest, _ = lax.scan(
    lambda largest, group: (_merge(largest, group), None),
    state.largest,
    jnp.moveaxis(groups, 1, 0),
  )
  return State(moments, largest)


def _merge(largest: Any, values: Any) -> Any:
  """Puts values (2, n, u) among the largest (2, m, u), in falling order.

  A value v comes after those that exceed it: the new j-th largest is
  max(old j-th, min(old (j - 1)-th, v)).
  """
  kept, count = largest.shape[1], values.shape[1]
  endless = jnp.full((2, count, largest.shape[2]), jnp.inf)
  ordered = jnp.concatenate([endless, largest], axis=1)
  for i in range(count):
    value = values[:, i][:, None]
    ordered = jnp.maximum(ordered[:, 1:], jnp.minimum(ordered[:, :-1], value))
  return ordered[:, -kept:]


update = platform.jit(_run_update, donate_argnums=0)


def thresholds(largest: Any) -> Any:
  """(2, u) what just the firing share of the images exceeds.

  Args:
    largest: (2, m, u) as in `State`; of NumPy or JAX.

  Returns:
    The last of them, and above it what may be rounding.
  """
  last = largest[:, -1]
  return last + abs(last) * _ROUNDING


def statistics(state: State) -> Statistics:
  """Mean and thresholds of a layer."""
  return Statistics(state.moments.mean, thresholds(state.largest))
