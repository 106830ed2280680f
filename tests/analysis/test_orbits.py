"""The pass as a whole: what it computes, of what, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from analysis import actions, memory, streaming, tables
from analysis.measures import MEASURES, ROWS
from analysis.orbits import measure, measure_arrays, orbit
from analysis.transforms import rotation, scaling, translation
from tests.analysis import networks, reference

CORE = [
  "invariance_error",
  "equivariance_error",
  "normalized_variance",
  "accuracy",
  "consistency",
]
ORBITS = [
  (translation, [(0, 0), (2, 0), (-1, 3), (0.5, 0.25)]),
  (rotation, [0, 20, -90, 135]),
  (scaling, [0, 0.3, -0.4, 0.1]),
]


@pytest.fixture(scope="module")
def images(digits):
  """Twelve digits at half the resolution, (12, 16, 16, 1)."""
  return digits[:12].reshape(12, 16, 2, 16, 2, 1).mean(axis=(2, 4))


@pytest.fixture(scope="module")
def labels():
  return np.arange(12) % 10


@pytest.fixture(scope="module")
def result(images, labels):
  return measure(
    networks.plain,
    images,
    ORBITS,
    CORE,
    geometry=networks.PLAIN_GEOMETRY,
    labels=labels,
  )


def _activations(images, family, thetas) -> tuple[Any, ...]:
  """(reference, transformed) of every layer, warped by SciPy."""
  apply = jax.jit(networks.plain)
  logits, before = apply(jnp.asarray(images))
  moved = [
    np.stack([reference.warp_image(x, family.matrix(t)) for x in images])
    for t in thetas
  ]
  after = [apply(jnp.asarray(x, jnp.float32)) for x in moved]
  return (
    {k: np.asarray(a, np.float64) for k, a in before.items()},
    {
      k: np.stack([np.asarray(layers[k], np.float64) for _, layers in after])
      for k in before
    },
    np.asarray(logits),
    np.stack([np.asarray(output) for output, _ in after]),
    np.stack(moved),
  )


def _values(table, family, measure_name, layer, column="value"):
  rows = table[
    (table["transform"] == family.name)
    & (table["measure"] == measure_name)
    & (table["layer"] == layer)
  ]
  return rows[column].to_numpy()


@pytest.mark.parametrize(
  ("family", "thetas"), ORBITS, ids=[f.name for f, _ in ORBITS]
)
def test_every_measure_is_its_definition_in_float64(
  result, images, labels, family, thetas
):
  before, after, output, moved_output, moved = _activations(
    images, family, thetas
  )
  matrices = [family.matrix(t) for t in thetas]
  close = {"rtol": 2e-5, "atol": 2e-6}
  for layer, where in networks.PLAIN_GEOMETRY.items():
    np.testing.assert_allclose(
      _values(result, family, "invariance_error", layer),
      reference.invariance_error(before[layer], after[layer]),
      **close,
    )
    tv, sv = reference.normalized_variance(after[layer])
    for name, expected in (
      ("transformation_variance", tv.mean()),
      ("sample_variance", sv.mean()),
      ("normalized_variance", tv.sum() / sv.sum()),
    ):
      np.testing.assert_allclose(
        _values(result, family, name, layer), [expected], **close
      )
    if not where.spatial:
      continue
    expected = reference.equivariance_error(
      before[layer], after[layer], matrices, where, 16
    )
    floors = reference.equivariance_error(
      reference.area_average(images.astype(float), where, where.spatial),
      np.stack(
        [reference.area_average(x, where, where.spatial) for x in moved]
      ),
      matrices,
      where,
      16,
    )
    for column, name in enumerate(
      ("equivariance_error", "equivariance_error_full")
    ):
      np.testing.assert_allclose(
        _values(result, family, name, layer), expected[:, column], **close
      )
      np.testing.assert_allclose(
        _values(result, family, name, layer, "floor"),
        floors[:, column],
        **close,
      )
  top = moved_output.argmax(axis=-1)
  np.testing.assert_allclose(
    _values(result, family, "accuracy", "output"), (top == labels).mean(axis=1)
  )
  np.testing.assert_allclose(
    _values(result, family, "consistency", "output"),
    (top == output.argmax(axis=-1)).mean(axis=1),
  )


def test_the_comparison_covers_real_differences(result):
  """The reference agrees above on numbers that are not all 0 or NaN."""
  values = result[result["theta"] != "all"].groupby("measure")["value"]
  assert (values.max().dropna() > 0.05).all()
  spatial = result[result["measure"] == "equivariance_error"]
  assert spatial["value"].notna().sum() > 30
  assert spatial["value"].isna().any()  # conv2's field under 135 degrees


@pytest.fixture(scope="module")
def every(images, labels):
  """The table of all measures under one orbit, by images a forward pass."""

  def run(batch_size=None, measures="all", *, count=12, **options):
    return measure(
      networks.plain,
      images[:count],
      orbit("translation", GRID),
      measures,
      geometry=networks.PLAIN_GEOMETRY,
      labels=labels[:count],
      batch_size=batch_size,
      **options,
    )

  return run


GRID = [(dx, dy) for dy in (0, 1) for dx in (-1, 0, 1)]


@pytest.fixture(scope="module")
def everything(every):
  return every()


def test_all_means_every_measure_there_is(everything):
  # equivariant_map is a name for four rows, none of which has it, and the grid
  # is no path, so that jaggedness has its reason only.
  rows = {k for k, m in ROWS.items() if m != "jaggedness"}
  assert set(everything["measure"]) == rows | set(MEASURES) - {
    "equivariant_map"
  }
  order = [m for m in dict.fromkeys(everything["measure"]) if m in MEASURES]
  assert order == [m for m in MEASURES if m != "equivariant_map"]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(everything, every, batch_size):
  _assert_equal(every(batch_size), everything)


# What compares pairs takes all images in a step, and so does all else with it.
APART = [name for name, m in MEASURES.items() if "pairs" not in m.needs]


@pytest.mark.parametrize(
  "batch_size", [3, pytest.param(1, marks=pytest.mark.slow)]
)
def test_steps_add_up_whatever_their_size(every, batch_size):
  """Eleven images: four steps, the last of them ragged, or one each."""
  table = every(batch_size, APART, count=11)
  _assert_equal(table, every(11, APART, count=11))


@pytest.mark.parametrize(
  "measures",
  [
    ("invariance_error", "normalized_variance", "cka", "consistency"),
    pytest.param("all", marks=pytest.mark.slow),
  ],
)
def test_devices_change_nothing(everything, every, measures):
  """Several simulated devices, or four in a process of their own."""
  assert len(jax.devices()) > 1
  table = every(measures=measures, devices=jax.devices())
  expected = everything[everything["measure"].isin(table["measure"])]
  _assert_equal(table, expected.reset_index(drop=True))


def _assert_equal(table, expected):
  numbers = ["value", "floor", "dead_fraction", "total_variance"]
  pd.testing.assert_frame_equal(
    table.drop(columns=numbers), expected.drop(columns=numbers)
  )
  for column in numbers:
    np.testing.assert_allclose(
      table[column], expected[column], rtol=1e-5, atol=1e-5
    )


def test_a_protocol_names_measure_extent_and_version(everything):
  protocol = everything.groupby("measure")["protocol"].first()
  assert protocol["pairwise_consistency"] == "consistency/all-pairs-1px-v1"
  assert protocol["invariance_error"] == "invariance_error/rms-1px-v1"


def test_pairs_within_blocks_are_named_in_the_protocol(images, monkeypatch):
  # As if memory were short.
  monkeypatch.setattr(memory, "_STEP_CPU", (1, 2, 2))
  table = measure(
    networks.identity,
    images,
    [(rotation, [0, 30])],
    ["normalized_distance", "invariance_error"],
  )
  by_measure = table.set_index("measure")["protocol"].str
  blocks = table["protocol"].str.contains("-blocks-of-4-")
  assert (blocks == table["measure"].str.contains("distance")).all()
  assert by_measure.endswith("-v1").all()
  images = images[streaming.shuffled(len(images))]
  moved = np.stack([images, np.asarray(rotation.warp(images, 30))])
  pairs = [
    np.abs(moved[:, i] - moved[:, j]).mean()
    for start in (0, 4, 8)
    for i in range(start, start + 4)
    for j in range(start, i)
  ]
  found = table.set_index("measure")["value"]["sample_distance"]
  assert found == pytest.approx(np.mean(pairs), rel=1e-5)


def test_in_blocks_the_halves_of_a_linear_map_stay_the_same(
  images, labels, monkeypatch
):
  """What else is measured, and in which order, does not choose the images."""

  def run(*measures):
    table = measure(
      networks.plain,
      images[:11],
      [(rotation, [0, 30])],
      measures,
      geometry=networks.PLAIN_GEOMETRY,
      labels=labels[:11],
    )
    return table[table["measure"].str.startswith("equivariant_map")]

  alone = run("equivariant_map")
  monkeypatch.setattr(memory, "_STEP_CPU", (1, 4, 4))
  beside = run("equivariant_map", "cka")
  np.testing.assert_allclose(
    beside["value"], alone["value"], rtol=1e-5, atol=1e-5
  )


def test_rows_say_what_they_are_of(result):
  assert tuple(result.columns) == tables.COLUMNS
  assert (result["n_images"] == 12).all()
  row = result[
    (result["layer"] == "pool1")
    & (result["measure"] == "invariance_error")
    & (result["theta"] == "-1,3")
  ].iloc[0]
  assert row["layer_index"] == 2
  assert row["unit"] == "px"
  assert row["magnitude"] == row["displacement_px"] == pytest.approx(10**0.5)
  assert row["lost_intensity"] < 0.2
  whole = result[result["measure"] == "normalized_variance"]
  assert set(whole["theta"]) == {"all"}
  assert whole["magnitude"].max() == 135


def test_what_is_undefined_has_a_reason(result):
  undefined = result[result["value"].isna()]
  assert (undefined["note"] != "").all()
  assert (result["note"][result["value"].notna()] == "").all()
  logits = undefined[undefined["layer"] == "logits"]
  assert set(logits["note"]) == {"the layer has no positions"}
  masked = undefined[undefined["layer"] == "conv2"]
  assert set(masked["note"]) == {
    "no position's receptive field lies inside the canvas"
  }


def test_a_layer_without_geometry_is_skipped_with_the_reason(images):
  table = measure(
    networks.plain, images, [(rotation, [0, 10])], ["equivariance_error"]
  )
  assert table["value"].isna().all()
  assert set(table["note"]) == {
    "no geometry given for the layer",
    "the layer has no positions",
  }


def test_uint8_images_are_bytes_over_255(digits):
  raw = np.round(digits[:4] * 255).astype(np.uint8)
  args = ([(rotation, [0, 30])], ["invariance_error"])
  one = measure(networks.identity, raw, *args)
  other = measure(networks.identity, digits[:4], *args)
  pd.testing.assert_frame_equal(one, other)


def test_the_order_of_interpolation_matters_and_is_the_orbits(images):
  tables = [
    measure(
      networks.identity,
      images,
      orbit(rotation, [0, 30], order=order),
      ["invariance_error"],
    )
    for order in (1, 3)
  ]
  expected = rotation.warp(images, 30, order=3)
  exact = reference.invariance_error(
    images.astype(float), np.asarray(expected, np.float64)[None]
  )
  assert tables[1]["value"][1] == pytest.approx(exact[0], rel=1e-5)
  assert tables[0]["value"][1] != pytest.approx(exact[0], rel=1e-3)


def test_other_parameters_of_the_same_network_are_not_compiled_again(images):
  traces = []

  def network(scale, images):
    traces.append(images.shape)
    return networks.identity(images * scale)

  def values(scale):
    fn = jax.tree_util.Partial(network, jnp.asarray(scale, jnp.float32))
    return measure(fn, images, [(rotation, [0, 9])], ["invariance_error"])

  first = values(1.0)
  before = len(traces)
  second = values(2.0)
  assert len(traces) == before
  np.testing.assert_allclose(first["value"], second["value"], rtol=1e-6)


def test_progress_counts_every_image_once(images):
  counts = []
  measure(
    networks.identity,
    images,
    ORBITS,
    ["invariance_error"],
    batch_size=5,
    progress=counts.append,
  )
  assert counts == [4, 4, 4] * 3  # as even as can be


def test_layers_come_in_forward_order_and_bfloat16_is_fine(images):
  def network(x):
    x = x.astype(jnp.bfloat16)
    return x.mean(axis=(1, 2)), {"z": x, "a": x.mean(axis=(1, 2))}

  table = measure(network, images, [(rotation, [0, 30])], ["invariance_error"])
  assert list(dict.fromkeys(table["layer"])) == ["z", "a"]
  assert np.isfinite(table["value"]).all()


def test_a_circular_canvas_needs_maps_that_tile_it(images):
  geometry = {"pixels": networks.Where(1, 1.0, 3, True)}
  table = measure(
    lambda x: (x, {"pixels": x[:, 1:-1, 1:-1]}),
    images,
    orbit(translation, [(1, 0)], border="circular"),
    ["equivariance_error"],
    geometry=geometry,
  )
  assert "14x14 map of stride 1 does not tile" in table["note"][0]


# --- measure_arrays ----------------------------------------------------------


def test_given_activations_give_the_same_values(result, images, labels):
  family, thetas = ORBITS[1]
  before, after, *_ = _activations(images, family, thetas)
  table = measure_arrays(before, after, CORE, labels=labels, batch_size=5)
  for name in ("invariance_error", "normalized_variance", "consistency"):
    for layer in (*networks.PLAIN_GEOMETRY, "output"):
      np.testing.assert_allclose(
        table["value"][(table["measure"] == name) & (table["layer"] == layer)],
        _values(result, family, name, layer),
        rtol=1e-4,
        atol=1e-6,
      )
  skipped = table[table["measure"] == "equivariance_error"]
  assert (skipped["note"] == "needs the transformations and geometry=").all()


def test_permuting_the_images_of_given_activations_changes_nothing():
  rng = np.random.default_rng(2)
  before, after = rng.normal(size=(9, 5)), rng.normal(size=(4, 9, 5))
  order = rng.permutation(9)
  args = (["invariance_error", "normalized_variance"],)
  one = measure_arrays({"a": before}, {"a": after}, *args, batch_size=4)
  other = measure_arrays(
    {"a": before[order]}, {"a": after[:, order]}, *args, batch_size=4
  )
  np.testing.assert_allclose(one["value"], other["value"], rtol=1e-5)


# --- what is refused ---------------------------------------------------------


def _fails_on_blank_images(x):
  total = x.sum(axis=(1, 2, 3))[:, None]
  shares = x.mean(axis=(1, 2)) / total
  return jnp.concatenate([shares, 1 - shares], axis=-1), {"shares": shares}


# Some would take a NaN for a value: nothing fires, nothing agrees, no error
# reaches one half.
@pytest.mark.parametrize(
  "name", ["invariance_radius", "anova", "goodfellow", "cosine", "consistency"]
)
def test_values_that_are_finite_before_the_transformation_only(images, name):
  shifts = [(0, 0), (3, 0), (16, 16)]
  with pytest.raises(
    ValueError,
    match=r"layer 'shares' has values .* not finite .* under translation 16,16",
  ):
    measure(_fails_on_blank_images, images, [(translation, shifts)], [name])
  given = np.ones((3, 5, 2))
  given[1, 4, 0] = np.inf
  with pytest.raises(ValueError, match=r"'output' .* element 2 of the orbit"):
    measure_arrays({"output": given[0]}, {"output": given}, [name])


_X = np.zeros((3, 8, 8, 1), np.float32)
_R = [(rotation, [0, 5])]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((networks.identity, _X[0], _R, CORE[:1]), r"must have shape .* got \(8,"),
    ((networks.identity, _X.astype(int), _R, CORE[:1]), "got int64"),
    ((networks.identity, _X[:1], _R, CORE[:1]), "1 image given"),
    ((networks.identity, _X, [], CORE[:1]), "no transformation given"),
    ((networks.identity, _X, _R * 2, CORE[:1]), "orbit names repeat: rotation"),
    ((networks.identity, _X, [("twist", [1])], CORE[:1]), "unknown .* 'twist'"),
    ((networks.identity, _X, [(rotation, [])], CORE[:1]), "has no element"),
    ((networks.identity, _X, _R, ["wobble"]), "unknown measure 'wobble'"),
    ((networks.identity, _X, _R, []), "no measure given"),
    ((networks.identity, _X, _R, ["accuracy"]), "accuracy needs labels="),
    (
      (networks.identity, _X, [(rotation, [3])], ["normalized_variance"]),
      "at least 2 elements, the rotation orbit has 1",
    ),
    ((lambda x: x, _X, _R, CORE[:1]), r"must return \(output, \{name"),
    ((lambda x: (x, {}), _X, _R, CORE[:1]), "no activation to measure"),
    (
      (lambda x: (x, {"a": x.sum()}), _X, _R, CORE[:1]),
      r"layer 'a' has shape \(\) for 2 images",
    ),
    (
      (lambda x: (x, {"a": x + jnp.nan}), _X, _R, CORE[:1]),
      "layer 'a' has .* values that are not finite",
    ),
  ],
)
def test_what_cannot_be_measured_is_refused_by_name(args, message):
  with pytest.raises(ValueError, match=message):
    measure(*args)


def test_labels_must_fit_the_images():
  with pytest.raises(ValueError, match=r"labels have shape \(2,\), expected"):
    measure(networks.identity, _X, _R, ["accuracy"], labels=[1, 2])


def test_a_geometry_that_contradicts_the_map_is_refused():
  with pytest.raises(ValueError, match="8x8 map, its geometry says"):
    measure(
      networks.identity,
      _X,
      _R,
      ["equivariance_error"],
      geometry={"pixels": networks.Where(1, 0.0, 1, (4, 4))},
    )


@pytest.mark.parametrize(
  ("before", "after", "message"),
  [
    ({}, {}, "at least one"),
    ({"a": _X}, {"b": _X[None]}, r"reference has layers \['a'\]"),
    ({"a": _X}, {"a": _X}, r"transformed\['a'\] has shape"),
    (
      {"a": _X, "b": _X[:2]},
      {"a": _X[None], "b": _X[None]},
      r"reference\['b'\] has shape \(2, 8, 8, 1\), expected \(3, ...\)",
    ),
    ({"a": _X[:1]}, {"a": _X[None, :1]}, "1 image given"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(before, after, message):
  with pytest.raises(ValueError, match=message):
    measure_arrays(before, after, ["invariance_error"])


def test_the_output_of_given_activations_must_be_known():
  layers = {"a": _X[..., 0, 0], "b": _X[..., 1, 0]}
  moved = {k: a[None] for k, a in layers.items()}
  with pytest.raises(ValueError, match="which of a, b is the network's output"):
    measure_arrays(layers, moved, ["consistency"])
  with pytest.raises(ValueError, match="output='c' is not one of a, b"):
    measure_arrays(layers, moved, ["consistency"], output="c")
  table = measure_arrays(layers, moved, ["consistency"], output="b")
  assert table["value"][0] == 1


def test_orbits_can_be_a_mapping_or_orbits_with_names():
  made = actions.as_orbits({"rotation": [0, 5], "scaling": [0.1]})
  assert [o.name for o in made] == ["rotation", "scaling"]
  named = orbit("translation", [(1, 0)], name="right")
  assert actions.as_orbits(named) == (named,)


def test_transformations_that_lose_the_image_are_found(images):
  far = measure(
    networks.identity,
    images,
    [(translation, [(0, 0), (1, 0), (9, 0), (0, 12)]), (rotation, [0, 90])],
    ["invariance_error"],
  )
  lost = tables.lost_beyond(far)
  assert list(lost) == ["translation"]
  start, share = lost["translation"]
  assert start == 9
  assert share == far["lost_intensity"].max() > 0.3
  assert tables.lost_beyond(far[far["transform"] == "rotation"]) == {}


def test_a_layer_may_be_called_output(images):
  """It is not mistaken for the network's output, which has other units."""

  def network(x):
    return x.mean(axis=(1, 2)), {"output": x, "a": x[:, 0]}

  table = measure(
    network,
    images,
    [(rotation, [0, 30])],
    ["invariance_error", "consistency"],
  )
  alone = measure(
    lambda x: (x, {"x": x}), images, [(rotation, [0, 30])], "invariance_error"
  )
  found = table[table["layer"] == "output"]
  errors = found[found["measure"] == "invariance_error"]
  np.testing.assert_array_equal(errors["value"], alone["value"])
  assert set(errors["layer_index"]) == {0}
  answers = found[found["measure"] == "consistency"]
  assert set(answers["layer_index"]) == {2}
