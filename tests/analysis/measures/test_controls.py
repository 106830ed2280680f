"""Networks whose invariance is known exactly, and networks that must fail."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from analysis.assertions import assert_invariant
from analysis.orbits import measure, orbit
from analysis.transforms import rotation, translation
from models import platform
from models.cnn import CNN
from tests.analysis import networks, reference

CIRCULAR = orbit(
  translation, [(0, 0), (1, 0), (0, -3), (7, 5), (-16, 11)], border="circular"
)


def _initialised(model, images, seed=0):
  return platform.jit(model.init, once=True)(
    jax.random.key(seed), jnp.asarray(images[:1])
  )


def _trained(model, variables, images, steps=5):
  """A few real steps on made-up labels: enough to move every weight."""
  labels = jnp.arange(len(images)) % 10
  optimizer = optax.sgd(0.1, momentum=0.9)

  @jax.jit
  def step(variables, state):
    def loss(variables):
      logits, _ = model.apply(variables, jnp.asarray(images), train=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean()

    updates, state = optimizer.update(jax.grad(loss)(variables), state)
    return optax.apply_updates(variables, updates), state

  state = optimizer.init(variables)
  for _ in range(steps):
    variables, state = step(variables, state)
  return variables


def _measure(model, variables, images, transformations, measures):
  return measure(
    jax.tree_util.Partial(model.apply, variables),
    images,
    transformations,
    measures,
    geometry=model.geometry(images.shape[1]),
  )


# --- 1: the identity network -------------------------------------------------


@pytest.mark.parametrize("order", [1, 3])
def test_the_identity_network_varies_as_its_pixels_do(digits, order):
  angles = [0, 15, 90, -40]
  table = measure(
    networks.identity,
    digits,
    orbit(rotation, angles, order=order),
    ["invariance_error"],
  )
  pixels = np.stack([rotation.warp(digits, a, order=order) for a in angles])
  np.testing.assert_allclose(
    table["value"],
    reference.invariance_error(digits.astype(float), pixels.astype(float)),
    rtol=1e-5,
  )
  assert table["value"][0] == 0
  assert table["value"][2] > 0.3


@pytest.mark.parametrize(
  ("transformations", "exact"),
  [
    ([(translation, [(0, 0), (3, 0), (-2, 7)])], True),
    ([(rotation, [90, -90, 180, 270])], True),
    ([CIRCULAR], True),
    ([(translation, [(0.5, 0)])], False),
    ([(rotation, [45])], False),
  ],
)
def test_resampling_costs_nothing_where_no_pixel_is_resampled(
  digits, transformations, exact
):
  table = measure(
    networks.identity,
    digits,
    transformations,
    ["equivariance_error"],
    geometry=networks.IDENTITY_GEOMETRY,
  )
  masked = table[table["measure"] == "equivariance_error"]
  assert masked["value"].notna().all()
  # The identity is the ideal layer of its own resolution.
  np.testing.assert_array_equal(masked["value"], masked["floor"])
  assert (masked["floor"] == 0).all() == exact
  assert exact or (masked["floor"] > 0.05).all()


# --- 2: circular convolutions ------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("train", [False, True])
def test_circular_convolutions_move_with_circular_shifts(
  digits, depth, kernel_size, train
):
  model = CNN(
    depth=depth,
    width=4,
    kernel_size=kernel_size,
    pooling="none",
    padding="circular",
    head="gap",
  )
  variables = _initialised(model, digits)
  if train:
    before = variables
    variables = _trained(model, variables, digits)
    for old, new in zip(
      jax.tree.leaves(before), jax.tree.leaves(variables), strict=True
    ):
      assert np.abs(old - new).max() > 1e-3
  table = _measure(
    model,
    variables,
    digits,
    CIRCULAR,
    ["equivariance_error", "invariance_error"],
  )
  spatial = table[
    table["measure"].str.startswith("equivariance")
    & table["layer"].str.match("conv|relu")
  ]
  assert len(spatial) == 2 * depth * 2 * len(CIRCULAR.thetas)
  assert spatial["value"].max() < 1e-5
  pooled = table[
    (table["measure"] == "invariance_error")
    & table["layer"].isin(["gap", "logits"])
  ]
  assert pooled["value"].max() < 1e-5
  # The same maps are far from invariant: the measure tells the two apart.
  conv = table[
    (table["measure"] == "invariance_error") & (table["layer"] == "conv1")
  ]
  assert (conv["value"][conv["theta"] != "0,0"] > 0.1).all()


def test_zero_padding_fails_where_circular_padding_does_not(digits):
  model = CNN(depth=3, width=4, pooling="none", padding="same", head="gap")
  table = _measure(
    model,
    _initialised(model, digits),
    digits,
    CIRCULAR,
    ["equivariance_error"],
  )
  rows = table[(table["layer"] == "conv3") & (table["theta"] == "-16,11")]
  assert (rows["value"] > 1e-3).all()


@pytest.mark.parametrize("pooling", ["max", "avg", "stride"])
def test_downsampling_is_equivariant_to_its_stride_only(digits, pooling):
  model = CNN(depth=2, width=4, pooling=pooling, padding="circular")
  o = orbit(translation, [(4, 0), (0, -8), (1, 0), (2, 1)], border="circular")
  table = _measure(
    model, _initialised(model, digits), digits, o, ["equivariance_error"]
  )
  last = table[
    (table["layer"] == "relu2") & (table["measure"] == "equivariance_error")
  ]
  even, odd = last["value"].to_numpy()[:2], last["value"].to_numpy()[2:]
  # relu2 has stride 2 after a pool, stride 4 after two strided convolutions.
  assert (even < 1e-5).all()
  assert (odd > 0.01).all()


def test_geometry_turns_a_map_about_the_images_centre(digits):
  """2x2 averages sit between pixels; with a wrong offset the test fails."""

  def average(images):
    n, h, w, c = images.shape
    blocks = images.reshape(n, h // 2, 2, w // 2, 2, c)
    return images, {"average": blocks.mean(axis=(2, 4))}

  def error(offset):
    table = measure(
      average,
      digits,
      [(rotation, [90, 180])],
      ["equivariance_error"],
      geometry={"average": networks.Where(2, offset, 2, True)},
    )
    return table["value"][table["measure"] == "equivariance_error"]

  assert (error(0.5) < 1e-6).all()
  assert (error(0.0) > 0.1).all()


# --- 5: bag of pixels --------------------------------------------------------


@pytest.fixture(scope="module")
def bag(digits):
  model = CNN(depth=2, width=8, kernel_size=1, pooling="none", head="gap")
  variables = _trained(model, _initialised(model, digits), digits)
  return jax.jit(lambda images: model.apply(variables, images)[0])


def _shuffle(seed):
  order = np.random.default_rng(seed).permutation(32 * 32)
  return lambda x: x.reshape(len(x), -1)[:, order].reshape(x.shape)


@hypothesis.settings(max_examples=20)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_a_bag_of_pixels_ignores_their_order(bag, digits, seed):
  assert_invariant(bag, _shuffle(seed), digits)


def test_a_3x3_network_does_not_ignore_the_order(digits):
  model = CNN(depth=2, width=8, kernel_size=3, pooling="none", head="gap")
  variables = _initialised(model, digits)
  network = jax.jit(lambda images: model.apply(variables, images))
  with pytest.raises(AssertionError, match="layer 'gap' is not invariant"):
    assert_invariant(network, _shuffle(0), digits, layers="gap", rtol=0.1)


# --- 6: networks that must score badly ---------------------------------------


def test_a_network_that_reads_coordinates_is_not_equivariant(digits):
  ramp = jnp.linspace(0, 1, 32)[None, None, :, None]

  def network(images):
    return images, {"pixels": images * ramp}

  table = measure(
    network,
    digits,
    [(translation, [(8, 0), (-8, 0)])],
    ["equivariance_error"],
    geometry=networks.IDENTITY_GEOMETRY,
  )
  masked = table[table["measure"] == "equivariance_error"]
  assert (masked["value"] > 0.2).all()
  assert (masked["floor"] == 0).all()


def test_a_network_that_alternates_with_parity_fails_at_odd_shifts(digits):
  def network(images):
    mass = images.sum(axis=(1, 3))
    column = (mass * jnp.arange(32.0)[None]).sum(axis=1) / mass.sum(axis=1)
    sign = jnp.cos(jnp.pi * column)[:, None]
    return sign, {"sign": sign}

  shifts = [(1, 0), (2, 0), (3, 0), (0, 1)]
  table = measure(
    network, digits, [(translation, shifts)], ["invariance_error"]
  )
  value = dict(zip(table["theta"], table["value"], strict=True))
  assert value["2,0"] < 1e-3 > value["0,1"]
  assert value["1,0"] > 0.9 < value["3,0"]
