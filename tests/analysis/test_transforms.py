import inspect
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from analysis import transforms
from analysis.transforms import (
  FAMILIES,
  compose,
  matrix,
  reflection,
  rotation,
  scaling,
  shear,
  translation,
)

BORDERS = {
  "zero": "grid-constant",
  "circular": "grid-wrap",
  "reflect": "mirror",
}

# Beyond what a resampling in float32 leaves on images in [0, 1].
HOST, TRACED = 1e-6, 1e-5


def _oracle(fixtures):
  with np.load(fixtures / "warp_oracle.npz", allow_pickle=False) as archive:
    return dict(archive), json.loads(
      (fixtures / "warp_oracle.json").read_text()
    )["params"]


def _matrix(angle, scale, dx, dy):
  """Scaled, then turned, then moved."""
  return (
    translation.matrix((dx, dy))
    @ rotation.matrix(angle)
    @ scaling.matrix(np.log2(scale))
  )


@pytest.mark.parametrize("order", [1, 3])
def test_warps_are_the_stored_ones(fixtures, order):
  arrays, params = _oracle(fixtures)
  image = jnp.asarray(arrays["image"], jnp.float32)
  for k, values in enumerate(params):
    warped = transforms.affine_warp(image, _matrix(*values), order=order)
    expected = arrays[f"out_order{order}"][k]
    np.testing.assert_allclose(warped[0], expected, atol=HOST, rtol=0)


@pytest.mark.parametrize("order", [1, 3])
def test_traced_parameters_give_the_same_warps(fixtures, order):
  arrays, params = _oracle(fixtures)
  image = jnp.asarray(arrays["image"], jnp.float32)

  @jax.jit
  def warp(values):
    angle, scale, dx, dy = values
    matrix = (
      translation.matrix(jnp.stack([dx, dy]))
      @ rotation.matrix(angle)
      @ scaling.matrix(jnp.log2(scale))
    )
    return transforms.affine_warp(image, matrix, order=order)

  for k, values in enumerate(params):
    warped = warp(jnp.asarray(values, jnp.float32))
    expected = arrays[f"out_order{order}"][k]
    np.testing.assert_allclose(warped[0], expected, atol=TRACED, rtol=0)


MATRICES = {
  "shift": _matrix(0, 1, 0.3, -1.7),
  "turn": _matrix(33, 1, 0, 0),
  "magnified": _matrix(-10, 1.3, 2.5, 0),
  "shrunk": _matrix(5, 0.7, 0, 1),
  "shear": shear.matrix((0.3, -0.2)),
  "matrix": matrix.matrix((0.9, 0.4, -1.3, -0.2, 1.2, 0.6)),
  "composition": compose(scaling, rotation, shear, translation).matrix(
    (-0.2, 25, 0.1, 0.2, 1.5, -0.7)
  ),
  "mirrored": compose(reflection, rotation).matrix((1, 0, 40)),
}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("name", MATRICES)
def test_warps_are_scipys_on_every_border(border, order, name):
  """Noise, on a canvas that is not square, with content up to the edge."""
  height, width = 9, 12
  image = np.random.default_rng(0).uniform(size=(height, width))
  # In (row, column) order and about the centre, as scipy wants it.
  pull = np.linalg.inv(MATRICES[name])
  pull_yx = pull[:2, :2][::-1, ::-1]
  centre = np.array([(height - 1) / 2, (width - 1) / 2])
  offset = centre + pull[:2, 2][::-1] - pull_yx @ centre
  # SciPy's prefilter does not know of zeros outside: they are put there.
  margin = 20 if border == "zero" else 0
  expected = ndimage.affine_transform(
    np.pad(image, margin),
    pull_yx,
    offset + margin - pull_yx @ np.full(2, margin),
    order=order,
    mode=BORDERS[border],
  )
  expected = expected[margin : margin + height, margin : margin + width]
  warped = transforms.affine_warp(
    jnp.asarray(image[None, ..., None], jnp.float32),
    MATRICES[name],
    order=order,
    border=border,
  )
  np.testing.assert_allclose(warped[0, ..., 0], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shift", [(3, 0), (-2, 5), (0, -1), (0, 0)])
def test_whole_pixel_shifts_copy_pixels(digits, order, shift):
  dx, dy = shift
  rolled = np.roll(digits, (dy, dx), axis=(1, 2))
  warped = translation.warp(digits, shift, order=order, border="circular")
  np.testing.assert_array_equal(warped, rolled)
  moved = translation.warp(digits, shift, order=order)
  inside = np.s_[:, max(dy, 0) : 32 + min(dy, 0), max(dx, 0) : 32 + min(dx, 0)]
  expected = np.zeros_like(digits)
  expected[inside] = rolled[inside]
  np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("turns", [-3, -1, 0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [31, 32])
def test_quarter_turns_copy_pixels_counter_clockwise(
  digits, order, turns, size
):
  images = digits[:2, :size, :size]
  np.testing.assert_array_equal(
    rotation.warp(images, 90 * turns, order=order),
    np.rot90(images, turns, axes=(1, 2)),
  )


def test_traced_whole_pixel_shifts_and_quarter_turns_copy_pixels_too(digits):
  turned = jax.jit(rotation.warp)(digits, jnp.asarray(90.0))
  np.testing.assert_array_equal(turned, np.rot90(digits, 1, axes=(1, 2)))
  moved = jax.jit(translation.warp)(digits, jnp.asarray([4.0, 0.0]))
  np.testing.assert_array_equal(moved[:, :, 4:], digits[:, :, :-4])


def test_a_factor_above_one_magnifies():
  image = np.zeros((1, 33, 33, 1), np.float32)
  image[0, 16, 20] = 1  # 4 px right of the centre
  warped = np.asarray(scaling.warp(image, transforms.log2_factor(2.0)))
  assert warped[0, 16, 24, 0] == 1  # 8 px right of it


def test_each_image_can_have_a_transformation_of_its_own(digits):
  angles = jnp.linspace(-40, 40, len(digits))
  together = rotation.warp(digits, angles)
  for image, angle, warped in zip(digits, angles, together, strict=True):
    alone = rotation.warp(image[None], angle)
    np.testing.assert_allclose(warped, alone[0], atol=1e-6)


LIMITS = {"translation": 20, "rotation": 720, "scaling": 3}


@hypothesis.given(st.data())
@pytest.mark.parametrize("name", LIMITS)
def test_the_inverse_is_the_transformation_of_the_opposite_parameter(
  name, data
):
  number = st.floats(-LIMITS[name], LIMITS[name])
  family = FAMILIES[name]
  theta = data.draw(st.tuples(*[number] * len(family.parameters)))
  theta = np.asarray(theta if len(theta) > 1 else theta[0])
  inverse = transforms.invert(family.matrix(theta))
  np.testing.assert_allclose(inverse, family.matrix(-theta), atol=1e-12)
  np.testing.assert_allclose(
    inverse @ family.matrix(theta), np.eye(3), atol=1e-12
  )


@hypothesis.given(st.integers(-20, 20))
def test_quarter_turns_have_exact_cosines(turns):
  cos, sin = transforms.cos_sin_degrees(np.float64(90 * turns), np)
  assert (cos, sin) == (
    [1, 0, -1, 0][turns % 4],
    [0, 1, 0, -1][turns % 4],
  )


# What one unit of a generator is, in the unit of the parameter.
UNITS = {"angle_deg": np.degrees(1.0), "log2_factor": np.log2(np.e)}
MOVING = [f for f in FAMILIES.values() if f.generator]
MOVING += [compose(scaling, rotation, translation), compose(shear, matrix)]


@pytest.mark.parametrize("family", MOVING, ids=lambda family: family.name)
def test_velocity_is_the_derivative_of_the_motion(family):
  """Central differences of where pixels go, per px, radian and log."""
  shape, step = (5, 8), 1e-6
  y, x = np.mgrid[:5, :8]
  points = np.stack([x - 3.5, y - 2.0, np.ones(shape)], axis=-1)
  zeros = np.zeros(len(family.parameters))
  identity = zeros + (family.identity or zeros)
  fields = family.velocity(shape)
  assert fields.shape == (len(family.parameters), *shape, 2)
  for i, (name, field) in enumerate(
    zip(family.parameters, fields, strict=True)
  ):
    change = np.zeros_like(identity)
    change[i] = step * UNITS.get(name, 1.0)
    ends = [np.squeeze(identity + sign * change) for sign in (1, -1)]
    motion = family.matrix(ends[0]) - family.matrix(ends[1])
    difference = np.einsum("ij,hwj->hwi", motion / (2 * step), points)
    np.testing.assert_allclose(field, difference[..., :2], atol=1e-6)


def test_displacement_has_its_closed_forms():
  intensity = np.random.default_rng(1).uniform(size=(9, 9))
  assert translation.displacement((3, -4), intensity) == pytest.approx(5)
  ring = np.zeros((9, 9))
  ring[4, 8] = ring[0, 4] = 2  # 4 px from the centre
  turned = rotation.displacement(60, ring)
  assert turned == pytest.approx(2 * 4 * np.sin(np.radians(30)))
  ring[4, 4] = 4  # half of the intensity does not move
  grown = scaling.displacement(np.log2(1.5), ring)
  assert grown == pytest.approx(4 * 0.5 / np.sqrt(2))
  assert np.isnan(rotation.displacement(60, np.zeros((9, 9))))


def test_lost_intensity_is_what_a_shift_pushes_out(digits):
  intensity = digits.astype(np.float64).sum(axis=(0, 3))
  for dx in (0, 6, 9):
    kept = translation.warp(digits, (dx, 0)).astype(jnp.float32).sum()
    lost = 1 - float(kept) / intensity.sum()
    assert translation.lost_intensity((dx, 0), intensity) == pytest.approx(
      lost, abs=1e-6
    )
  assert lost > 0.01  # the last shift does lose something
  assert rotation.lost_intensity(90, intensity) == 0
  assert translation.lost_intensity((9, 0), intensity, border="circular") == 0


def test_validity_is_where_a_warp_reads_inside():
  assert translation.valid((2, 0), (4, 5)).tolist() == [[0, 0, 1, 1, 1]] * 4
  assert rotation.valid(90, (6, 6)).all()
  assert not rotation.valid(45, (6, 6))[0, 0]


def test_magnitude_and_identity():
  assert translation.magnitude((3, -4)) == 5
  assert rotation.magnitude(-30) == 30
  assert rotation.is_identity(360)
  assert not rotation.is_identity(1e-9)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: translation.matrix(3.0), "translation takes 2 parameters"),
    (lambda: rotation.matrix(np.nan), "rotation parameter is not finite"),
    (lambda: scaling.matrix(np.inf), "scaling parameter is not finite"),
    (lambda: transforms.log2_factor(0), "factor 0 is not positive"),
    (lambda: transforms.log2_factor(-1.2), r"factor -1\.2 is not positive"),
    (
      lambda: rotation.warp(jnp.zeros((1, 4, 4, 1)), 3, order=2),
      r"order=2 is not one of \(1, 3\)",
    ),
    (
      lambda: rotation.warp(jnp.zeros((1, 4, 4, 1)), 3, border="wrap"),
      "border='wrap' is not one of",
    ),
  ],
)
def test_wrong_values_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize(
  "images", [np.zeros((4, 4, 1), np.float32), np.zeros((1, 4, 4, 1), np.uint8)]
)
def test_images_of_the_wrong_kind_are_refused(images):
  # Beneath the annotations that tests check and users' programs do not.
  unchecked = inspect.unwrap(transforms.affine_warp)
  with pytest.raises(ValueError, match="images must be floating point"):
    unchecked(images, np.eye(3))
