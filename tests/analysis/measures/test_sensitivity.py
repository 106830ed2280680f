"""Sensitivity maps and the radius, against distances one by one."""

import numpy as np
import pytest

from analysis.measures.invariance import crossing, profile
from analysis.measures.sensitivity import sensitivity_map
from analysis.orbits import measure, measure_arrays, orbit
from analysis.transforms import translation
from tests.analysis import networks, reference, reference_measures
from tests.analysis.measures import stream

GRID = [(dx, dy) for dy in (-1, 0, 1) for dx in (-2, 0, 2)]
LABELS = np.array([0, 1, 1, 2, -1, 0, 2, 2, 1])


def _noise(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _activations(n=9, u=5):
  before = _noise(0, n, u)
  size = np.hypot(*np.transpose(GRID)).astype(np.float32)[:, None, None]
  return before, before + 0.3 * size * _noise(1, len(GRID), n, u)


def _measured(before, after, o=None, name="sensitivity_map", **options):
  table = measure_arrays(
    {"a": before},
    {"a": after},
    [name],
    transformations=o or orbit(translation, GRID),
    **options,
  )
  return {k: rows.reset_index() for k, rows in table.groupby("measure")}


def test_the_map_is_the_invariance_error_of_every_shift():
  before, after = _activations()
  found = _measured(before, after, labels=LABELS)["sensitivity_map"]
  expected = reference.invariance_error(
    before.astype(float), after.astype(float)
  )
  np.testing.assert_allclose(found["value"], expected, rtol=1e-5)
  assert list(found["theta"]) == [f"{x},{y}" for x, y in GRID]
  assert found["value"][4] == 0


def test_the_class_median_divides_by_distances_between_classes():
  before, after = _activations()
  rows = _measured(before, after, labels=LABELS)["sensitivity_map_class_median"]
  median = reference_measures.class_median(before.astype(float), LABELS)
  distances = np.linalg.norm(after - before, axis=-1).mean(axis=1)
  np.testing.assert_allclose(rows["value"], distances / median, rtol=1e-4)


def test_the_profile_is_the_mean_over_shifts_as_far():
  before, after = _activations()
  found = _measured(before, after, labels=LABELS)
  far = np.hypot(*np.transpose(GRID))
  for suffix in ("", "_class_median"):
    values = found[f"sensitivity_map{suffix}"]["value"].to_numpy()
    rows = found[f"sensitivity_profile{suffix}"]
    radii = [0, 1, 2, np.sqrt(5)]
    np.testing.assert_allclose(rows["magnitude"], radii, rtol=1e-6)
    expected = [values[np.isclose(far, r)].mean() for r in radii]
    np.testing.assert_allclose(rows["value"], expected, rtol=1e-6)


@pytest.mark.parametrize("labels", [None, np.zeros(9, int), np.full(9, -1)])
def test_without_two_classes_there_is_no_median_but_a_map(labels):
  before, after = _activations()
  found = _measured(before, after, labels=labels)
  rows = found["sensitivity_map_class_median"]
  assert rows["value"].isna().all()
  assert rows["note"].str.contains("no labels").all()
  assert found["sensitivity_map"]["value"].notna().all()


def test_dead_units_do_not_matter_and_a_constant_layer_is_nan():
  before, after = _activations()
  padded = [
    np.concatenate([a, np.full_like(a[..., :2], 0.7)], -1)
    for a in (before, after)
  ]
  one, other = (_measured(*a, labels=LABELS) for a in (padded, (before, after)))
  for name, rows in other.items():
    np.testing.assert_allclose(one[name]["value"], rows["value"], rtol=1e-5)
  constant = np.full_like(before, 0.1)
  found = _measured(constant, np.stack([constant] * 9), labels=LABELS)
  assert all(rows["value"].isna().all() for rows in found.values())


@pytest.mark.parametrize(
  ("family", "thetas"),
  [
    ("rotation", [0, 90]),
    ("translation", [(0, 0), (1, 0), (2, 0)]),
    ("translation", [(0, 0), (1, 0), (0, 1)]),
  ],
)
def test_what_is_no_grid_of_translations_is_refused_with_a_reason(
  family, thetas
):
  before, after = _activations()
  rows = _measured(before, after[: len(thetas)], orbit(family, thetas))
  row = rows["sensitivity_map"].iloc[0]
  assert np.isnan(row["value"])
  assert "grid" in row["note"]


@pytest.mark.parametrize("size", [7, 64])
def test_padding_has_no_say_and_blocks_only_in_the_median(size):
  before, after = _activations(20)
  labels = np.arange(20) % 3
  rows = stream.rows(sensitivity_map, before, after, size, labels=labels)
  values = [rows["sensitivity_map", i].value for i in range(len(GRID))]
  expected = reference.invariance_error(
    before.astype(float), after.astype(float)
  )
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)
  exact = before.astype(float)
  blocks = [slice(i, i + size) for i in range(0, 20, size)]
  between = [
    np.linalg.norm(exact[b][i] - exact[b][j])
    for b in blocks
    for i in range(len(exact[b]))
    for j in range(i)
    if labels[b][i] != labels[b][j]
  ]
  distances = np.linalg.norm(after - before, axis=-1).mean(axis=1)
  values = [
    rows["sensitivity_map_class_median", i].value for i in range(len(GRID))
  ]
  np.testing.assert_allclose(
    values, distances / np.median(between), rtol=1e-4, atol=1e-7
  )


# --- the radius --------------------------------------------------------------


def test_profile_and_crossing_by_hand():
  levels, means = profile(
    np.array([1, 2, 6, 0]), np.array([2.0, 3.0, 2.0 + 1e-13, 0.0])
  )
  assert levels.tolist() == [0, 2, 3]
  assert means.tolist() == [0, 3.5, 2]
  # From 0 at 0 to 0.4 at 1 to 0.8 at 3: half way is 0.1 / 0.4 of 2 px later.
  at = np.array([1.0, 3.0])
  assert crossing(at, np.array([0.4, 0.8]), 0.5) == pytest.approx(1.5)
  assert crossing(at, np.array([1.0, 0.2]), 0.5) == pytest.approx(0.5)
  assert crossing(at, np.array([0.4, 0.5]), 0.5) == pytest.approx(3)
  assert crossing(at, np.array([0.4, 0.49]), 0.5) is None


def _radius(error, shifts, **options):
  """Of activations with a given invariance error at every shift."""
  before = _noise(2, 12, 4)
  width = np.sqrt(2 * before.astype(float).var(axis=0, ddof=1).sum())
  step = np.asarray(error)[:, None, None] * width * np.eye(4)[0]
  o = orbit(translation, shifts)
  return _measured(before, before + step, o, "invariance_radius", **options)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_radius_is_where_the_mean_error_is_half(batch_size):
  shifts = [(0, 0), (1, 0), (0, -1), (3, 0), (-3, 0)]
  rows = _radius([0, 0.1, 0.3, 0.9, 1.1], shifts, batch_size=batch_size)
  row = rows["invariance_radius"].iloc[0]
  assert row["value"] == pytest.approx(1 + (0.5 - 0.2) / 0.8 * 2, rel=1e-5)
  assert (row["unit"], row["note"]) == ("px", "")
  moved = rows["invariance_radius_px"].iloc[0]
  assert np.isnan(moved["value"])  # the images are not known
  assert "not known" in moved["note"]


def test_an_invariant_layer_is_beyond_the_grid():
  row = _radius([0, 0, 0.49], [(0, 0), (1, 0), (4, 0)])["invariance_radius"]
  assert row["value"][0] == np.inf
  assert row["note"][0] == "beyond the grid, which ends at 4"
  identity = _radius([0], [(0, 0)])["invariance_radius"]
  assert identity["value"][0] == np.inf


def test_a_constant_layer_has_no_radius():
  constant = np.ones((5, 3))
  rows = _measured(
    constant,
    constant[None],
    orbit(translation, [(1, 0)]),
    "invariance_radius",
  )
  row = rows["invariance_radius"].iloc[0]
  assert np.isnan(row["value"])
  assert row["note"] == "no unit varies over the images"


def test_in_pixels_it_is_the_displacement_whatever_the_family():
  images = np.zeros((6, 12, 12, 1), np.float32)
  rng = np.random.default_rng(0)
  images[:, 3:9, 3:9] = rng.uniform(size=(6, 6, 6, 1))
  table = measure(
    networks.identity,
    images,
    [
      (translation, [(0, 0), (1, 0), (-1, 0), (2, 0), (3, 0)]),
      ("quarter_turn", [0, 1]),
    ],
    ["invariance_radius", "invariance_error"],
  )
  rows = table.set_index(["measure", "transform"])
  value = rows["value"]
  # Translations move all pixels as far as their magnitude.
  one = value["invariance_radius"]["translation"].item()
  other = value["invariance_radius_px"]["translation"].item()
  assert one == pytest.approx(other, rel=1e-6)
  error = value["invariance_error"]["quarter_turn"].to_numpy()[1]
  assert error > 0.5
  turn = value["invariance_radius"]["quarter_turn"].item()
  assert turn == pytest.approx(0.5 / error, rel=1e-5)
  moved = rows["displacement_px"]["invariance_error"]["quarter_turn"]
  turn_px = value["invariance_radius_px"]["quarter_turn"].item()
  assert turn_px == pytest.approx(0.5 / error * moved.max(), rel=1e-5)
