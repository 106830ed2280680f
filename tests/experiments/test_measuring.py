import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.measures import MEASURES
from analysis.tables import COLUMNS
from experiments import building, measuring
from experiments.config import MeasureConfig, ModelConfig
from experiments.errors import UsageError
from models import platform

FEW = MeasureConfig(
  transforms="rotation:5/15,scaling:x1.1/x1.2",
  shift_map="",
  measure_examples=16,
)


def changed(**fields):
  return dataclasses.replace(FEW, **fields)


# --- what is measured --------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 16, 95, 96])
def test_examples_are_spread_evenly_over_the_test_images(small, count):
  chosen = measuring.examples(changed(measure_examples=count), small)
  assert len(chosen) == len(set(chosen)) == count
  assert chosen[0] == 0
  gaps = np.diff([*chosen, 96])
  assert set(gaps) <= {96 // count, math.ceil(96 / count)}


def test_no_number_means_all_examples(small):
  chosen = measuring.examples(changed(measure_examples=0), small)
  np.testing.assert_array_equal(chosen, np.arange(96))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"measure_examples": 97}, "--measure_examples=97 .* 2 and the 96 test"),
    ({"measure_examples": 1}, "--measure_examples=1 is not 0"),
    ({"measure_examples": -2}, "--measure_examples=-2 is not 0"),
    ({"measure_batch_size": -1}, "--measure_batch_size=-1 is negative"),
    ({"transforms": ""}, "--transforms is empty"),
    ({"transforms": "twist:1"}, "--transforms=twist:1"),
    ({"order": 2}, "order"),
    ({"shift_map": "5:2"}, "--shift_map=5:2"),
    ({"measures": "invariance"}, "--measures=invariance: unknown measure"),
    ({"measures": ","}, "--measures=, names none"),
  ],
)
def test_what_cannot_be_measured_is_refused(small, fields, message):
  with pytest.raises(UsageError, match=message):
    measuring.check(changed(**fields), small)


def test_what_can_be_measured_is_not_refused(small):
  measuring.check(MeasureConfig(measure_examples=96), small)
  measuring.check(changed(measure_examples=0, order=3), small)


def test_all_images_are_refused_where_there_is_one(small):
  split = small.test._replace(
    images=small.test.images[:1], labels=small.test.labels[:1]
  )
  single = dataclasses.replace(small, test=split)
  with pytest.raises(UsageError, match="--measure_examples=0"):
    measuring.check(changed(measure_examples=0), single)


def test_measures_are_all_or_those_named():
  assert measuring.parse_measures(changed(measures="all")) == tuple(MEASURES)
  names = measuring.parse_measures(changed(measures="accuracy,consistency"))
  assert names == ("accuracy", "consistency")


def test_orbits_hold_the_identity_and_take_the_order():
  orbits = measuring.parse_orbits(changed(order=3))
  assert [o.name for o in orbits] == ["rotation", "scaling"]
  assert [o.order for o in orbits] == [3, 3]
  assert orbits[0].thetas == (0.0, 5.0, -5.0, 15.0, -15.0)
  np.testing.assert_allclose(
    np.exp2(orbits[1].thetas), [1, 1.1, 1 / 1.1, 1.2, 1 / 1.2], rtol=1e-12
  )


def test_the_shift_map_is_of_trained_networks_only():
  config = changed(shift_map="4:2")
  names = {
    stage: [o.name for o, _ in measuring.jobs(config, stage)]
    for stage in ("init", "trained")
  }
  assert names["init"] == ["rotation", "scaling"]
  assert names["trained"] == ["rotation", "scaling", "translation_map"]
  grid, measures = measuring.jobs(config, "trained")[-1]
  assert len(grid.thetas) == 25
  assert measures == ("invariance_error",)


def test_no_shift_map_is_made_of_no_grid():
  assert measuring.parse_shift_map(changed(shift_map="")) is None
  assert len(measuring.jobs(changed(shift_map=""), "trained")) == 2


# --- a network ---------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
  model = building.build_model(
    ModelConfig(depth=1, width=4), num_classes=10, canvas=32
  )
  params = platform.jit(model.init, once=True)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  return model, params


@pytest.fixture(scope="module")
def seen():
  """Transformed images that the progress was told of."""
  return []


@pytest.fixture(scope="module")
def table(network, small, seen):
  model, params = network
  return measuring.measure_network(
    model, params, small, FEW, "trained", progress=seen.append
  )


def test_every_layer_and_orbit_has_rows(network, table):
  model, _ = network
  for orbit in ("rotation", "scaling"):
    rows = table[table["orbit"] == orbit]
    for measure in ("invariance_error", "normalized_variance"):
      layers = rows["layer"][rows["measure"] == measure]
      assert set(layers) == set(model.layer_names)
    assert {"accuracy", "consistency"} <= set(rows["measure"])
  assert (table["n_images"] == 16).all()
  order = table.drop_duplicates("layer").sort_values("layer_index")["layer"]
  assert tuple(order)[: len(model.layer_names)] == model.layer_names


def test_the_identity_changes_nothing_and_the_others_do(table):
  errors = table[table["measure"] == "invariance_error"]
  identity = errors["theta"] == "0"
  assert identity.any()
  np.testing.assert_allclose(errors["value"][identity], 0, atol=1e-6)
  assert (errors["value"][~identity] > 0.01).all()


def test_progress_counts_every_transformed_image(small, table, seen):
  assert len(table)
  assert sum(seen) == measuring.steps(FEW, small, "trained") == 10 * 16


def test_only_the_chosen_images_are_measured(network, small, table):
  """Nothing changes where all others are blank and of another class."""
  model, params = network
  others = np.setdiff1d(np.arange(96), measuring.examples(FEW, small))
  images, labels = small.test.images.copy(), small.test.labels.copy()
  images[others], labels[others] = 0, 9 - labels[others]
  blanked = dataclasses.replace(
    small, test=small.test._replace(images=images, labels=labels)
  )
  other = measuring.measure_network(model, params, blanked, FEW)
  np.testing.assert_array_equal(other["value"], table["value"])


def test_the_accuracy_at_the_identity_is_the_networks(network, small, table):
  model, params = network
  chosen = measuring.examples(FEW, small)
  images = jnp.asarray(small.test.images[chosen], jnp.float32) / 255
  logits, _ = jax.jit(model.apply)(params, images)
  hits = np.argmax(logits, axis=1) == small.test.labels[chosen]
  rows = table[(table["measure"] == "accuracy") & (table["theta"] == "0")]
  assert len(rows) == 2
  np.testing.assert_allclose(rows["value"], hits.mean(), atol=1e-6)


def test_the_batch_size_does_not_matter(network, small, table):
  """Sums of 16 images in another order, in float32."""
  model, params = network
  config = changed(measure_batch_size=5)  # 16 = 3 * 5 + 1
  other = measuring.measure_network(model, params, small, config)
  assert list(other["layer"]) == list(table["layer"])
  np.testing.assert_allclose(
    other["value"], table["value"], rtol=1e-3, atol=1e-5
  )


# --- columns -----------------------------------------------------------------

PROMISED = (
  "run dataset model pooling depth padding head augmentation width seed stage"
  " layer layer_index transform magnitude unit displacement_px measure value"
  " floor n_images dead_fraction"
)


def test_tagged_rows_have_every_promised_column(table):
  columns = measuring.run_columns(
    "cnn-max", "digits", ModelConfig(depth=1, width=4), ""
  )
  tagged = measuring.tagged(table, columns, 3, "init")
  assert set(PROMISED.split()) <= set(tagged.columns)
  assert list(tagged.columns) == [*columns, "seed", "stage", *COLUMNS]
  assert len(tagged) == len(table)
  row = tagged.iloc[-1].to_dict()
  assert row["run"] == "cnn-max"
  assert row["augmentation"] == "none"
  assert (row["seed"], row["stage"], row["width"]) == (3, "init", 4)
  np.testing.assert_array_equal(tagged["value"], table["value"])


def test_columns_that_do_not_apply_are_blank():
  columns = measuring.run_columns(
    "mlp", "digits", ModelConfig(model="mlp", width=7), "rotation:15"
  )
  assert columns["pooling"] == columns["padding"] == columns["head"] == ""
  assert columns["width"] == 7
  assert columns["augmentation"] == "rotation:15"
