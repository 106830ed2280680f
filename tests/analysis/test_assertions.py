"""Assertions pass where a symmetry is exact and say what is wrong elsewhere."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.actions import orbit
from analysis.assertions import assert_equivariant, assert_invariant
from analysis.transforms import rotation, scaling, translation
from tests.analysis import networks

BOTH = [assert_invariant, assert_equivariant]
RIGHT = (translation, (1, 0))


def _images(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=shape).astype(np.float32)


def _message(error, call):
  with pytest.raises(error) as caught:
    call()
  message = str(caught.value)
  assert "\n" not in message
  return message


# --- exact networks of others ------------------------------------------------


@pytest.fixture(scope="module")
def stored(fixtures):
  with np.load(fixtures / "tmeasures_eqv.npz", allow_pickle=False) as archive:
    text = (fixtures / "tmeasures_eqv.json").read_text()
    return dict(archive), json.loads(text)["cases"]


def _convolve(x, kernel, mode):
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  return np.einsum("nhwiyx,yxio->nhwo", windows, kernel, optimize=True)


def _stored_network(arrays, case):
  """In plain NumPy and float64."""

  def network(images):
    x, activations = images.astype(np.float64), {}
    for layer in case["layers"]:
      name = layer["name"]
      if layer["type"] == "conv":
        kernel = arrays[case["kernels"].replace("<layer>", name)]
        mode = {"circular": "wrap", "zeros": "constant"}[layer["pad_mode"]]
        x = _convolve(x, kernel, mode) + arrays[f"w_{name}_bias"]
      elif layer["type"] == "relu":
        x = np.maximum(x, 0)
      else:
        x = (x[:, ::2] + x[:, 1::2]) / 2
        x = (x[:, :, ::2] + x[:, :, 1::2]) / 2
      activations[name] = x
    return None, activations

  return network


def _stored_transformations(case):
  if case["transform"] == "roll":
    return [(translation, (dx, dy)) for dy, dx in case["t_params"][1:]]
  return [(rotation, 90 * k) for k in case["t_params"][1:]]


@pytest.mark.parametrize(
  ("name", "holds"),
  [
    ("circ_roll", True),
    ("zero_roll", False),
    ("circ_rot90", False),
    ("sym_rot90", True),
  ],
)
def test_stored_networks_are_as_equivariant_as_said(stored, name, holds):
  arrays, cases = stored
  case = cases[name]
  network = _stored_network(arrays, case)
  last = case["layers"][-1]["name"]
  images = arrays["images"]
  np.testing.assert_allclose(
    network(images)[1][last], arrays[f"{name}__act_{last}"], atol=1e-5
  )
  border = "circular" if case["transform"] == "roll" else "zero"
  half = networks.Where(2, 0.5, 1, (7, 7))
  pooled = {"pool1": half, "conv2": half, "relu2": half}
  check = functools.partial(
    assert_equivariant,
    network,
    images=images,
    geometry=pooled if name == "sym_rot90" else None,
    border=border,
  )
  for transform in _stored_transformations(case):
    if holds:
      check(transform)
      continue
    message = _message(AssertionError, lambda t=transform: check(t))
    assert message.startswith("layer 'conv1' is not equivariant to ")
    assert message.endswith("; nor are relu1, conv2, relu2")


# --- functions of any kind ---------------------------------------------------


def _mean(images):
  return images.mean(axis=(1, 2, 3))


def _blank_corner(images):
  """In plain NumPy, writing to what it is given."""
  images[:, 0, 0] = 0
  return images


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_function_may_be_numpy_or_jax_and_return_an_array(make, wrap):
  images = make(_images(3, 6, 8, 2))
  for shift in [(1, 0), (-2, 5)]:
    assert_invariant(
      wrap(_mean), (translation, shift), images, border="circular"
    )
    assert_equivariant(
      wrap(lambda x: x * x), (translation, shift), images, border="circular"
    )


def test_a_function_may_write_to_its_images():
  images = _images(3, 6, 6, 1)
  kept = images.copy()
  fn = lambda x: _mean(_blank_corner(x))  # noqa: E731
  with pytest.raises(AssertionError):
    assert_invariant(fn, RIGHT, images, border="circular")
  np.testing.assert_array_equal(images, kept)


@pytest.mark.parametrize("check", BOTH)
def test_layers_are_chosen_by_name(check):
  images = jnp.asarray(_images(2, 6, 6, 1))
  column = jnp.arange(6.0)[None, None, :, None]

  def fn(x):
    return x * 0 + x.mean(axis=(1, 2, 3), keepdims=True), {
      "good": x.mean(axis=(1, 2, 3), keepdims=True) + 0 * x,
      "bad": x * column,
      "worse": x * column**2,
    }

  for layers in ("good", ["good"], ["output"], ["output", "good"]):
    check(fn, RIGHT, images, layers=layers, border="circular")
  message = _message(
    AssertionError, lambda: check(fn, RIGHT, images, border="circular")
  )
  assert message.startswith("layer 'bad' is not ")
  assert message.endswith("; nor are worse")


def test_a_transformation_may_be_any_function():
  images = _images(2, 6, 6, 3)
  flip = lambda x: x[:, :, ::-1]  # noqa: E731
  assert_invariant(_mean, flip, images)
  assert_equivariant(np.sqrt, flip, images, act=flip)
  scaled = lambda x: (x, {"twice": 2 * x, "mean": _mean(x)})  # noqa: E731
  assert_equivariant(
    scaled, lambda x: 3 * x, images, act={"twice": lambda a: 3 * a}
  )
  shuffle = functools.partial(np.take, indices=[2, 0, 1], axis=3)
  message = _message(
    AssertionError,
    lambda: assert_equivariant(np.sqrt, shuffle, images, act=flip),
  )
  assert "not equivariant to take: |f(t x) - act(f(x))|" in message
  with pytest.raises(AssertionError, match="not invariant to <lambda>: "):
    assert_invariant(np.sqrt, flip, images)


@pytest.mark.parametrize(
  ("family", "theta", "named"),
  [
    ("rotation", 90, "rotation 90 degrees (zero border)"),
    (scaling, -0.5, "scaling -0.5 log2 factor (zero border)"),
    ("translation", np.array([2, -1]), "translation (2, -1) px (zero border)"),
  ],
)
def test_families_go_by_name_too(family, theta, named):
  images = _images(2, 6, 6, 1)
  column = np.arange(6.0)[:, None] ** 2
  message = _message(
    AssertionError,
    lambda: assert_equivariant(
      lambda x: x * column, (family, theta), images, rtol=1e-3
    ),
  )
  assert f"'output' is not equivariant to {named}: " in message


def test_a_constant_and_a_zero_layer_pass():
  images = _images(2, 6, 6, 1)
  for value in (0, 7):
    for check in BOTH:
      check(lambda x, v=value: 0 * x + v, RIGHT, images, border="circular")


# --- what is compared --------------------------------------------------------


def test_the_message_names_the_worst_unit_of_the_worst_image():
  images = np.zeros((4, 5, 5, 1), np.float32)
  images[:, 2, 2] = 1
  images[2, 0, 0] = 3

  def fn(x):
    return np.stack([x.sum(axis=(1, 2, 3)), x[:, 0, 0, 0]], axis=1)

  message = _message(
    AssertionError,
    lambda: assert_invariant(fn, RIGHT, images, atol=0.5, rtol=1e-3),
  )
  rms = np.sqrt((3 * 1 + 4**2 + 3**2) / 8)
  assert message == (
    "layer 'output' is not invariant to translation (1, 0) px (zero border):"
    " |f(t x) - f(x)| = 3 at image 2, unit 1, tolerance"
    f" {0.5 + 1e-3 * rms:.3g} (atol 0.5 + rtol 0.001 x rms {rms:.3g})"
  )


def test_the_message_names_the_position_and_channel():
  images = np.zeros((3, 6, 6, 2), np.float32)
  images[1, 4, 3, 1] = 2

  def fn(x):
    x[:, 4, 4] = 0  # where the shift takes it
    return x

  message = _message(
    AssertionError,
    lambda: assert_equivariant(fn, RIGHT, images, border="circular"),
  )
  assert "|t^-1 f(t x) - f(x)| = 2 at image 1, position (4, 3), channel 1," in (
    message
  )


def test_the_tolerance_is_relative_to_the_layers_scale():
  images = _images(3, 6, 6, 1)

  def fn(scale):
    return lambda x: scale * (1 + 1e-3 * x[:, 0, 0])

  for scale in (1e-6, 1, 1e6):
    assert_invariant(fn(scale), RIGHT, images, rtol=1.1e-3)
    with pytest.raises(AssertionError, match=r"tolerance .* rtol 0\.0001"):
      assert_invariant(fn(scale), RIGHT, images, rtol=1e-4)
  assert_invariant(fn(1), RIGHT, images, atol=1.1e-3, rtol=0)
  with pytest.raises(AssertionError):
    assert_invariant(fn(1), RIGHT, images, rtol=np.nan)


def test_the_border_counts_only_where_it_is_seen():
  """Zeros seen beyond the border differ from the content moved there."""
  images = jnp.asarray(_images(2, 16, 16, 1))
  fn = jax.jit(networks.plain)
  geometry = networks.PLAIN_GEOMETRY
  check = functools.partial(assert_equivariant, fn, images=images)
  check((translation, (4, 0)), geometry=geometry)
  check((translation, (-2, 2)), geometry=geometry, layers=["relu1", "pool1"])
  message = _message(
    AssertionError,
    lambda: check((translation, (2, 0)), layers=["conv1"]),
  )
  assert message.endswith("; no geometry given, so the border counts")
  # conv2 has stride 4: half of it is no whole position.
  with pytest.raises(AssertionError, match="layer 'conv2' is not equivariant"):
    check((translation, (2, 0)), geometry=geometry)


def test_a_map_turns_about_the_images_centre():
  def fn(x):
    return x.reshape(2, 3, 2, 3, 2, 1).mean(axis=(2, 4))

  def check(offset):
    where = {"output": networks.Where(2, offset, 2, (3, 3))}
    turn = (rotation, 90)
    assert_equivariant(fn, turn, _images(2, 6, 6, 1), geometry=where)

  check(0.5)
  with pytest.raises(AssertionError, match="not equivariant to rotation 90 d"):
    check(0.0)


# --- wrong use ---------------------------------------------------------------


def _identity(x):
  return x


def _pool(x):
  return x[:, ::2, ::2]


def _fails_on(value):
  def fn(x):
    result = np.array(x)
    result[1, 2, 3, 0] = value
    return result

  return fn


@pytest.mark.parametrize("check", BOTH)
@pytest.mark.parametrize(
  ("fn", "transform", "options", "message"),
  [
    (_identity, rotation, {}, "transform=.* is neither a .family, theta. pair"),
    (_identity, orbit(rotation, [90]), {}, "transform=.* is neither a"),
    (_identity, ("turn", 90), {}, "unknown transformation 'turn'"),
    (_identity, (rotation, (90, 180)), {}, r"theta of shape \(2,\) is several"),
    (_identity, (translation, 3), {}, "translation takes 2 parameters"),
    (_identity, (rotation, np.nan), {}, "not finite"),
    (_identity, RIGHT, {"border": "wrap"}, "border='wrap' is not one of"),
    (_identity, RIGHT, {"order": 2}, "order=2 is not one of"),
    (_identity, _identity, {"border": "circular"}, "border='circular' are for"),
    (_identity, RIGHT, {"layers": "conv1"}, "no layer 'conv1': there are outp"),
    (_identity, RIGHT, {"layers": []}, "no layer to compare among output"),
    (lambda x: [x], RIGHT, {}, r"must return an array or .*, got list"),
    (lambda x: {"a": x}, RIGHT, {}, r"must return an array or .*, got dict"),
    (lambda x: (x, x), RIGHT, {}, r"must return an array or .*, got tuple"),
    (lambda x: (x, {}), RIGHT, {}, "no layer to compare among output"),
    (_fails_on(np.nan), RIGHT, {}, r"not finite at image 1, position \(2, 3\)"),
    (_fails_on(-np.inf), RIGHT, {}, "layer 'output' is not finite at image 1"),
  ],
)
def test_wrong_use_is_named(check, fn, transform, options, message):
  images = _images(2, 6, 6, 1)
  if check is assert_equivariant and callable(transform):
    options = {**options, "act": _identity}
  text = _message(ValueError, lambda: check(fn, transform, images, **options))
  assert re.search(message, text)


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (np.zeros((6, 6, 1), np.float32), "images must be floating point"),
    (np.zeros((2, 6, 6, 1), np.uint8), "images must be floating point"),
    (np.zeros((0, 6, 6, 1), np.float32), "none to compare"),
    (np.float32(3), "none to compare"),
  ],
)
def test_wrong_images_are_named(images, message):
  text = _message(
    ValueError, lambda: assert_invariant(_identity, RIGHT, images)
  )
  assert message in text


@pytest.mark.parametrize(
  ("fn", "message"),
  [
    (lambda x: x.mean(), r"layer 'output' has shape \(\) for 2 images"),
    (lambda x: x[:1], r"layer 'output' has shape \(1, 6, 6, 1\) for 2 images"),
    (lambda x: x[..., :0], r"shape \(2, 6, 6, 0\) for 2 images"),
    (lambda x: x[:, x[0].argmax() % 5 :, 0, 0], "for the transformed images"),
  ],
)
def test_arrays_of_the_wrong_shape_are_named(fn, message):
  images = np.zeros((2, 6, 6, 1), np.float32)
  images[:, 0, 0] = 1
  text = _message(ValueError, lambda: assert_invariant(fn, RIGHT, images))
  assert re.search(message, text)


def test_layers_that_change_their_names_are_named():
  names = iter("ab")
  text = _message(
    ValueError,
    lambda: assert_invariant(
      lambda x: (x, {next(names): x}), RIGHT, _images(2, 6, 6, 1)
    ),
  )
  assert "output, a for the images and output, b for the transformed" in text


def _layers(x):
  return x, {"map": x, "pool": _pool(x), "mean": _mean(x)}


@pytest.mark.parametrize(
  ("transform", "options", "message"),
  [
    (_identity, {}, "_identity is a function: give act="),
    (RIGHT, {}, r"'pool' has a 3x3 map of 6x6 images: say where it lies, geo"),
    (RIGHT, {"layers": "mean"}, r"'mean' has shape \(2,\), .* no positions"),
    (
      RIGHT,
      {"geometry": {"pool": networks.Where(0, 0.0, 6, None)}, "layers": "pool"},
      "'pool' has shape .* no positions",
    ),
    (
      RIGHT,
      {"geometry": {"pool": networks.Where(2, 0.0, 1, (4, 4))}},
      r"'pool' has a 3x3 map, its geometry says \(4, 4\)",
    ),
    (
      RIGHT,
      {"geometry": {"pool": networks.Where(2, 0.0, 11, True)}},
      "'pool': no position's receptive field of 11 px lies inside the 6x6",
    ),
    (
      RIGHT,
      {
        "geometry": {"pool": networks.Where(3, 0.0, 1, True)},
        "border": "circular",
      },
      "'pool': a 3x3 map of stride 3 does not tile the circular 6x6 canvas",
    ),
    (_identity, {"act": {"pol": _identity}}, "no layer 'pol': there are outpu"),
    (
      _identity,
      {"act": {"pool": _identity}, "layers": ["pool", "map"]},
      "layer 'map' is missing in act=: pool",
    ),
    (
      RIGHT,
      {"act": lambda x: x[:, :1], "layers": "map"},
      r"layer 'map' has shape \(2, 1, 6, 1\), but \(2, 6, 6, 1\) for the trans",
    ),
  ],
)
def test_a_layer_whose_motion_is_unknown_is_refused(
  transform, options, message
):
  text = _message(
    ValueError,
    lambda: assert_equivariant(
      _layers, transform, _images(2, 6, 6, 1), **options
    ),
  )
  assert re.search(message, text)
