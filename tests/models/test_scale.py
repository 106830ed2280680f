import jax.numpy as jnp
import numpy as np
import pytest

from analysis.transforms import scaling
from models import layers, scale
from models.cnn import CNN
from models.geometry import layer_geometries


def _random(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("factor", [2**0.25, 2**0.5, 2.0])
def test_magnifying_is_the_warp_that_is_measured_with(digits, factor):
  ours = scale.rescale(jnp.asarray(digits[:4]), factor)
  warped = scaling.warp(digits[:4], float(np.log2(factor)))
  np.testing.assert_allclose(ours, warped, atol=1e-5)


def test_reducing_averages_instead_of_skipping():
  stripes = jnp.tile(jnp.asarray([0.0, 1.0]), 8).reshape(1, 1, 16, 1)
  image = jnp.broadcast_to(stripes, (1, 16, 16, 1))
  inside = scale.rescale(image, 0.5)[:, 5:11, 5:11]
  np.testing.assert_allclose(inside, 0.5, atol=1e-6)
  # Content keeps its place about the centre, and its amount by area.
  blob = jnp.zeros((1, 16, 16, 1)).at[0, 6:10, 6:10].set(1.0)
  small = np.asarray(scale.rescale(blob, 0.5))
  assert small.sum() == pytest.approx(4, rel=0.05)
  np.testing.assert_allclose(small, small[:, ::-1, ::-1], atol=1e-6)


def test_one_scale_is_an_ordinary_convolution():
  x, kernel, bias = _random(2, 8, 8, 3), _random(3, 3, 3, 4), _random(4)
  np.testing.assert_allclose(
    scale.scale_convolution(x, kernel, bias, scales=(1.0,), padding=1),
    layers.convolution(x, kernel, bias, padding=1),
    atol=1e-6,
  )


def test_the_largest_response_of_the_pyramid_is_taken():
  x, kernel, bias = _random(1, 8, 8, 1), _random(3, 3, 1, 2), _random(2)
  scales = (0.5, 1.0, 2.0)
  parts = [
    scale.rescale(
      layers.convolution(scale.rescale(x, s), kernel, jnp.zeros(2), padding=1),
      1 / s,
    )
    for s in scales
  ]
  expected = np.max(parts, axis=0) + np.asarray(bias)
  maps = scale.scale_convolution(x, kernel, bias, scales=scales, padding=1)
  np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_the_largest_response_of_a_pyramid_changes_less_with_scale(digits):
  """By a quarter octave, over 30 random kernels; far from exactly invariant.

  The ends of the pyramid lose what moves beyond them, so that two octaves in
  all are needed for a fifth less.
  """
  x = jnp.asarray(digits)
  kernel = _random(5, 5, 1, 30)

  def error(scales):
    def run(x):
      maps = scale.scale_convolution(
        x, kernel, jnp.zeros(30), scales=scales, padding=2
      )
      return maps.max((1, 2))

    still, moved = run(x), run(scale.rescale(x, 2**0.25))
    return float(jnp.linalg.norm(moved - still) / jnp.linalg.norm(still))

  pyramid = tuple(2.0 ** (i / 4) for i in range(-4, 5))
  assert error(pyramid) < 0.9 * error((1.0,))


def test_the_pyramid_s_maps_lie_where_a_convolution_s_lie():
  plain = CNN(depth=2, width=2)
  pyramid = CNN(depth=2, width=2, scales=(0.5, 1.0))
  assert layer_geometries(pyramid.specs, 32) == plain.geometry(32)
  assert pyramid.parameter_counts(32) == plain.parameter_counts(32)


def test_a_factor_of_zero_is_refused():
  with pytest.raises(ValueError, match="scale factor 0 is not positive"):
    scale.rescale(jnp.zeros((1, 4, 4, 1)), 0)
