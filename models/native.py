"""Convolutions by our own loops, on a CPU: where, and how XLA is told.

`models.kernels` says what they are. They serve training, where the kernel's
gradient is what XLA is slowest at. XLA's own convolutions serve everything
else: measuring, accelerators, several devices, other number types, and Pythons
that llvmlite does not have.
"""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from models import platform
from models.geometry import output_size

# Names are stored in compiled programs, which outlive a version of this file.
_TARGETS = {
  name: f"partial_invariance.{name}.1" for name in ("convolve", "differentiate")
}

# For fewer input channels XLA's gradient of the input is not slower, and left
# out where nobody asks for it: that of the images.
_LEAST_CHANNELS = 16

_MOST_STRIDE = 8  # what `models.kernels.images` makes room for


@functools.cache
def loads() -> bool:
  """Compiles the loops and tells XLA where they are; whether both worked."""
  if os.name != "posix":
    return False  # they wait by `sched_yield`
  try:
    calls: Any = importlib.import_module("models.kernels.calls")
    addresses = calls.addresses()
  except (ImportError, RuntimeError):
    return False  # no llvmlite for this Python, or no LLVM for this machine
  for name, address in addresses.items():
    capsule = jax.ffi.pycapsule(address)
    jax.ffi.register_ffi_target(_TARGETS[name], capsule, platform="cpu")
  return _answers()


def _answers() -> bool:
  """Whether this XLA can call them: a convolution of one number."""
  with jax.ensure_compile_time_eval():  # somebody may be tracing
    x = jnp.ones((1, 1, 1, 1))
    try:
      y = jax.jit(lambda x: convolution(x, x, x[0, 0, 0], 1, 0, False))(x)
    except jax.errors.JaxRuntimeError:
      return False
    return float(y[0, 0, 0, 0]) == 2


def usable(x: Array, kernel: Array, stride: int, padding: int) -> bool:
  """Whether the loops compute a convolution, and are what should.

  Args:
    x: maps.
    kernel: weights.
    stride: positions the kernel moves at each step.
    padding: positions added on each side.
  """
  return (
    platform.on_cpu()
    and x.dtype == kernel.dtype == jnp.float32
    and x.size > 0
    and padding < kernel.shape[0] == kernel.shape[1]
    and kernel.shape[0] <= min(x.shape[1:3]) + 2 * padding
    and stride <= _MOST_STRIDE
    # XLA cannot divide among devices what it does not know.
    and jax.sharding.get_abstract_mesh().empty
    and loads()
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def convolution(
  x: Float[Array, "n h w c"],
  kernel: Float[Array, "k k c o"],
  bias: Float[Array, " o"],
  stride: int,
  padding: int,
  rectify: bool,
) -> Float[Array, "n p q o"]:
  """As `layers.convolution`, where `usable`; reverse mode only.

  Args:
    x: input maps.
    kernel: weights.
    bias: one number an output channel.
    stride: positions the kernel moves at each step.
    padding: zeros added on each side.
    rectify: whether to make negative outputs 0.

  Returns:
    The output.
  """
  size = kernel.shape[0]
  p, q = (output_size(s, size, padding, stride) for s in x.shape[1:3])
  shape = (x.shape[0], p, q, kernel.shape[3])
  call = _call("convolve", [shape], stride, padding, rectify)
  return call(x, kernel, bias)[0]


def _call(
  name: str,
  shapes: list[tuple[int, ...]],
  stride: int,
  padding: int,
  rectify: bool,
) -> Callable[..., Sequence[Array]]:
  """The function of arrays that a target computes."""
  function = jax.ffi.ffi_call(
    _TARGETS[name],
    [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
    vmap_method="sequential",
  )
  numbers = {"padding": padding, "rectify": rectify, "step": stride}
  return functools.partial(
    function, **{name: np.int64(value) for name, value in numbers.items()}
  )


def _forward(
  x: Array, kernel: Array, bias: Array, *how: Any
) -> tuple[Array, tuple[Array, Array, Array]]:
  y = convolution(x, kernel, bias, *how)
  return y, (x, kernel, y)


def _backward(
  stride: int,
  padding: int,
  rectify: bool,
  saved: tuple[Array, Array, Array],
  g: Array,
) -> tuple[Array, Array, Array]:
  x, kernel, y = saved
  shapes = [kernel.shape, kernel.shape[3:], x.shape]
  if kernel.shape[2] < _LEAST_CHANNELS:
    shapes.pop()
  call = _call("differentiate", shapes, stride, padding, rectify)
  d_kernel, d_bias, *d_x = call(x, kernel, g, y)
  if d_x:
    return d_x[0], d_kernel, d_bias
  if rectify:
    g = jnp.where(y > 0, g, jnp.zeros_like(g))
  return _gradient_of_maps(x, kernel, g, stride, padding), d_kernel, d_bias


def _gradient_of_maps(
  x: Array, kernel: Array, g: Array, stride: int, padding: int
) -> Array:
  """XLA's."""

  def convolve(x: Array) -> Array:
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(padding, padding)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  return jax.linear_transpose(convolve, x)(g)[0]


convolution.defvjp(_forward, _backward)
