"""Feature maps brought back to where the untransformed image has them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from analysis import sampling
from analysis.measures.base import MapAction


def align(
  maps: Float[Array, "t b h w c"], action: MapAction
) -> Float[Array, "t b p c"]:
  """Undoes the transformations on maps: t^-1 f(t x), 0 where it reads outside.

  Args:
    maps: of the images transformed by each element.
    action: how the orbit acts on them.

  Returns:
    The maps with positions in reading order.
  """

  def element(maps: Any, indices: Any, weights: Any) -> Any:
    return sampling.resample(maps, sampling.Taps(indices, weights))

  return jax.vmap(element)(maps, action.indices, action.weights)


def area_average(
  images: Float[Array, "... H W c"], action: MapAction
) -> Float[Array, "... h w 1"]:
  """Images brought to the map's resolution, channels averaged."""
  grey = images.mean(axis=-1)
  # Two plain products of matrices: as one of three it is slow on a CPU.
  across = grey @ action.columns.T
  means = jnp.swapaxes(across, -1, -2) @ action.rows.T
  return jnp.swapaxes(means, -1, -2)[..., None]
