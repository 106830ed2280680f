"""What a network must be to be measured, checked before anything is measured.

A network is any function `images -> (output, {layer: activation})` that jax
can trace. Whatever else somebody brings is refused here with one line that
names the layer and the value, rather than deep inside the pass.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.rectified import rectified as find_rectified

Network = Callable[[Any], tuple[Any, Mapping[str, Any]]]
Units = dict[str, tuple[int, ...]]

# An image whose activation changes by more than this share with the other
# images of its batch is not measured alone; rounding stays far below.
_BATCH_TOLERANCE = 1e-3


def as_partial(fn: Any) -> jax.tree_util.Partial:
  """A network as a pytree: its parameters are arguments, not constants.

  Args:
    fn: the function, or a `jax.tree_util.Partial` over its parameters, which
      is compiled once for all parameters of the same shapes.

  Returns:
    The function as a `Partial`; itself if it is one.

  Raises:
    ValueError: not a function.
  """
  if isinstance(fn, jax.tree_util.Partial):
    return fn
  if not callable(fn):
    raise ValueError(
      f"a network is a function of images, got {type(fn).__name__}"
    )
  try:
    hash(fn)
  except TypeError:
    # A callable object that holds arrays: jit tells functions apart by hash.
    return jax.tree_util.Partial(lambda images: fn(images))
  return jax.tree_util.Partial(fn)


def probe(
  fn: Network, images: np.ndarray, geometry: Mapping[str, Any]
) -> tuple[jax.ShapeDtypeStruct, Units]:
  """Checks a network and finds its layers.

  It is traced for 2 and for 3 images, and run on the first two: one small
  compilation, shared by all parameters of the same shapes.

  Args:
    fn: from images (n, h, w, c) in [0, 1] to (output, {layer: activation}).
    images: (n, h, w, c), at least two, floating point in [0, 1] or uint8.
    geometry: by layer. Its order is taken if it names all layers; else the
      order is the one that the function returns, which is sorted by name if
      the function is itself jitted.

  Returns:
    The output's shape for two images, and the unit shape of every layer in
    forward order.

  Raises:
    ValueError: a function that raises, is not jittable, or returns anything
      but (output, {name: array}); layers without the images as leading axis,
      that are not floating point, that vary between calls, that are not
      finite, or that mix the images of a batch.
  """
  fn = as_partial(fn)
  shape = images.shape[1:]
  output, layers = _trace(fn, 2, shape)
  _check_same(layers, _trace(fn, 3, shape)[1])
  _check_values(fn, as_floats(images[:2]))
  names = list(layers)
  if set(names) <= set(geometry):
    names = [name for name in geometry if name in layers]
  return output, {name: layers[name].shape[1:] for name in names}


def unit_shapes(fn: Network, image_shape: tuple[int, ...]) -> Units:
  """Unit shape of each layer by tracing alone, in the order returned.

  Args:
    fn: the network.
    image_shape: (h, w, c).

  Returns:
    The shape of one image's activation, by layer.

  Raises:
    ValueError: as `probe`, but for values and for what varies.
  """
  _, layers = _trace(as_partial(fn), 2, image_shape)
  return {name: struct.shape[1:] for name, struct in layers.items()}


def rectified(fn: Network, image_shape: tuple[int, ...]) -> dict[str, str]:
  """Layers that are the ReLU of another one: see `analysis.rectified`.

  Args:
    fn: the network, as `probe` has checked it; it is not traced again.
    image_shape: (h, w, c).

  Returns:
    By the name of each, that of the layer it is the ReLU of.
  """
  example = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  traced = _run.trace(as_partial(fn), example)
  names = traced.out_info[2].names
  return find_rectified(traced.jaxpr.jaxpr, names)


def as_floats(images: np.ndarray) -> np.ndarray:
  """Images as float32 in [0, 1], from floating point or uint8."""
  scale = 255 if images.dtype == np.uint8 else 1
  return images.astype(np.float32) / np.float32(scale)


# --- calling -----------------------------------------------------------------


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Names:
  """Names of layers, in order: jit would sort the keys of a dictionary."""

  names: tuple[str, ...]


def _forward(fn: Network, images: Any) -> tuple[Any, tuple[Any, ...], _Names]:
  """The network's result with its types checked, as jit can return it."""
  try:
    result = fn(images)
  except Exception as error:
    raise ValueError(_refusal(error, len(images))) from error
  _check_types(result)
  output, layers = result
  return output, tuple(layers.values()), _Names(tuple(layers))


# Plain jit, not this platform's: tracing and running share one cache, so that
# the network is traced once for each number of images.
_run = jax.jit(_forward)


def _refusal(error: Exception, count: int) -> str:
  """One line from an exception of the user's code."""
  lines = str(error).strip().splitlines() or ["no message"]
  # The error of a callback comes as a traceback, its last line the message.
  callback = isinstance(error, jax.errors.JaxRuntimeError)
  what = f"{type(error).__name__}: {lines[-1 if callback else 0]}"
  if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
    return (
      f"the function is not jittable: {what.rstrip('.')}; use jax.numpy on"
      " arrays, and no Python control flow that depends on their values"
    )
  return f"the function raises {what} (for {count} images)"


def _trace(
  fn: jax.tree_util.Partial, count: int, shape: tuple[int, ...]
) -> tuple[jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
  """Shapes for `count` images, checked one by one."""
  example = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
  output, values, names = _run.eval_shape(fn, example)
  _check_struct("the output", output, count)
  for name, struct in zip(names.names, values, strict=True):
    _check_struct(f"layer {name!r}", struct, count)
  return output, dict(zip(names.names, values, strict=True))


# --- checks ------------------------------------------------------------------


def _check_types(result: Any) -> None:
  pair = isinstance(result, tuple) and len(result) == 2
  if not pair or not isinstance(result[1], Mapping):
    got = _type_name(result)
    if isinstance(result, tuple):
      got += f" of {', '.join(map(_type_name, result)) or 'nothing'}"
    raise ValueError(
      f"the function must return (output, {{name: activation}}), got {got}"
    )
  output, layers = result
  if not layers:
    raise ValueError(
      "the function returned no activation to measure: its dictionary is empty"
    )
  for name in layers:
    if not isinstance(name, str):
      raise ValueError(
        f"layer {name!r} has a name of type {type(name).__name__}: use str"
      )
  _check_array("the output", output)
  for name, value in layers.items():
    _check_array(f"layer {name!r}", value)


def _type_name(value: Any) -> str:
  """The type as a user knows it: tracers have names of their own."""
  return "array" if isinstance(value, jax.Array) else type(value).__name__


def _check_array(where: str, value: Any) -> None:
  if not isinstance(value, jax.Array | np.ndarray):
    raise ValueError(
      f"{where} is of type {type(value).__name__}, expected one array"
    )


def _check_struct(where: str, struct: jax.ShapeDtypeStruct, count: int) -> None:
  if len(struct.shape) < 2 or struct.shape[0] != count:
    raise ValueError(
      f"{where} has shape {struct.shape} for {count} images: the images must"
      " be the leading axis, with at least one more"
    )
  if 0 in struct.shape:
    raise ValueError(f"{where} has shape {struct.shape}: it has no unit")
  if not jnp.issubdtype(struct.dtype, jnp.floating):
    raise ValueError(
      f"{where} is of type {struct.dtype}: activations must be real floating"
      " point; convert them with .astype(jnp.float32)"
    )


def _check_same(
  two: Mapping[str, jax.ShapeDtypeStruct],
  three: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
  """Refuses layers that vary between two calls, of 2 and of 3 images."""
  if set(two) != set(three):
    parts = [
      f"{', '.join(map(repr, sorted(only)))} only in a call of {count} images"
      for only, count in (
        (set(two) - set(three), 2),
        (set(three) - set(two), 3),
      )
      if only
    ]
    raise ValueError(
      f"the layers vary from call to call: {' and '.join(parts)}"
    )
  for name, struct in two.items():
    if struct.shape[1:] != three[name].shape[1:]:
      raise ValueError(
        f"layer {name!r} varies from call to call: its units have shape"
        f" {struct.shape[1:]} for 2 images and {three[name].shape[1:]} for 3"
      )


def _check_values(fn: jax.tree_util.Partial, images: np.ndarray) -> None:
  """Refuses values that are not finite, and layers that mix the images."""
  values = _values(fn, images)
  for where, array in values.items():
    bad = ~np.isfinite(array).reshape(len(array), -1)
    if bad.any():
      raise ValueError(
        f"{where} has {bad.sum()} of {bad.size} values that are not finite"
        f" (NaN or infinite), the first for image {bad.any(axis=1).argmax()}"
      )
  # The same first image beside another second one: the same program, so that
  # what differs is no rounding.
  other = np.stack([images[0], 1 - images[1]])
  for where, array in _values(fn, other).items():
    first = values[where][0]
    change = np.abs(array[0] - first).max()
    if change > _BATCH_TOLERANCE * np.abs(first).max():
      raise ValueError(
        f"{where} of one image depends on the other images of the batch (it"
        f" changes by up to {change:.3g}): put normalisation and dropout into"
        " inference mode"
      )


def _values(
  fn: jax.tree_util.Partial, images: np.ndarray
) -> dict[str, np.ndarray]:
  """The output and all activations, on the host."""
  try:
    output, values, names = jax.device_get(_run(fn, images))
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(_refusal(error, len(images))) from error
  where = ["the output", *(f"layer {name!r}" for name in names.names)]
  arrays = [np.asarray(a, np.float32) for a in (output, *values)]
  return dict(zip(where, arrays, strict=True))
