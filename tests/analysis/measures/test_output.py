"""Accuracy, consistency and jaggedness against counting and stored values."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from analysis.orbits import measure_arrays, orbit
from tests.analysis import reference_measures
from tests.analysis.measures import stored

NAMES = ["accuracy", "consistency", "pairwise_consistency"]


def _measured(before, after, labels):
  one_hot = np.eye(4, dtype=np.float32)
  table = measure_arrays(
    {"logits": one_hot[before]},
    {"logits": one_hot[np.asarray(after)]},
    ["accuracy", "consistency"],
    labels=labels,
    batch_size=2,
  )
  return {
    name: table["value"][table["measure"] == name].tolist()
    for name in ("accuracy", "consistency")
  }


def test_accuracy_and_consistency_count_images():
  values = _measured(
    [0, 1, 2, 3, 0],
    [[0, 1, 2, 3, 0], [1, 1, 2, 3, 1], [3, 0, 1, 2, 3]],
    labels=[0, 1, 2, 0, 0],
  )
  assert values["accuracy"] == pytest.approx([0.8, 0.4, 0.0])
  assert values["consistency"] == pytest.approx([1.0, 0.6, 0.0])


def test_accuracy_is_of_the_images_that_have_a_label():
  answers = [0, 1, 2, 3, 0]
  values = _measured(answers, [answers], labels=[0, -1, 1, 3, -1])
  assert values["accuracy"] == pytest.approx([2 / 3])
  values = _measured(answers, [answers], labels=[-1] * 5)
  assert np.isnan(values["accuracy"]).all()


def test_a_wrong_network_can_be_consistent():
  values = _measured([3, 3, 3], [[3, 3, 3]] * 2, labels=[0, 1, 2])
  assert values == {"accuracy": [0, 0], "consistency": [1, 1]}


# --- consistency -------------------------------------------------------------


def _rows(before, after, names=NAMES, **options):
  """{row's measure: values of all elements}."""
  table = measure_arrays(
    {"logits": before}, {"logits": after}, list(names), **options
  )
  groups = table.groupby("measure", sort=False)
  return {name: rows["value"].to_numpy() for name, rows in groups}


def _answers(seed, t=5, n=40, k=4):
  """Logits, the same for about half of the images, and labels."""
  rng = np.random.default_rng(seed)
  before = rng.normal(size=(n, k)).astype(np.float32)
  noise = rng.normal(size=(t, n, k)).astype(np.float32)
  return before, before + 0.7 * noise, rng.integers(0, k, n)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_groups_pairs_and_kappa_are_counted(size):
  before, after, labels = _answers(0)
  found = _rows(before, after, labels=labels, batch_size=size)
  one, other = before.argmax(-1), after.argmax(-1)
  groups = {"": one == one, "_correct": one == labels, "_wrong": one != labels}
  for suffix, chosen in groups.items():
    assert chosen.sum() > 0
    expected = (other == one)[:, chosen].mean(axis=1)
    np.testing.assert_allclose(found[f"consistency{suffix}"], expected)
    observed, _ = reference_measures.pairwise_consistency(other[:, chosen])
    assert found[f"pairwise_consistency{suffix}"] == pytest.approx(observed)
  kappa = [reference_measures.cohens_kappa(one, a, 4) for a in other]
  np.testing.assert_allclose(found["consistency_kappa"], kappa, atol=1e-6)
  observed, chance = reference_measures.pairwise_consistency(other)
  expected = (observed - chance) / (1 - chance)
  assert found["pairwise_consistency_kappa"] == pytest.approx(expected)


def test_an_invariant_decision_is_1_and_an_independent_one_0_beyond_chance():
  before, _, _ = _answers(1, n=2000)
  rng = np.random.default_rng(2)
  after = np.stack([before, 3 * before + 1, rng.normal(size=before.shape)])
  found = _rows(before, after, ["consistency"])
  assert found["consistency"][:2].tolist() == [1, 1]
  assert found["consistency_kappa"][:2].tolist() == [1, 1]
  assert found["consistency"][2] == pytest.approx(0.25, abs=0.05)
  assert found["consistency_kappa"][2] == pytest.approx(0, abs=0.06)
  same = _rows(before, np.stack([before] * 3), ["pairwise_consistency"])
  assert same["pairwise_consistency"] == same["pairwise_consistency_kappa"] == 1


def test_a_constant_answer_is_consistent_without_a_kappa():
  constant = np.eye(3, dtype=np.float32)[np.zeros(6, int)]
  found = _rows(constant, np.stack([constant] * 2), labels=np.arange(6) % 3)
  assert (found["consistency"] == 1).all()
  assert found["pairwise_consistency"] == 1
  assert np.isnan(found["consistency_kappa"]).all()
  assert np.isnan(found["pairwise_consistency_kappa"]).all()


def test_without_labels_or_such_images_the_groups_say_why():
  before, after, _ = _answers(3)
  table = measure_arrays({"a": before}, {"a": after}, ["consistency"])
  notes = table.set_index("measure")["note"]
  assert (notes["consistency_wrong"] == "the images have no labels").all()
  right = before.argmax(-1)
  table = measure_arrays(
    {"a": before}, {"a": after}, ["consistency"], labels=right
  )
  rows = table.set_index("measure")
  assert (rows["note"]["consistency_wrong"] == "no such image").all()
  assert rows["value"]["consistency_wrong"].isna().all()
  np.testing.assert_array_equal(
    rows["value"]["consistency_correct"], rows["value"]["consistency"]
  )


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.sampled_from([0.25, 1, 8]),
  shift=st.integers(-3, 3),
)
def test_order_scale_and_shift_of_logits_do_not_matter(seed, scale, shift):
  before, after, labels = _answers(seed)
  order = np.random.default_rng(seed).permutation(len(labels))
  found = _rows(before, after, labels=labels)
  moved = _rows(
    before[order] * scale + shift,
    after[:, order] * scale + shift,
    labels=labels[order],
  )
  for name, values in found.items():
    np.testing.assert_allclose(moved[name], values, atol=1e-6)


# --- the stored values -------------------------------------------------------


@pytest.fixture(scope="module")
def archive(fixtures):
  return stored.load(fixtures, "consistency")


def test_consistency_of_the_stored_logits(archive):
  arrays, description = archive
  expected = description["expected"]
  shifts = [(dx, dy) for dy, dx in arrays["shifts"].tolist()]
  still = shifts.index((0, 0))
  logits = arrays["logits"]
  found = _rows(logits[still], logits, labels=arrays["labels"], batch_size=9)
  values = found["consistency"]
  assert values[still] == 1
  for mean, key in (
    (np.delete(values, still).mean(), "consistency_to_unshifted"),
    (values.mean(), "consistency_to_unshifted_incl_identity"),
    (found["pairwise_consistency"][0], "pairwise_consistency"),
  ):
    assert mean == pytest.approx(expected[key], abs=1e-6)
  answers = logits.argmax(-1)
  np.testing.assert_allclose(
    values, (answers == answers[still]).mean(axis=1), atol=1e-6
  )
  assert found["accuracy"][still] == pytest.approx(
    description["accuracy_unshifted"], abs=1e-6
  )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_jaggedness_of_the_stored_logits(archive, size):
  arrays, description = archive
  path = arrays["diag_shifts"].tolist()
  logits = arrays["diag_logits"]
  centre = logits[path.index([0, 0])]
  found = _rows(
    centre,
    logits,
    ["jaggedness"],
    batch_size=size,
    transformations=orbit("translation", [(x, y) for y, x in path]),
  )
  for name, key in (
    ("jaggedness", "jaggedness_top1_change"),
    ("jaggedness_step", "mean_abs_change_step_class"),
    ("jaggedness_centre", "mean_abs_change_center_class"),
    ("jaggedness_wobble", "wobble_center_class"),
  ):
    expected = description["expected"][key]
    assert found[name].item() == pytest.approx(expected, abs=1e-6)


# --- jaggedness --------------------------------------------------------------


def test_jaggedness_is_counted_along_the_path():
  before, after, _ = _answers(4)
  found = _rows(before, after, ["jaggedness"])
  expected = reference_measures.jaggedness(
    before.astype(float), after.astype(float)
  )
  for value, (name, other) in zip(expected, found.items(), strict=True):
    assert other.item() == pytest.approx(value, abs=1e-6), name


def test_an_invariant_output_is_not_jagged():
  before, _, _ = _answers(5)
  found = _rows(before, np.stack([before] * 4), ["jaggedness"])
  assert all(value.item() == 0 for value in found.values())


def test_an_alternating_output_is_jagged_at_every_step():
  sure = 50 * np.eye(2, dtype=np.float32)[[0, 1, 1]]
  after = np.stack([sure, sure[:, ::-1]] * 2)
  found = _rows(sure, after, ["jaggedness"])
  assert all(value.item() == pytest.approx(1) for value in found.values())


@pytest.mark.parametrize(
  ("family", "thetas", "note"),
  [
    ("rotation", [0, 1], "one-pixel translations"),
    ("translation", [(0, 0), (2, 0)], "no path of one-pixel steps"),
    ("translation", [(0, 0), (0.5, 0)], "no path of one-pixel steps"),
    ("translation", [(0, 0), (0, 0)], "no path of one-pixel steps"),
  ],
)
def test_only_paths_of_one_pixel_steps_are_taken(family, thetas, note):
  before, after, _ = _answers(6, t=2)
  row = measure_arrays(
    {"a": before},
    {"a": after},
    ["jaggedness"],
    transformations=orbit(family, thetas),
  ).iloc[0]
  assert np.isnan(row["value"])
  assert note in row["note"]


def test_a_single_element_has_no_pair_and_no_step():
  before, after, _ = _answers(7, t=1)
  for name in ("pairwise_consistency", "jaggedness"):
    with pytest.raises(
      ValueError, match=f"{name} needs an orbit of at least 2"
    ):
      _rows(before, after, [name])
