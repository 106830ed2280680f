import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis.filters import derivative_of_gaussian, fit_edge


def _apart(one, other):
  """Angle between two directions, in degrees."""
  return abs((one - other + 180) % 360 - 180)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  orientation=st.floats(-179, 179),
  scale=st.floats(0.7, 2.0),
  row=st.floats(-0.8, 0.8),
  column=st.floats(-0.8, 0.8),
  offset=st.floats(-1, 1),
)
def test_an_edge_detector_is_found_exactly(
  orientation, scale, row, column, offset
):
  kernel = derivative_of_gaussian(5, orientation, scale, (row, column))
  kernel = 3 * kernel + offset
  fit = fit_edge(kernel)
  assert fit.r_squared > 0.999
  assert _apart(fit.orientation, orientation) < 1
  np.testing.assert_allclose(fit.fitted, kernel, atol=0.05)


def test_brightness_on_the_right_points_right_and_up_is_90_degrees():
  columns = np.tile(np.arange(5.0) - 2, (5, 1))
  assert fit_edge(columns).orientation == pytest.approx(0, abs=1e-3)
  assert fit_edge(columns.T[::-1]).orientation == pytest.approx(90, abs=1e-3)


def test_scaling_and_offset_change_nothing_and_the_sign_turns_around():
  kernel = np.random.default_rng(0).normal(size=(5, 5))
  fit, other = fit_edge(kernel), fit_edge(40 * kernel + 3)
  assert other.r_squared == pytest.approx(fit.r_squared, abs=1e-6)
  assert _apart(other.orientation, fit.orientation) < 0.1
  turned = fit_edge(-kernel)
  assert turned.r_squared == pytest.approx(fit.r_squared, abs=1e-6)
  assert _apart(turned.orientation, fit.orientation) == pytest.approx(
    180, abs=0.1
  )


def test_what_is_no_edge_explains_little():
  """A centre-surround filter and a checkerboard have no bright side."""
  y, x = np.mgrid[-2:3, -2:3]
  ring = np.exp(-(x**2 + y**2) / 2) - np.exp(-(x**2 + y**2) / 8) / 4
  board = (-1.0) ** (x + y)
  assert fit_edge(board).r_squared < 0.35
  assert fit_edge(ring).r_squared < 0.75
  edge = derivative_of_gaussian(5, 30, 1.0)
  noisy = edge + 0.5 * np.std(edge) * np.random.default_rng(0).normal(
    size=(5, 5)
  )
  assert 0.6 < fit_edge(noisy).r_squared < 0.95


def test_the_grid_and_the_refinement_find_the_best_of_many_starts():
  """Against a much finer grid of scales and centres."""
  from analysis import filters

  kernel = np.random.default_rng(3).normal(size=(5, 5))
  deviations = kernel - kernel.mean()
  best = 0.0
  for scale in np.linspace(0.4, 4.0, 25):
    for row in np.linspace(-1.5, 1.5, 25):
      for column in np.linspace(-1.5, 1.5, 25):
        basis = filters._derivatives((5, 5), scale, (row, column))
        _, fitted = filters._project(basis, deviations)
        best = max(best, (fitted**2).sum() / (deviations**2).sum())
  assert fit_edge(kernel).r_squared > best - 0.005


def test_equal_weights_have_no_direction():
  fit = fit_edge(np.full((5, 5), 0.3))
  assert np.isnan(fit.r_squared)
  assert np.isnan(fit.orientation)


@pytest.mark.parametrize(
  ("kernel", "message"),
  [
    (np.zeros((2, 2)), r"shape \(2, 2\) is not at least 3x3"),
    (np.full((3, 3), np.nan), "not finite"),
  ],
)
def test_filters_that_cannot_be_fitted_are_refused(kernel, message):
  with pytest.raises(ValueError, match=message):
    fit_edge(kernel)
