"""Shears, mirrors, quarter turns, matrices and compositions."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis import actions, affine, sampling
from analysis.transforms import (
  FAMILIES,
  compose,
  matrix,
  quarter_turn,
  reflection,
  rotation,
  scaling,
  shear,
  translation,
)

IDENTITY = (1, 0, 0, 0, 1, 0)
KINDS = [(order, border) for order in (1, 3) for border in sampling.BORDERS]
kinds = pytest.mark.parametrize(("order", "border"), KINDS)

# A smooth image: a Gaussian blob of 4 px, whose second derivative in any
# direction is at most 1 / 4^2, away from the centre.
SIZE, WIDTH = 32, 4.0
CURVATURE = 1 / WIDTH**2


def _blob():
  y, x = np.mgrid[:SIZE, :SIZE]
  square = (x - 17.3) ** 2 + (y - 13.9) ** 2
  return np.exp(-square / (2 * WIDTH**2))[None, ..., None].astype(np.float32)


def _resampling(linear):
  """Largest error of reading f(linear q) between pixels, bilinearly.

  An axis costs at most its largest second derivative / 8; along unit vectors e
  that of f(linear q) is at most CURVATURE |linear e|^2, which over both axes
  sums to the squared Frobenius norm.
  """
  return CURVATURE * np.square(linear).sum() / 8


# --- exact copies ------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
  ("flips", "axes"), [((1, 0), 2), ((0, 1), 1), ((1, 1), (1, 2)), ((0, 0), ())]
)
def test_reflections_are_numpys_flip(order, border, flips, axes):
  images = np.random.default_rng(0).uniform(size=(2, 7, 10, 2)).astype("f4")
  warped = reflection.warp(images, flips, order=order, border=border)
  np.testing.assert_array_equal(warped, np.flip(images, axes))


@kinds
@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 6])
def test_quarter_turns_are_numpys_rot90(order, border, k):
  images = np.random.default_rng(0).uniform(size=(2, 9, 9, 2)).astype("f4")
  warped = quarter_turn.warp(images, k, order=order, border=border)
  np.testing.assert_array_equal(warped, np.rot90(images, k, axes=(1, 2)))


@pytest.mark.parametrize("order", [1, 3])
def test_exact_compositions_on_a_circular_canvas_copy_pixels(order):
  images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("f4")
  family = compose(quarter_turn, reflection, translation)
  warped = family.warp(images, (1, 1, 0, 3, -6), order=order, border="circular")
  expected = np.rot90(images, 1, axes=(1, 2))[:, :, ::-1]
  expected = np.roll(expected, (-6, 3), axis=(1, 2))
  np.testing.assert_array_equal(warped, expected)


def test_traced_parameters_copy_pixels_too():
  images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("f4")
  family = compose(quarter_turn, reflection)
  warped = jax.jit(family.warp)(images, jnp.array([1.0, 1.0, 0.0]))
  expected = np.rot90(images, 1, axes=(1, 2))[:, :, ::-1]
  np.testing.assert_array_equal(warped, expected)


# --- conventions -------------------------------------------------------------


def test_a_shear_moves_content_along_its_axis():
  image = np.zeros((1, 9, 9, 1), np.float32)
  image[0, 6, 4] = 1  # 2 px below the centre
  right = np.asarray(shear.warp(image, (1, 0)))
  assert right[0, 6, 6, 0] == 1  # 2 px to the right
  image = np.moveaxis(image, 1, 2)
  down = np.asarray(shear.warp(image, (0, 1)))
  assert down[0, 6, 6, 0] == 1


def test_a_matrix_says_where_content_goes():
  image = np.zeros((1, 9, 9, 1), np.float32)
  image[0, 5, 7] = 1  # (3, 1) from the centre
  warped = np.asarray(matrix.warp(image, (0, 1, -2, 1, 0, 1)))
  assert warped[0, 4 + 3 + 1, 4 + 1 - 2, 0] == 1


@pytest.mark.parametrize("name", ["shear", "matrix"])
def test_traced_and_host_parameters_agree(name):
  theta = {"shear": (0.2, -0.1), "matrix": (0.9, 0.1, 1, -0.2, 1.1, 0.5)}[name]
  traced = jax.jit(FAMILIES[name].warp)(_blob(), jnp.asarray(theta))
  expected = FAMILIES[name].warp(_blob(), theta)
  np.testing.assert_allclose(traced, expected, atol=1e-5)


# --- compositions ------------------------------------------------------------


def test_a_composition_is_the_product_of_its_matrices_first_one_first():
  family = compose(scaling, translation, rotation)
  assert family.name == "scaling+translation+rotation"
  assert family.parameters == ("log2_factor", "dx", "dy", "angle_deg")
  np.testing.assert_allclose(
    family.matrix((0.3, 2, -1, 20)),
    rotation.matrix(20) @ translation.matrix((2, -1)) @ scaling.matrix(0.3),
    atol=1e-15,
  )
  many = family.matrix([(0.3, 2, -1, 20), (0, 0, 0, 0)])
  assert many.shape == (2, 3, 3)
  np.testing.assert_array_equal(many[1], np.eye(3))


def test_repeated_parameters_are_numbered_and_nesting_does_not_matter():
  flat = compose(rotation, shear, rotation)
  assert flat.parameters == ("angle_deg_1", "kx", "ky", "angle_deg_2")
  nested = compose(compose(rotation, shear), rotation)
  assert (nested.name, nested.parameters) == (flat.name, flat.parameters)
  deep = compose(rotation, rotation, compose(rotation, rotation))
  assert deep.parameters == tuple(f"angle_deg_{i}" for i in (1, 2, 3, 4))
  assert compose(rotation) is rotation


def test_a_composition_differs_from_warping_twice_by_interpolation_only():
  """Each way is off by its resamplings, the second of a wider function."""
  shrunk, turned = scaling.matrix(-0.25), rotation.matrix(20)
  once = compose(scaling, rotation).warp(_blob(), (-0.25, 20))
  twice = rotation.warp(scaling.warp(_blob(), -0.25), 20)
  stretch = np.linalg.inv(shrunk)[:2, :2]
  bound = 2 * _resampling(np.eye(2)) + _resampling(stretch)
  inside = np.s_[:, 5:-5, 5:-5]
  difference = np.abs(np.asarray(once) - np.asarray(twice))[inside]
  assert 1e-4 < difference.max() < bound
  np.testing.assert_allclose(
    once, affine.affine_warp(_blob(), turned @ shrunk), atol=1e-6
  )


def test_an_empty_composition_is_refused():
  with pytest.raises(ValueError, match="needs at least one family, got none"):
    compose()


# --- inverses ----------------------------------------------------------------


@hypothesis.settings(max_examples=40)
@hypothesis.given(
  turns=st.tuples(st.floats(-180, 180), st.floats(-180, 180)),
  stretches=st.tuples(st.floats(0.7, 1.4), st.floats(0.7, 1.4)),
  mirror=st.sampled_from([1, -1]),
  shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
@pytest.mark.parametrize("order", [1, 3])
def test_there_and_back_is_the_image_to_interpolation(
  order, turns, stretches, mirror, shift
):
  """Bilinear: two resamplings, the second of f(A^-1 q). Cubic is better."""
  stretch = np.diag([stretches[0], mirror * stretches[1], 1.0])
  motion = rotation.matrix(turns[0]) @ stretch @ rotation.matrix(turns[1])
  motion = translation.matrix(shift) @ motion
  there = motion[:2].reshape(6)
  back = affine.invert(motion)[:2].reshape(6)

  moved = matrix.warp(_blob(), there, order=order)
  restored = matrix.warp(moved, back, order=order)

  # Positions that read inside the canvas, and only what did so before.
  read = matrix.valid(there, (SIZE, SIZE))[None, ..., None]
  seen = np.asarray(matrix.warp(read, back)) > 1 - 1e-6
  assert seen.sum() > 100
  bound = _resampling(np.eye(2)) + _resampling(np.linalg.inv(motion)[:2, :2])
  errors = np.abs(np.asarray(restored) - _blob())[seen]
  assert errors.max() < bound + 1e-5  # and float32


@hypothesis.given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_the_inverse_undoes_every_matrix_that_has_one(values):
  linear = np.array(values)[[0, 1, 3, 4]].reshape(2, 2)
  a, b, c, d = linear.ravel()
  hypothesis.assume(abs(a * d - b * c) > 1e-2)
  motion = matrix.matrix(values)
  product = affine.invert(motion) @ motion
  np.testing.assert_allclose(product, np.eye(3), atol=1e-10)


# --- sizes -------------------------------------------------------------------


def test_magnitudes_are_distances_from_the_identity():
  assert matrix.magnitude(IDENTITY) == 0
  assert matrix.magnitude((1, 0, 3, 0, 1, -4)) == 5
  assert matrix.is_identity(IDENTITY)
  assert shear.magnitude((0.3, -0.4)) == pytest.approx(0.5)
  assert reflection.magnitude((1, 0)) == 1
  assert quarter_turn.magnitude(3) == 3


def test_a_composition_is_as_large_as_its_matrix():
  family = compose(scaling, rotation)
  there, back = (family.magnitude((0.2, angle)) for angle in (15, -15))
  assert there == back
  rows = family.matrix((0.2, 15))[:2].reshape(6)
  assert there == pytest.approx(matrix.magnitude(rows), abs=1e-9)
  assert family.unit == matrix.unit
  assert compose(rotation, rotation).magnitude((15, -15)) == 0
  assert family.is_identity((0, 0))


@pytest.mark.parametrize("family", [reflection, quarter_turn])
def test_discrete_families_have_no_velocity(family):
  assert family.generator == ()
  assert family.velocity((4, 6)).shape == (0, 4, 6, 2)
  mixed = compose(rotation, family)
  assert mixed.generator == ()
  assert mixed.velocity((4, 6)).shape == (0, 4, 6, 2)


def test_displacements_have_their_closed_forms():
  corner = np.zeros((9, 9))
  corner[8, 6] = 1  # (2, 4) from the centre
  assert shear.displacement((0.5, 0), corner) == pytest.approx(2)
  assert shear.displacement((0, 0.5), corner) == pytest.approx(1)
  assert reflection.displacement((1, 0), corner) == pytest.approx(4)
  assert reflection.displacement((1, 1), corner) == pytest.approx(2 * 20**0.5)
  assert quarter_turn.displacement(1, corner) == pytest.approx(40**0.5)
  assert matrix.displacement((1, 0, 3, 0, 1, 4), corner) == pytest.approx(5)
  doubled = compose(scaling, translation)
  assert doubled.displacement((1, -2, -4), corner) == pytest.approx(0)


def test_lost_intensity_is_what_leaves_the_canvas():
  corner = np.zeros((9, 9))
  corner[8, 6] = 3
  corner[4, 4] = 1
  assert shear.lost_intensity((0.5, 0), corner) == 0
  assert shear.lost_intensity((1, 0), corner) == 0.75
  assert matrix.lost_intensity((1, 0, 0, 0, 1, 9), corner) == 1
  for theta in ((1, 0), (0, 1), (1, 1)):
    assert reflection.lost_intensity(theta, corner) == 0
  assert compose(shear, translation).lost_intensity((1, 0, -2, 0), corner) == 0


def test_a_circular_canvas_loses_what_does_not_wrap_around():
  edge = np.zeros((9, 9))
  edge[8, 8] = 1
  assert rotation.lost_intensity(45, edge, border="circular") == 1
  assert quarter_turn.lost_intensity(1, edge, border="circular") == 0
  assert shear.lost_intensity((2, 0), edge, border="circular") == 0
  assert shear.lost_intensity((0.5, 0), edge, border="circular") == 1


def test_what_maps_a_circular_canvas_onto_itself():
  def onto(family, theta, shape=(8, 8)):
    return bool(affine.wraps(family.matrix(theta), shape))

  assert onto(translation, (0.5, 3))
  assert onto(reflection, (1, 0), (8, 6))
  assert onto(quarter_turn, 1)
  assert not onto(quarter_turn, 1, (8, 6))
  assert onto(shear, (2, 0))
  assert not onto(shear, (0.5, 0))
  assert not onto(scaling, 1)
  assert not onto(rotation, 30)


# --- orbits ------------------------------------------------------------------


class Everywhere:
  """A layer of the pixels themselves."""

  stride, offset, receptive_field, spatial = 1, 0.0, 1, True


@kinds
@pytest.mark.parametrize(
  ("name", "thetas"),
  [
    ("reflection", [(0, 0), (1, 0), (0, 1), (1, 1)]),
    ("quarter_turn", [0, 1, 2, 3]),
  ],
)
def test_the_action_on_maps_undoes_exact_transformations(
  name, thetas, order, border
):
  images = np.random.default_rng(0).uniform(size=(1, 6, 6, 1)).astype("f4")
  o = actions.orbit(name, thetas, order=order, border=border)
  action = actions.map_action(o, Everywhere(), (6, 6), (6, 6))
  assert action.mask.all()
  taps = actions.image_taps(o, (6, 6))
  assert order == 1 or taps.on_grid.all()
  moved = sampling.resample(jnp.asarray(images), taps.linear)[0]
  for t in range(len(thetas)):
    back = sampling.Taps(action.indices[t], action.weights[t])
    restored = sampling.resample(moved[t].reshape(1, 6, 6, 1), back)
    np.testing.assert_array_equal(restored.reshape(6, 6), images[0, ..., 0])


def test_a_torn_circular_canvas_has_edges_on_maps():
  o = actions.orbit(
    compose(quarter_turn, rotation), [(1, 0), (0, 30)], border="circular"
  )
  action = actions.map_action(o, Everywhere(), (8, 8), (8, 8))
  assert action.mask[0].all()
  assert not action.mask[1].all()
  assert not action.defined[1].all()


def test_an_orbit_takes_matrices_as_rows():
  o = actions.orbit("matrix", [IDENTITY, [[1, 0, 2], [0, 1, 0]]])
  assert o.thetas == (IDENTITY, (1, 0, 2, 0, 1, 0))


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: reflection.matrix((0.5, 0)), "reflection flip_x=0.5 is not 0 or"),
    (lambda: reflection.matrix((1, -1)), "reflection flip_y=-1 is not 0 or 1"),
    (lambda: reflection.matrix(1), r"takes 2 parameters \(flip_x, flip_y\)"),
    (lambda: quarter_turn.matrix(0.5), "quarter_turn k=0.5 is not a whole"),
    (lambda: quarter_turn.matrix([1, 2.5]), "quarter_turn k=2.5 is not a wh"),
    (lambda: matrix.matrix((1, 2, 3)), "matrix takes 6 parameters"),
    (
      lambda: matrix.matrix((0.1, 0.2, 0, 0.3, 0.6, 0)),
      "matrix by 0.1, 0.2, 0, 0.3, 0.6, 0 has no inverse",
    ),
    (
      lambda: matrix.matrix([IDENTITY, (1, 0, 0, 1, 0, 0)]),
      "matrix by 1, 0, 0, 1, 0, 0 in row 2 has no inverse",
    ),
    (lambda: shear.matrix((1, 1)), "shear by 1, 1 has no inverse"),
    (lambda: scaling.matrix(-2000), "scaling by -2000 has no inverse"),
    (
      lambda: compose(rotation, reflection).matrix((9, 2, 0)),
      "reflection flip_x=2 is not 0 or 1",
    ),
    (
      lambda: actions.orbit("matrix", [IDENTITY, [0] * 6]),
      "element 2 of matrix: matrix by 0, 0, 0, 0, 0, 0 has no inverse",
    ),
    (
      lambda: actions.orbit("quarter_turn", [0, 1.5]),
      "element 2 of quarter_turn: quarter_turn k=1.5 is not a whole number",
    ),
    (lambda: actions.orbit("mirror", [0]), "known are .* reflection, quarter_"),
  ],
)
def test_wrong_values_are_named_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as raised:
    call()
  assert "\n" not in str(raised.value)
