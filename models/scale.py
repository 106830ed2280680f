"""Convolutions over scales: the same kernel on a pyramid of the map.

The map is magnified and reduced about its centre, every copy is convolved with
the same kernel, the results are brought back to the map's own scale, and the
largest is taken. A detector so finds its pattern at several sizes, and
magnifying the image by one step of the pyramid moves the maximum on to the next
copy: the layer is equivariant to such scalings, up to resampling and to what
the ends of the pyramid lose.

References:
  A. Kanazawa, A. Sharma and D. Jacobs, "Locally scale-invariant convolutional
  neural networks", 2014, arXiv:1412.5104.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models import layers

Map = Float[Array, "n h w c"]


def rescale(x: Map, factor: float) -> Map:
  """Magnifies a map about its centre, bilinearly, on the same canvas.

  Args:
    x: input maps.
    factor: above 1 to magnify; below, zeros come in from outside.

  Returns:
    Maps as high and wide as `x`.

  Raises:
    ValueError: a factor that is not positive.
  """
  if factor <= 0:
    raise ValueError(f"scale factor {factor} is not positive")
  if factor == 1:
    return x
  rows, columns = (
    jnp.asarray(_scaling_matrix(n, factor), x.dtype) for n in x.shape[1:3]
  )
  return jnp.einsum("pi,nijc,qj->npqc", rows, x, columns)


@functools.cache
def _scaling_matrix(size: int, factor: float) -> np.ndarray:
  """(size, size) float32: row p reads at centre + (p - centre) / factor.

  Reducing, each row averages over the 1 / factor positions that it stands
  for: the triangle of linear interpolation is widened, against aliasing.
  """
  centre = (size - 1) / 2
  read = centre + (np.arange(size) - centre) / factor
  width = max(1.0, 1 / factor)
  distance = np.abs(read[:, None] - np.arange(size)[None])
  weights = np.maximum(1 - distance / width, 0) / width
  return weights.astype(np.float32)


def scale_convolution(
  x: Map,
  kernel: Float[Array, "k k c o"],
  bias: Float[Array, " o"],
  *,
  scales: tuple[float, ...],
  stride: int = 1,
  padding: int = 0,
  train: bool = False,
) -> Float[Array, "n p q o"]:
  """The largest response over a pyramid; see the module.

  Args:
    x: input maps.
    kernel: weights shared by all positions and scales.
    bias: one number an output channel.
    scales: factors by which the map is magnified.
    stride: positions the kernel moves at each step.
    padding: zeros added on each side.
    train: as for `layers.convolution`.

  Returns:
    Maps of `output_size(h, k, padding, stride)` positions.
  """
  responses = [
    rescale(
      layers.convolution(
        rescale(x, scale),
        kernel,
        jnp.zeros_like(bias),
        stride=stride,
        padding=padding,
        train=train,
      ),
      1 / scale,
    )
    for scale in scales
  ]
  return functools.reduce(jnp.maximum, responses) + bias[None, None, None]


class ScaleConv(nn.Module):
  """`scale_convolution` with weights of its own (He initialisation)."""

  features: int
  kernel_size: int
  scales: tuple[float, ...]
  stride: int = 1
  padding: int = 0
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Maps of `features` channels."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    bias = jnp.zeros(self.features)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return scale_convolution(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      bias.astype(self.dtype),
      scales=self.scales,
      stride=self.stride,
      padding=self.padding,
      train=train,
    )
