"""Same-equivariance variance against the published package, tmeasures."""

from typing import Any

import jax
import numpy as np
import pytest

from analysis.orbits import measure_arrays, orbit
from tests.analysis.measures import stored
from tests.analysis.networks import Where

CASES = ("circ_roll", "zero_roll", "circ_rot90", "sym_rot90")
ROWS = {
  "tv": "same_equivariance_transformation_variance",
  "sv": "same_equivariance_sample_variance",
  "nv": "same_equivariance_variance",
}


@pytest.fixture(scope="module")
def archive(fixtures):
  return stored.load(fixtures, "tmeasures_eqv")


def _orbit(case, parameters):
  if case.endswith("roll"):
    shifts = [(dx, dy) for dy, dx in parameters]
    return orbit("translation", shifts, border="circular")
  return orbit("quarter_turn", parameters)


def _measured(archive, case, o=None, **options):
  arrays, description = archive
  described = description["cases"][case]
  run = jax.jit(
    lambda x: stored.apply(described["layers"], arrays, x, described["kernels"])
  )
  before: dict[str, Any] = run(arrays["images"])
  moved = [run(x) for x in arrays[f"{case}__xt"]]
  after = {k: np.stack([a[k] for a in moved]) for k in before}
  np.testing.assert_allclose(
    before["relu2"], arrays[f"{case}__act_relu2"], atol=1e-5
  )
  return measure_arrays(
    before,
    after,
    ["same_equivariance_variance"],
    per_unit=True,
    transformations=o or _orbit(case, arrays[f"{case}__t_params"].tolist()),
    geometry={
      k: Where(1, 0.0, 3, True) if a.shape[1] == 14 else Where(2, 0.5, 4, True)
      for k, a in before.items()
    },
    image_shape=(14, 14),
    **options,
  )


@pytest.fixture(scope="module")
def ours(archive):
  return {case: _measured(archive, case, batch_size=7) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_every_unit_has_tmeasures_value(archive, ours, case):
  arrays, description = archive
  described = description["cases"][case]
  for name in described["layer_order"]:
    tv, sv, nv = (ours[case][1][ROWS[k]][name] for k in ROWS)
    stem = f"{case}__{{}}_{name}"
    expected_tv, expected_sv, expected = (
      arrays[stem.format(k)] for k in ("tv", "sv", "nv")
    )
    np.testing.assert_allclose(tv, expected_tv, atol=2e-6, rtol=0)
    np.testing.assert_allclose(sv, expected_sv, atol=2e-6, rtol=0)
    sure = expected_sv > 1e-4
    np.testing.assert_allclose(nv[sure], expected[sure], rtol=1e-4, atol=1e-5)
    dead = (tv == 0) & (sv == 0)
    assert (nv[dead] == 1).all()
    count = described["unit_counts"][name]["exactly_one_from_0_over_0"]
    assert dead.sum() == count
    rows = ours[case][0].set_index(["layer", "measure"])
    assert (rows["dead_fraction"][name] == count / dead.size).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", ROWS)
def test_layer_averages_are_tmeasures_averages(archive, ours, case, key):
  arrays, description = archive
  order = description["cases"][case]["layer_order"]
  rows = ours[case][0].set_index(["measure", "layer"])["value"]
  # Every position is always inside: only the ratio has a mean of its own.
  found = rows[ROWS[key] + ("_reference" if key == "nv" else "")][order]
  np.testing.assert_allclose(
    found, arrays[f"{case}__{key}_layer_average"], atol=1e-5, rtol=0
  )


def test_dead_units_have_no_say_in_the_ratio_of_means(archive, ours):
  rows = ours["sym_rot90"][0].set_index(["measure", "layer"])["value"]
  assert (rows["same_equivariance_variance"] < 1e-5).all()
  assert rows["same_equivariance_variance_reference"]["relu2"] > 0.2
  shifted = ours["circ_roll"][0].set_index("measure")["value"]
  assert shifted["same_equivariance_variance"].max() < 1e-6
  broken = ours["zero_roll"][0].set_index("measure")["value"]
  assert broken["same_equivariance_variance"].min() > 0.1


def test_rotations_by_90_degrees_are_quarter_turns(archive, ours):
  o = orbit("rotation", [0, 90, 180, 270])
  _, units = _measured(archive, "sym_rot90", o)
  for row in ROWS.values():
    for name, values in units[row].items():
      expected = ours["sym_rot90"][1][row][name]
      np.testing.assert_allclose(values, expected, atol=1e-5)


def test_the_wrong_offset_or_direction_shows(archive):
  back = orbit("quarter_turn", [0, -1, -2, -3])
  table, _ = _measured(archive, "sym_rot90", back)
  rows = table.set_index(["measure", "layer"])["value"]
  assert rows["same_equivariance_variance"]["relu1"] > 0.1


def test_positions_outside_are_left_out_of_the_ratio_of_means():
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(9, 6, 6, 2)).astype(np.float32)
  after = np.stack([maps, np.roll(maps, 2, axis=2)])
  after[1, :, :, :2] = 5 * rng.normal(size=(9, 6, 2, 2))  # came from outside
  table, units = measure_arrays(
    {"a": maps},
    {"a": after},
    ["same_equivariance_variance"],
    per_unit=True,
    transformations=orbit("translation", [(0, 0), (2, 0)]),
    geometry={"a": Where(1, 0.0, 1, True)},
    image_shape=(6, 6),
  )
  rows = table.set_index("measure")["value"]
  assert rows["same_equivariance_variance"] == 0
  assert rows["same_equivariance_transformation_variance"] == 0
  # Wherever t^-1 reads outside, it reads 0: the published mean counts it.
  zero = np.stack([maps[:, :, 4:], np.zeros_like(maps[:, :, 4:])])
  tv = units["same_equivariance_transformation_variance"]["a"]
  np.testing.assert_allclose(
    tv[:, 4:], zero.astype(np.float64).std(axis=0, ddof=1).mean(0), rtol=1e-5
  )
  assert (tv[:, :4] == 0).all()
  assert rows["same_equivariance_variance_reference"] > 0.1


@pytest.mark.parametrize("size", [1, 64])
def test_the_batch_size_changes_nothing(archive, ours, size):
  table, _ = _measured(archive, "zero_roll", batch_size=size)
  np.testing.assert_allclose(
    table["value"], ours["zero_roll"][0]["value"], rtol=1e-5
  )


def test_without_geometry_there_is_a_reason():
  maps = np.random.default_rng(0).normal(size=(4, 5, 5, 1))
  row = measure_arrays(
    {"a": maps}, {"a": np.stack([maps] * 2)}, ["same_equivariance_variance"]
  ).iloc[0]
  assert np.isnan(row["value"])
  assert "geometry" in row["note"]
