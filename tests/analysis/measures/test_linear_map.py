"""Ridge regression on explicit design matrices, and maps known exactly."""

from typing import Any

import numpy as np
import pytest

from analysis.orbits import measure_arrays, orbit
from tests.analysis import reference_measures
from tests.analysis.networks import Where

SIZE = 6
SHIFTS = ((0, 0), (2, -1))  # (dx, dy)
POSITIONS = [(j, i) for j in range(SIZE) for i in range(SIZE)]


def _measured(before, after, shifts=SHIFTS, **options):
  mapped = before.ndim == 4
  known: dict[str, Any] = {
    "transformations": orbit("translation", shifts, border="circular"),
    "geometry": {"a": Where(1, 0.0, 3, True)},
    "image_shape": (SIZE, SIZE),
  }
  return measure_arrays(
    {"a": before},
    {"a": after},
    ["equivariant_map"],
    **(known if mapped else {}),
    **options,
  )


def _values(table):
  """{form: values of all elements}."""
  return {
    name.removeprefix("equivariant_map_"): rows["value"].to_numpy()
    for name, rows in table.groupby("measure")
  }


def _maps(seed, n=20, c=3):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, SIZE, SIZE, c)).astype(np.float32)


def _shifted(maps, shifts=SHIFTS):
  return np.stack([np.roll(maps, (dy, dx), axis=(1, 2)) for dx, dy in shifts])


def test_a_layer_that_moves_along_is_geometric():
  maps = _maps(0)
  values = _values(_measured(maps, _shifted(maps)))
  np.testing.assert_allclose(values["geometric"], 1, atol=1e-6)
  np.testing.assert_allclose(values["1x1"], 1, atol=1e-4)
  np.testing.assert_allclose(values["3x3"], 1, atol=1e-4)
  assert values["none"][0] == 1
  assert values["none"][1] < 0  # independent positions: about -1


def test_a_permutation_of_channels_needs_1x1():
  maps = _maps(1)
  values = _values(_measured(maps, _shifted(maps[..., [2, 0, 1]])))
  assert (values["none"] < 0.5).all()
  assert (values["geometric"] < 0.5).all()
  assert (values["1x1"] > 0.999).all()
  assert (values["3x3"] > 0.999).all()


def test_a_convolution_needs_3x3():
  maps = _maps(2)
  kernel = np.random.default_rng(3).normal(size=(3, 3, 3, 3))
  padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
  mixed = np.sum(
    [
      padded[:, j : j + SIZE, i : i + SIZE] @ kernel[j, i]
      for j in range(3)
      for i in range(3)
    ],
    axis=0,
  )
  values = _values(_measured(maps, _shifted(mixed.astype(np.float32))))
  assert (values["1x1"] < 0.5).all()
  assert (values["3x3"] > 0.999).all()


def test_unrelated_maps_are_about_0_once_fitted():
  values = _values(_measured(_maps(4, n=60), np.stack([_maps(5, n=60)] * 2)))
  assert np.abs(values["1x1"]).max() < 0.05
  assert np.abs(values["3x3"]).max() < 0.1
  np.testing.assert_allclose(values["geometric"], -1, atol=0.2)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_it_is_ridge_regression_of_even_images_judged_on_odd(batch_size):
  maps = _maps(6, n=13)
  noise = _maps(7, n=13)
  kept = 0.7 * maps + 0.3 * np.roll(maps, 1, axis=2)[..., [1, 2, 0]] + 1
  after = _shifted((kept + 0.5 * noise).astype(np.float32))
  values = _values(_measured(maps, after, batch_size=batch_size))
  exact = maps.astype(np.float64)
  for element, (dx, dy) in enumerate(SHIFTS):
    moved = after[element].astype(np.float64)
    aligned = np.roll(moved, (-dy, -dx), axis=(1, 2))
    for form, size in (("1x1", 1), ("3x3", 3)):
      expected = reference_measures.equivariant_map(
        exact, aligned, POSITIONS, size
      )
      assert values[form][element] == pytest.approx(expected, abs=1e-4)
    for form, target in (("none", moved), ("geometric", aligned)):
      own, target = (a[1::2].reshape(-1, 3) for a in (exact, target))
      expected = reference_measures.r_squared(own, target)
      assert values[form][element] == pytest.approx(expected, abs=1e-5)


def test_a_layer_without_positions_has_a_mixing_of_its_units():
  rng = np.random.default_rng(8)
  before = rng.normal(size=(60, 4)).astype(np.float32)
  turn = rng.normal(size=(4, 4)).astype(np.float32)
  noise = rng.normal(size=(60, 4)).astype(np.float32)
  table = _measured(before, np.stack([before, before @ turn + 2, noise]))
  values = _values(table)
  assert values["none"][0] == 1
  np.testing.assert_allclose(values["1x1"][:2], 1, atol=1e-4)
  assert values["1x1"][2] < 0.2
  expected = reference_measures.equivariant_map(
    before[:, None, None].astype(float), noise[:, None, None], [(0, 0)], 1
  )
  assert values["1x1"][2] == pytest.approx(expected, abs=1e-4)
  assert np.isnan(values["geometric"]).all()
  assert np.isnan(values["3x3"]).all()


def test_only_positions_that_are_always_inside_are_used():
  maps = _maps(9)
  after = _shifted(maps)
  after[1, :, :, :2] = 9  # what came in at the left
  after[1, :, -1:] = -9  # and below
  table = measure_arrays(
    {"a": maps},
    {"a": after},
    ["equivariant_map"],
    transformations=orbit("translation", SHIFTS),
    geometry={"a": Where(1, 0.0, 3, True)},
    image_shape=(SIZE, SIZE),
  )
  np.testing.assert_allclose(_values(table)["geometric"], 1, atol=1e-6)


def test_dead_channels_do_not_break_the_fit():
  maps = _maps(10)
  maps[..., 1] = 0
  values = _values(_measured(maps, _shifted(maps)))
  for form in ("geometric", "1x1", "3x3"):
    np.testing.assert_allclose(values[form], 1, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_constant_layer_has_no_value_and_says_why(constant):
  maps = np.full((8, SIZE, SIZE, 2), constant, np.float32)
  table = _measured(maps, np.stack([maps] * 2))
  assert table["value"].isna().all()
  assert (table["note"] == "the held-out images do not vary").all()


def test_what_is_too_wide_or_nowhere_has_a_reason():
  wide = np.random.default_rng(0).normal(size=(4, 257)).astype(np.float32)
  table = measure_arrays({"a": wide}, {"a": wide[None]}, ["equivariant_map"])
  assert table["value"].isna().all()
  maps = _maps(11)
  table = measure_arrays({"a": maps}, {"a": maps[None]}, ["equivariant_map"])
  assert table["value"].isna().all()
  assert table["note"].str.contains("place is not known").all()
