"""What a user's function may be, and the one line for each that it may not."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import network
from tests.analysis import networks

_IMAGES = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)


def found(fn, images=_IMAGES, geometry=None):
  output, layers = network.probe(fn, images, geometry or {})
  return output.shape, layers


def refusal(fn, images=_IMAGES):
  with pytest.raises(ValueError, match=r"\S") as caught:
    network.probe(fn, images, {})
  message = str(caught.value)
  assert "\n" not in message
  return message


# --- what is accepted --------------------------------------------------------


def test_layers_come_in_forward_order_with_their_unit_shapes():
  def fn(x):
    return x.mean(axis=(1, 2)), {"z": x[:, 1:], "a": x.mean(axis=(1, 2))}

  shape, layers = found(fn)
  assert shape == (2, 1)
  assert list(layers.items()) == [("z", (7, 8, 1)), ("a", (1,))]


def test_a_geometry_that_names_all_layers_gives_the_order():
  """jit sorts the dictionary of a function that is itself jitted."""
  fn = jax.jit(lambda x: (x, {"z": x, "a": x}))
  assert list(found(fn)[1]) == ["a", "z"]
  assert list(found(fn, geometry={"z": 0, "a": 0, "other": 0})[1]) == ["z", "a"]
  assert list(found(fn, geometry={"z": 0})[1]) == ["a", "z"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_any_floating_type_is_fine(dtype):
  assert found(lambda x: (x, {"a": x.astype(dtype)}))[1] == {"a": (8, 8, 1)}


def test_images_may_be_bytes_and_reach_the_function_in_0_to_1():
  seen = []

  def fn(x):
    jax.debug.callback(lambda v: seen.append(np.asarray(v)), x)
    return x, {"a": x}

  found(fn, np.full((2, 4, 4, 1), 51, np.uint8))
  jax.effects_barrier()
  np.testing.assert_array_equal(seen[0], np.float32(51) / np.float32(255))


def test_other_parameters_of_the_same_network_are_not_traced_again():
  traces = []

  def fn(scale, x):
    traces.append(len(x))
    return networks.identity(x * scale)

  for scale in (1.0, 2.0):
    found(jax.tree_util.Partial(fn, jnp.float32(scale)))
  assert traces == [2, 3]


class Callable:
  """An object that is called, and that no dictionary can hold."""

  __hash__ = None

  def __call__(self, x):
    return networks.identity(x)


@pytest.mark.parametrize(
  "fn",
  [
    networks.identity,
    functools.partial(networks.identity),
    jax.jit(networks.identity),
    jax.tree_util.Partial(networks.identity),
    Callable(),
  ],
)
def test_any_kind_of_function_will_do(fn):
  assert found(fn) == ((2, 64), {"pixels": (8, 8, 1)})


def test_shapes_alone_can_be_had_without_running():
  assert network.unit_shapes(networks.plain, (16, 16, 1)) == {
    "conv1": (16, 16, 3),
    "relu1": (16, 16, 3),
    "pool1": (8, 8, 3),
    "conv2": (4, 4, 4),
    "logits": (10,),
  }


# --- what is refused ---------------------------------------------------------


def _raise(x):
  raise KeyError("no such layer")


def _callback(x):
  def fail(_):
    raise OSError("no such file")

  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  return x, {"a": jax.pure_callback(fail, shape, x)}


@pytest.mark.parametrize(
  ("fn", "message"),
  [
    (_raise, "the function raises KeyError: 'no such layer' (for 2 images)"),
    (_callback, "the function raises JaxRuntimeError: OSError: no such file"),
    (lambda x: x, "must return (output, {name: activation}), got array"),
    (lambda x: [x, {"a": x}], "{name: activation}), got list"),
    (lambda x: (x, x), "got tuple of array, array"),
    (lambda x: (), "got tuple of nothing"),
    (lambda x: (x, {}), "the function returned no activation to measure"),
    (lambda x: (x, {3: x}), "layer 3 has a name of type int: use str"),
    (
      lambda x: (x, {"conv": [x, x]}),
      "layer 'conv' is of type list, expected one array",
    ),
    (lambda x: (None, {"a": x}), "the output is of type NoneType, expected"),
    (
      lambda x: (x, {"conv": x[0]}),
      "layer 'conv' has shape (8, 8, 1) for 2 images: the images must be the"
      " leading axis, with at least one more",
    ),
    (
      lambda x: (x, {"loss": x.mean(axis=(1, 2, 3))}),
      "layer 'loss' has shape (2,) for 2 images",
    ),
    (
      lambda x: (x.sum(), {"a": x}),
      "the output has shape () for 2 images",
    ),
    (
      lambda x: (x, {"conv": x[:2]}),
      "layer 'conv' has shape (2, 8, 8, 1) for 3 images",
    ),
    (
      lambda x: (x, {"conv": x[:, :0]}),
      "layer 'conv' has shape (2, 0, 8, 1): it has no unit",
    ),
    (
      lambda x: (x, {"fft": jnp.fft.fft(x)}),
      "layer 'fft' is of type complex64: activations must be real floating",
    ),
    (
      lambda x: (x, {"class": x.argmax(axis=-1)}),
      "layer 'class' is of type int32: activations must be real floating point"
      "; convert them with .astype(jnp.float32)",
    ),
    (lambda x: (x, {"fires": x > 0}), "layer 'fires' is of type bool"),
    (
      lambda x: (x, {"a": x.reshape(len(x), -1)[:, : len(x)]}),
      "layer 'a' varies from call to call: its units have shape (2,) for 2"
      " images and (3,) for 3",
    ),
    (
      lambda x: (x, {"a": x - x.mean(axis=0, keepdims=True)}),
      "layer 'a' of one image depends on the other images of the batch",
    ),
  ],
)
def test_what_is_no_network_is_refused_by_name_and_value(fn, message):
  assert message in refusal(fn)


def test_what_cannot_be_called_is_refused():
  with pytest.raises(ValueError, match="a function of images, got int"):
    network.as_partial(3)


@pytest.mark.parametrize(
  ("fn", "error"),
  [
    (lambda x: (x, {"a": np.maximum(x, 0)}), "TracerArrayConversionError"),
    (lambda x: (x, {"a": x if x.sum() else -x}), "TracerBoolConversionError"),
    (lambda x: (x, {"a": x * float(x[0, 0, 0, 0])}), "ConcretizationTypeError"),
    (lambda x: (x, {"a": x[x > 0]}), "NonConcreteBooleanIndexError"),
  ],
)
def test_what_is_not_jittable_is_said_to_be_so(fn, error):
  message = refusal(fn)
  assert message.startswith(f"the function is not jittable: {error}: ")
  assert "use jax.numpy on arrays" in message


def test_layers_that_vary_from_call_to_call_are_named():
  calls = itertools.count()

  def fn(x):
    return x, {"conv": x, f"relu{next(calls)}": x}

  assert refusal(fn) == (
    "the layers vary from call to call: 'relu0' only in a call of 2 images and"
    " 'relu1' only in a call of 3 images"
  )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(value):
  images = _IMAGES.copy()
  images[1, 2, 3:5] = 0

  def fn(x):
    return x, {"ok": x, "log": jnp.where(x == 0, np.float32(value), x)}

  assert refusal(fn, images) == (
    "layer 'log' has 2 of 128 values that are not finite (NaN or infinite), the"
    " first for image 1"
  )


def test_an_output_that_is_not_finite_is_refused():
  message = refusal(lambda x: (jnp.log(x * 0), {"a": x}))
  assert message.startswith("the output has 128 of 128 values")


def test_the_cause_is_kept_for_whoever_debugs():
  with pytest.raises(ValueError, match="KeyError") as caught:
    network.probe(_raise, _IMAGES, {})
  assert isinstance(caught.value.__cause__, KeyError)
