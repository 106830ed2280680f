"""Lie derivatives against the stored float64 values and exact shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import gradients
from analysis.orbits import measure, measure_arrays, orbit
from analysis.transforms import compose, rotation, scaling, shear, translation
from tests.analysis import reference_measures
from tests.analysis.measures import stored
from tests.analysis.networks import Where

STEMS = ("lie_w32", "lie_w33")
GENERATORS = (
  (translation, ("tx", "ty")),
  (rotation, ("rot",)),
  (scaling, ("scale",)),
)
# The published code's positive direction, in terms of ours.
SIGNS = {"tx": -1, "ty": -1, "rot": -1, "scale": 1}
LARGEST = {translation: (1, 1), rotation: 15, scaling: 0.3}


@pytest.fixture(scope="module", params=STEMS)
def archive(fixtures, request):
  return stored.load(fixtures, request.param)


def _network(archive):
  arrays, description = archive

  def fn(images):
    layers = stored.apply(description["layers"], arrays, images)
    return layers[description["layer_order"][-2]], {
      k: layers[k] for k in ("conv1", "softmax")
    }

  return fn


def _probabilities(archive):
  fn = _network(archive)
  return jax.jit(lambda images: fn(images)[1]["softmax"])


def _derivatives(archive, gradient, dtype):
  """{generator: (n, 10)}."""
  images = jnp.asarray(archive[0]["images"].astype(dtype))
  fn, found = _probabilities(archive), {}
  for family, names in GENERATORS:
    values = gradients.lie_derivative(fn, images, family, gradient=gradient)
    found |= dict(zip(names, values, strict=True))
  return found


# --- the stored values -------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
def test_it_is_the_spectral_derivative(archive, double):
  arrays, _ = archive
  with jax.enable_x64(double):
    found = _derivatives(archive, "spectral", "f8" if double else "f4")
    found = {k: np.asarray(v, np.float64) for k, v in found.items()}
  for name, values in found.items():
    expected = arrays[f"ref_{name}"]
    error = np.abs(values - expected).max()
    assert error < (1e-9 if double else 1e-4 * np.abs(expected).max())


def test_directions_are_the_spectral_velocities(archive):
  arrays, _ = archive
  with jax.enable_x64(True):
    images = jnp.asarray(arrays["images"].astype(np.float64))
    for family, names in GENERATORS:
      found = gradients.directions(images, family, "spectral")
      for values, name in zip(found, names, strict=True):
        np.testing.assert_allclose(values, arrays[f"v_{name}"], atol=1e-10)


def test_the_published_kind_is_what_the_published_code_computes(archive):
  arrays, _ = archive
  found = _derivatives(archive, "published", "f4")
  for name, values in found.items():
    expected = SIGNS[name] * arrays[f"ld_{name}"]
    np.testing.assert_allclose(values, expected, atol=1e-5, rtol=0)
  with jax.enable_x64(True):
    found = _derivatives(archive, "published", "f8")
    for name, values in found.items():
      expected = SIGNS[name] * arrays[f"fwd_{name}"]
      np.testing.assert_allclose(values, expected, atol=1e-9, rtol=0)


def test_the_measures_are_means_over_images(archive):
  arrays, description = archive
  table = measure(
    _network(archive),
    arrays["images"],
    [orbit(family, [LARGEST[family]]) for family, _ in GENERATORS],
    ["lie_derivative", "lie_derivative_reference"],
    batch_size=7,
  )
  order = [name for _, names in GENERATORS for name in names]
  rows = table.set_index(["measure", "layer"])["value"]
  variance = arrays["probs"].var(axis=0, ddof=1).sum()
  squares = [(arrays[f"ref_{k}"] ** 2).sum(axis=1).mean() for k in order]
  np.testing.assert_allclose(
    rows["lie_derivative"]["softmax"],
    np.array(squares) / (2 * variance),
    rtol=1e-4,
  )
  for row, key in (
    ("lie_derivative_reference", "mean_square_lie_deriv"),
    ("lie_derivative_reference_abs", "mean_abs_lie_deriv"),
  ):
    expected = [description["results"][k][key] for k in order]
    np.testing.assert_allclose(rows[row]["output"], expected, rtol=1e-5)
  found = table[table["measure"] == "lie_derivative_reference"]["theta"]
  assert list(found) == ["d/ddx", "d/ddy", "d/dangle_deg", "d/dlog2_factor"]


# --- the equivariant form ----------------------------------------------------

SIZE = 16


@pytest.fixture(scope="module")
def smooth():
  return reference_measures.smooth_images(6, SIZE, 0).astype(np.float32)


def _kernels():
  rng = np.random.default_rng(1)
  return [rng.normal(size=s) / 3 for s in ((3, 3, 1, 3), (3, 3, 3, 2))]


def _stack(images, act):
  """Two circular convolutions; `act` after the first."""
  hidden = act(reference_measures.circular_convolution(images, _kernels()[0]))
  return hidden, reference_measures.circular_convolution(hidden, _kernels()[1])


def _layers(act):
  def convolve(x, kernel):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    return jax.lax.conv_general_dilated(
      x,
      jnp.asarray(kernel, x.dtype),
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  def fn(images):
    hidden = act(convolve(images, _kernels()[0]))
    output = convolve(hidden, _kernels()[1])
    return output.mean(axis=(1, 2)), {"hidden": hidden, "mixed": output}

  return fn


def _lie(fn, images, o, name="lie_derivative"):
  geometry = {k: Where(1, 0.0, 5, True) for k in ("hidden", "mixed")}
  table = measure(fn, images, o, [name], geometry=geometry)
  return table.set_index(["measure", "layer"])["value"]


CIRCULAR = orbit(translation, [(0, 0), (1, 0)], border="circular")


def test_linear_circular_convolutions_are_exactly_equivariant(smooth):
  rows = _lie(_layers(lambda x: x), smooth, CIRCULAR)
  assert rows["lie_derivative_equivariant"].max() < 1e-8
  assert rows["lie_derivative"][["hidden", "mixed"]].min() > 1e-3


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_it_is_the_slope_under_exact_fourier_shifts(smooth, sharpness):
  rows = _lie(_layers(lambda x: jnp.tanh(sharpness * x)), smooth, CIRCULAR)
  exact = smooth.astype(np.float64)
  step = 1e-3

  def after(dx, dy):
    moved = reference_measures.fourier_shift(exact, dx, dy)
    return _stack(moved, lambda x: np.tanh(sharpness * x))

  for i, layer in enumerate(("hidden", "mixed")):
    variance = after(0, 0)[i].var(axis=0, ddof=1).sum()
    for form in ("lie_derivative", "lie_derivative_equivariant"):
      found = rows[form][layer].to_numpy()
      for axis, direction in enumerate(np.eye(2) * step):
        ends = []
        for sign in (1, -1):
          dx, dy = sign * direction
          maps = after(dx, dy)[i]
          if form.endswith("equivariant"):
            maps = reference_measures.fourier_shift(maps, -dx, -dy)
          ends.append(maps)
        slope = (ends[0] - ends[1]) / (2 * step)
        expected = (slope**2).sum() / len(exact) / (2 * variance)
        # Squares of float32 differences of terms of size 1.
        assert found[axis] == pytest.approx(expected, rel=2e-3, abs=1e-9)
      assert (
        form != "lie_derivative_equivariant"
        or sharpness < 6
        or (found > 1e-6).all()
      )  # aliasing: it is not 0


def test_the_pixels_are_equivariant_along_every_generator(smooth):
  def pixels(images):
    return images.mean(axis=(1, 2)), {"hidden": images}

  geometry = {"hidden": Where(1, 0.0, 1, True)}
  for family in (translation, rotation, scaling, shear):
    largest = LARGEST.get(family, (0.1, 0))
    table = measure(
      pixels,
      smooth,
      orbit(family, [largest]),
      ["lie_derivative", "lie_derivative_cubic"],
      geometry=geometry,
    )
    equivariant = table["measure"].str.endswith("equivariant") & (
      table["layer"] == "hidden"
    )
    assert table["value"][equivariant].max() < 1e-9
    own = table["measure"].isin(["lie_derivative", "lie_derivative_cubic"])
    assert table["value"][own].min() > 0


# --- generators --------------------------------------------------------------


@pytest.mark.parametrize(
  ("family", "identity", "unit"),
  [
    (translation, (0, 0), (1, 1)),
    (rotation, (0,), (np.pi / 180,)),
    (scaling, (0,), (np.log(2),)),
    (shear, (0, 0), (1, 1)),
    (compose(scaling, rotation), (0, 0), (np.log(2), np.pi / 180)),
  ],
  ids=lambda value: getattr(value, "name", ""),
)
def test_the_cubic_gradient_is_the_slope_of_cubic_warps(
  smooth, family, identity, unit
):
  with jax.enable_x64(True):
    images = jnp.asarray(smooth.astype(np.float64))
    found = np.asarray(gradients.directions(images, family, "cubic"))
    assert len(found) == len(identity)
    step = 1e-4
    for i, values in enumerate(found):
      # Steps of equal size in radians, natural logs and pixels.
      change = np.zeros(len(identity))
      change[i] = step / unit[i]
      theta = np.add(identity, change), np.subtract(identity, change)
      one, other = (
        family.warp(images, t if len(t) > 1 else float(t[0]), order=3)
        for t in theta
      )
      slope = np.asarray(one - other, np.float64) / (2 * step)
      # A spline's third derivative jumps at the pixels: first order in step,
      # over up to half a canvas.
      scale = np.abs(values).max()
      # At the border a coordinate just outside may count as outside.
      inner = (slice(None), slice(1, -1), slice(1, -1))
      error = np.abs(slope - values)[inner].max()
      assert error < 2e-3 * scale


@pytest.mark.parametrize("gradient", gradients.GRADIENTS)
@pytest.mark.parametrize("size", [9, 12])
def test_gradients_are_exact_where_they_should_be(gradient, size):
  matrix = gradients.derivative_matrix(size, gradient)
  x = np.arange(size)
  if gradient == "spectral":
    wave = 2 * np.pi * 3 / size
    np.testing.assert_allclose(
      matrix @ np.sin(wave * x), wave * np.cos(wave * x), atol=1e-12
    )
  elif gradient == "one_sided":
    np.testing.assert_allclose(matrix[:-1] @ x**2, (2 * x + 1)[:-1])
    assert matrix[-1] @ x**2 == -(2 * x[-1] - 1)  # mirrored
  else:
    blob = np.exp(-((x - x.mean()) ** 2) / 4)
    np.testing.assert_allclose(
      matrix @ blob, -(x - x.mean()) / 2 * blob, atol=0.03
    )
  with pytest.raises(ValueError, match="gradient='sobel'"):
    gradients.derivative_matrix(size, "sobel")


# --- degenerate cases --------------------------------------------------------


def test_what_has_no_derivative_says_why(smooth):
  fn = _layers(jnp.tanh)
  table = measure(fn, smooth, [("quarter_turn", [0, 1])], ["lie_derivative"])
  assert table["value"].isna().all()
  assert table["note"].str.contains("discrete").all()
  with pytest.raises(ValueError, match="discrete"):
    gradients.lie_derivative(
      fn, smooth, compose(orbit("quarter_turn", [1]).family)
    )
  noise = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  for name in ("lie_derivative", "lie_derivative_reference"):
    row = measure_arrays({"a": noise}, {"a": noise[None]}, [name]).iloc[0]
    assert np.isnan(row["value"])
    assert "measure()" in row["note"]


def test_a_constant_layer_is_nan_and_an_invariant_one_0(smooth):
  def fn(images):
    total = images.sum(axis=(1, 2))  # of a periodic canvas
    return total, {"total": total, "constant": total * 0 + 1}

  rows = _lie(fn, smooth, CIRCULAR)["lie_derivative"]
  assert (rows["total"] < 1e-9).all()
  assert rows["constant"].isna().all()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_changes_nothing(smooth, batch_size):
  fn, o = _layers(jnp.tanh), orbit(rotation, [10])
  names = ["lie_derivative", "lie_derivative_cubic", "lie_derivative_reference"]
  geometry = {k: Where(1, 0.0, 5, True) for k in ("hidden", "mixed")}
  table, whole = (
    measure(fn, smooth, o, names, geometry=geometry, batch_size=size)
    for size in (batch_size, 6)
  )
  np.testing.assert_allclose(table["value"], whole["value"], rtol=1e-4)
