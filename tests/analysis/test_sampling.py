import jax.numpy as jnp
import numpy as np
import pytest

from analysis import sampling
from tests.analysis import reference
from tests.analysis.networks import Where


@pytest.mark.parametrize(
  ("stride", "offset", "positions"),
  [(1, 0, 16), (2, 0.5, 8), (2, 0, 8), (4, 1.5, 4), (4, -1, 4), (1, 2, 12)],
)
def test_area_average_is_the_mean_over_each_positions_square(
  stride, offset, positions
):
  images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3))
  matrix = sampling.area_average(16, positions, stride, offset, circular=False)
  ours = np.einsum("ph,nhwc,qw->npqc", matrix, images, matrix)
  where = Where(stride, offset, 1, None)
  expected = reference.area_average(images, where, (positions, positions))
  np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_area_average_wraps_around_a_circular_canvas():
  matrix = sampling.area_average(8, 4, 2, 0, circular=True)
  np.testing.assert_array_equal(matrix.sum(axis=1), 1)
  assert matrix[0, 7] == matrix[0, 1] == 0.25
  assert sampling.area_average(8, 4, 2, 0, circular=False)[0, 7] == 0


def test_a_mirror_does_not_repeat_the_edge():
  taps = sampling.taps(
    np.array([0.0]), np.array([-2.0]), (1, 4), border="reflect"
  )
  assert taps.indices[np.argmax(taps.weights)] == 2


@pytest.mark.parametrize("border", sampling.BORDERS)
def test_cubic_weights_reproduce_the_samples(border):
  """The spline interpolates: at the pixels it is the image, up to the edge."""
  image = np.random.default_rng(1).normal(size=(1, 7, 5, 2)).astype(np.float32)
  y, x = np.mgrid[:7, :5].reshape(2, -1).astype(float)
  taps = sampling.taps(y, x, (7, 5), order=3, border=border)
  coefficients = sampling.spline_coefficients(jnp.asarray(image), border)
  samples = sampling.resample(coefficients, taps)
  np.testing.assert_allclose(samples.reshape(image.shape), image, atol=3e-6)
