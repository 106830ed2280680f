"""Normalised variance against the published package, tmeasures."""

import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from analysis.measures.variance import quotient
from analysis.orbits import measure_arrays

NAMES = {
  "tv": "transformation_variance",
  "sv": "sample_variance",
  "nv": "normalized_variance",
}


@pytest.fixture(scope="module")
def stored(fixtures):
  with np.load(fixtures / "tmeasures_inv.npz", allow_pickle=False) as archive:
    text = (fixtures / "tmeasures_inv.json").read_text()
    return dict(archive), json.loads(text)


def _apply(layers, arrays, x):
  """The stored network: every layer's activation."""
  activations = {}
  for layer in layers:
    name = layer["name"]
    if layer["type"] == "conv":
      x = lax.conv_general_dilated(
        x,
        arrays[f"w_{name}_kernel"],
        layer["strides"],
        layer["padding"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      x = x + arrays[f"w_{name}_bias"][None, None, None]
    elif layer["type"] == "relu":
      x = jax.nn.relu(x)
    elif layer["type"] == "maxpool":
      window, strides = (1, *layer["window"], 1), (1, *layer["strides"], 1)
      x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")
    elif layer["type"] == "flatten":
      x = x.reshape(len(x), -1)
    else:
      x = x @ arrays[f"w_{name}_kernel"] + arrays[f"w_{name}_bias"][None]
    activations[name] = x
  return activations


@pytest.fixture(scope="module")
def ours(stored):
  """(table, values of every unit) by our measure, in batches of 5 images."""
  arrays, description = stored
  apply = jax.jit(lambda x: _apply(description["layers"], arrays, x))
  transformed = [apply(x) for x in arrays["xt"]]
  names = description["layer_order"]
  stacked = {k: np.stack([a[k] for a in transformed]) for k in names}
  shown = description["act_is_for_t_index"]
  for name in names:
    np.testing.assert_allclose(
      stacked[name][shown], arrays[f"act_{name}"], atol=1e-5
    )
  return measure_arrays(
    {k: a[0] for k, a in stacked.items()},
    stacked,
    ["normalized_variance"],
    per_unit=True,
    batch_size=5,
  )


def test_every_unit_has_tmeasures_value(stored, ours):
  arrays, description = stored
  for name in description["layer_order"]:
    tv, sv, nv = (ours[1][NAMES[k]][name] for k in ("tv", "sv", "nv"))
    np.testing.assert_allclose(tv, arrays[f"tv_{name}"], atol=2e-6, rtol=0)
    np.testing.assert_allclose(sv, arrays[f"sv_{name}"], atol=2e-6, rtol=0)
    expected = arrays[f"nv_{name}"]
    assert nv.shape == expected.shape
    sure = arrays[f"sv_{name}"] > 1e-4
    assert sure.any()
    np.testing.assert_allclose(nv[sure], expected[sure], rtol=1e-5)
    np.testing.assert_array_equal(np.isinf(nv), np.isinf(expected))
    dead = (tv == 0) & (sv == 0)
    counts = description["unit_counts"][name]
    assert dead.sum() == counts["exactly_one_from_0_over_0"]
    assert np.isinf(nv).sum() == counts["inf"]
    assert (nv[dead] == 1).all()


@pytest.mark.parametrize("key", NAMES)
def test_layer_averages_are_tmeasures_averages(stored, ours, key):
  arrays, description = stored
  # Their mean over units is our `_reference`; TV and SV have just one mean.
  name = NAMES[key] + ("_reference" if key == "nv" else "")
  table = ours[0].set_index(["measure", "layer"])["value"]
  np.testing.assert_allclose(
    table.loc[name].loc[description["layer_order"]],
    arrays[f"{key}_layer_average"],
    atol=1e-5,
    rtol=0,
  )


def test_the_ratio_of_means_leaves_dead_units_out(stored, ours):
  arrays, description = stored
  table = ours[0][ours[0]["measure"] == "normalized_variance"]
  for row in table.to_dict("records"):
    name = row["layer"]
    tv, sv = arrays[f"tv_{name}"], arrays[f"sv_{name}"]
    assert row["value"] == pytest.approx(tv.sum() / sv.sum(), rel=1e-5)
    dead = description["unit_counts"][name]["exactly_one_from_0_over_0"]
    assert row["dead_fraction"] == pytest.approx(dead / tv.size)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_rules_of_division_hold_on_hand_made_units(stored, batch_size):
  arrays, _ = stored
  edge = arrays["edge_act"]
  table, units = measure_arrays(
    {"edge": edge[0]},
    {"edge": edge},
    ["normalized_variance"],
    per_unit=True,
    batch_size=batch_size,
  )
  for key in ("tv", "sv"):
    np.testing.assert_allclose(
      units[NAMES[key]]["edge"], arrays[f"edge_{key}"], rtol=1e-5, atol=1e-6
    )
  nv = units["normalized_variance"]["edge"]
  np.testing.assert_allclose(nv, arrays["edge_nv"], rtol=1e-5, atol=1e-6)
  assert np.isinf(nv).sum() == 1
  assert nv[0] == nv[1] == 1  # dead, and constant 2.5
  reference = table[table["measure"] == "normalized_variance_reference"]
  expected = np.ravel(arrays["edge_nv_layer_average"])
  np.testing.assert_allclose(reference["value"], expected, rtol=1e-5)


def test_quotient_divides_as_tmeasures_does():
  tv, sv = np.array([0.0, 2.0, 0.0, 3.0]), np.array([0.0, 0.0, 4.0, 2.0])
  assert quotient(tv, sv).tolist() == [1, np.inf, 0, 1.5]


def test_a_layer_that_never_varies_has_no_value_and_says_why():
  constant = np.full((4, 3), 7.0)
  table = measure_arrays(
    {"a": constant}, {"a": np.stack([constant] * 2)}, ["normalized_variance"]
  )
  row = table.set_index("measure").loc["normalized_variance"]
  assert np.isnan(row["value"])
  assert row["note"] == "no unit varies over the images"
  assert row["dead_fraction"] == 1


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
def test_a_large_mean_does_not_cancel(offset):
  """Sums of raw squares in float32 would lose everything at 1e4."""
  rng = np.random.default_rng(0)
  transformed = rng.normal(size=(6, 50, 8)).astype(np.float32)
  moved = (transformed + np.float32(offset)).astype(np.float32)
  exact = moved.astype(np.float64)
  table, units = measure_arrays(
    {"a": moved[0]},
    {"a": moved},
    ["normalized_variance"],
    per_unit=True,
    batch_size=7,
  )
  del table
  np.testing.assert_allclose(
    units["transformation_variance"]["a"],
    exact.std(axis=0, ddof=1).mean(axis=0),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    units["sample_variance"]["a"],
    exact.std(axis=1, ddof=1).mean(axis=0),
    rtol=1e-5,
  )


@pytest.mark.parametrize("count", [3, 70])
@pytest.mark.parametrize("reference", [0.0, 0.1, 1e3])
def test_the_untransformed_activations_have_no_say(reference, count):
  """An orbit without the identity: its spread is its own."""
  rng = np.random.default_rng(1)
  given = rng.normal(size=(count, 9, 4)).astype(np.float32)
  given[:, :, 0] = 0.3  # dead over orbit and images
  given[:, :, 1] = given[:1, :, 1]  # never moved by the orbit
  exact = given.astype(np.float64)
  _, units = measure_arrays(
    {"a": np.full((9, 4), reference)},
    {"a": given},
    ["normalized_variance"],
    per_unit=True,
  )
  np.testing.assert_allclose(
    units["transformation_variance"]["a"],
    exact.std(axis=0, ddof=1).mean(axis=0),
    rtol=1e-5,
    atol=1e-12,
  )
  assert units["normalized_variance"]["a"][:2].tolist() == [1, 0]


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.floats(1e-3, 1e3),
  shift=st.floats(-10, 10),
)
def test_order_scale_and_shift_of_units_do_not_matter(seed, scale, shift):
  """Of each unit by itself to NV, of all alike to the invariance error."""
  rng = np.random.default_rng(seed)
  before, after = rng.normal(size=(9, 3)), rng.normal(size=(4, 9, 3))
  order, shifts = rng.permutation(9), shift * rng.normal(size=3)

  def values(before, after):
    table, units = measure_arrays(
      {"a": before},
      {"a": after},
      ["normalized_variance", "invariance_error"],
      per_unit=True,
      batch_size=4,
    )
    errors = table["value"][table["measure"] == "invariance_error"]
    return units["normalized_variance"]["a"], errors.to_numpy()

  expected = values(before, after)
  before, after = before[order] + shifts, after[:, order] + shifts
  each = scale * np.array([1.0, -3.0, 0.01])
  np.testing.assert_allclose(
    values(before * each, after * each)[0], expected[0], rtol=1e-4
  )
  np.testing.assert_allclose(
    values(-scale * before, -scale * after)[1], expected[1], rtol=1e-4
  )
