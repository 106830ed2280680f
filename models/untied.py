"""The locally connected layer: a convolution that does not share its weights.

Each position of the output has a kernel of its own, with the receptive field
that a convolution of the same size has there. It is the control for what weight
sharing is worth: H x W times the parameters, and no equivariance.

References:
  Y. LeCun, "Generalization and network design strategies", 1989 (local
  connections with and without shared weights).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from models import layers


def locally_connected(
  x: Float[Array, "n h w c"],
  kernel: Float[Array, "p q i o"],
  bias: Float[Array, "p q o"],
  *,
  kernel_size: int,
  stride: int = 1,
  padding: int = 0,
) -> Float[Array, "n p q o"]:
  """Weighted sums of patches, with weights of their own at every position.

  Args:
    x: input maps.
    kernel: weights of each output position; i runs over the patch's inputs,
      channel by channel (c, row, column).
    bias: one number an output position and channel.
    kernel_size: width of the patches.
    stride: positions from one patch to the next.
    padding: zeros added on each side.

  Returns:
    Maps of `output_size(h, kernel_size, padding, stride)` positions.
  """
  maps = lax.conv_general_dilated_local(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    (kernel_size, kernel_size),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return maps + bias[None]


class LocallyConnected(nn.Module):
  """`locally_connected` with weights of its own (He initialisation)."""

  features: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  border: str = "zero"
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps of `features` channels."""
    x = layers.pad_map(x, self.padding, border=self.border)
    height, width = (n - self.kernel_size for n in x.shape[1:3])
    positions = (height // self.stride + 1, width // self.stride + 1)
    inputs = self.kernel_size**2 * x.shape[-1]
    # As in a convolution, fan-in is the size of a patch.
    init = nn.initializers.variance_scaling(
      2.0,
      "fan_in",
      "truncated_normal",
      in_axis=2,
      out_axis=3,
      batch_axis=(0, 1),
    )
    kernel = self.param("kernel", init, (*positions, inputs, self.features))
    shape = (*positions, self.features)
    bias = jnp.zeros(shape)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, shape)
    return locally_connected(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      bias.astype(self.dtype),
      kernel_size=self.kernel_size,
      stride=self.stride,
    )
