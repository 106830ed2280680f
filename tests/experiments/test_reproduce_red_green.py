"""The images, network and optimizer of the red-green experiment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from experiments import training
from experiments.config import TrainConfig
from experiments.reproductions import base, red_green, running
from tests.experiments.test_reproductions import check_run

SEED = red_green.PUBLISHED_SEED


@pytest.fixture(scope="module")
def images():
  return red_green.load(red_green.EXPERIMENT.settings)


def corners(image):
  """(row, column) of the top left pixel of the red and the green square."""
  found = []
  for channel in (0, 1):
    rows, columns = np.nonzero(image[..., channel])
    top, left = rows.min(), columns.min()
    square = image[top : top + 4, left : left + 4, channel]
    assert (square == 255).all()
    assert len(rows) == 16
    found.append((top, left))
  return found


# --- images ------------------------------------------------------------------


def test_the_sets_are_of_the_published_sizes(images):
  sizes = {name: len(split.labels) for name, split in images.sets.items()}
  assert sizes == {
    "train": 2000,
    "validation": 1000,
    "similar": 1000,
    "dissimilar": 1000,
    "fresh similar": 2000,
    "fresh dissimilar": 2000,
  }
  for split in images.sets.values():
    assert split.images.shape[1:] == (32, 32, 3)
    assert set(np.unique(split.images)) == {0, 255}
    assert not split.images[..., 2].any()
    assert (split.labels == np.arange(len(split.labels)) % 2).all()


@pytest.mark.parametrize("name", ["train", "fresh similar"])
def test_squares_lie_where_their_class_says(images, name):
  split = images.sets[name]
  rows, columns = {0: set(), 1: set()}, {"left": set(), "right": set()}
  for image, label in zip(split.images, split.labels, strict=True):
    red, green = corners(image)
    left, right = (red, green) if label == 0 else (green, red)
    assert right[1] - left[1] >= 5
    rows[int(label)] |= {left[0], right[0]}
    columns["left"].add(left[1])
    columns["right"].add(right[1])
  assert rows == {0: set(range(3, 11)), 1: set(range(19, 27))}
  assert columns["left"] == set(range(10))
  assert max(columns["right"]) == 27
  assert min(columns["right"]) == 5


def test_draws_come_in_the_published_order(images):
  """x1, row1, x2, row2, then x2 and row2 again until they are far enough."""
  rng = np.random.RandomState(1988)
  redrawn = 0
  for i, image in enumerate(images.sets["train"].images[:200]):
    base_row = 7 if i % 2 == 0 else 23
    x1, row1 = rng.randint(0, 10), base_row + rng.randint(-4, 4)
    x2, row2 = rng.randint(x1, 28), base_row + rng.randint(-4, 4)
    while x2 - x1 < 5:
      redrawn += 1
      x2, row2 = rng.randint(x1, 28), base_row + rng.randint(-4, 4)
    left, right = corners(image) if i % 2 == 0 else corners(image)[::-1]
    assert (left, right) == ((row1, x1), (row2, x2))
  assert redrawn > 20


def test_published_test_images_are_training_images(images):
  train = images.sets["train"].images[:1000]
  assert (images.sets["similar"].images == train).all()
  assert (images.sets["validation"].images == train).all()
  fresh = {x.tobytes() for x in images.sets["fresh similar"].images}
  seen = {x.tobytes() for x in images.sets["train"].images}
  assert len(fresh & seen) < 200  # by chance: there are some 20,000 in all


def test_dissimilar_images_are_moved_to_the_other_rows(images):
  for kind in ("", "fresh "):
    similar = images.sets[f"{kind}similar"]
    dissimilar = images.sets[f"{kind}dissimilar"]
    assert (similar.labels == dissimilar.labels).all()
    down = np.roll(similar.images[::2], 16, axis=1)
    up = np.roll(similar.images[1::2], -16, axis=1)
    assert (dissimilar.images[::2] == down).all()
    assert (dissimilar.images[1::2] == up).all()


# --- network -----------------------------------------------------------------

SIDES = {
  "valid": (30, 14, 6, 2),
  "same-zero": (32, 16, 8, 4),
  "same-circular": (32, 16, 8, 4),
  "full-zero": (34, 18, 10, 6),
}


@pytest.mark.parametrize("variant", SIDES)
def test_maps_have_the_published_sides(variant):
  geometry = red_green.make_model(variant).geometry(32)
  for i, side in enumerate(SIDES[variant], start=1):
    assert geometry[f"conv{i}"].spatial == (side, side)


def test_initial_weights_are_uniform_within_the_fan_in():
  params = red_green.init_params(red_green.make_model("valid"), 0)["params"]
  shapes = {
    ("conv1", "kernel"): (3, 3, 3, 32),
    ("conv2", "kernel"): (3, 3, 32, 32),
    ("conv3", "kernel"): (3, 3, 32, 64),
    ("conv4", "kernel"): (3, 3, 64, 64),
    ("logits", "kernel"): (64, 2),
    ("logits", "bias"): (2,),
  }
  assert {(a, b) for a in params for b in params[a]} == set(shapes)
  for (layer, kind), shape in shapes.items():
    values = np.asarray(params[layer][kind])
    bound = 1 / np.sqrt(np.prod(params[layer]["kernel"].shape[:-1]))
    assert values.shape == shape
    assert np.abs(values).max() <= bound
    if values.size > 1000:
      assert np.abs(values).max() > 0.99 * bound
      assert abs(values.std() - bound / np.sqrt(3)) < 0.03 * bound
  other = red_green.init_params(red_green.make_model("valid"), 1)["params"]
  assert not np.allclose(other["conv1"]["kernel"], params["conv1"]["kernel"])


@pytest.mark.parametrize("variant", SIDES)
def test_only_circular_and_full_padding_cannot_tell_the_test_sets(
  variant, images
):
  """On an untrained network: no training could make a difference."""
  model = red_green.make_model(variant)
  params = red_green.init_params(model, 0)
  apply = jax.jit(lambda x: model.apply(params, training.as_float(x))[0])
  logits = [
    np.asarray(apply(jnp.asarray(images.sets[name].images[:64])))
    for name in ("similar", "dissimilar")
  ]
  scale = np.abs(logits[0]).max()
  different = np.abs(logits[0] - logits[1]).max() / scale
  if variant in ("same-circular", "full-zero"):
    assert different < 1e-6
  else:
    assert different > 1e-4


# --- optimizer ---------------------------------------------------------------


def test_adadelta_is_the_published_one():
  """Three steps by hand, with the conventions of torch.optim.Adadelta."""
  rng = np.random.default_rng(0)
  weight = rng.normal(size=(5, 3)).astype(np.float32)
  gradients = rng.normal(size=(3, 5, 3)).astype(np.float32)
  config = TrainConfig(
    optimizer="adadelta", learning_rate=0.7, weight_decay=0.03
  )
  optimizer = red_green.make_optimizer(config)
  params = {"w": jnp.asarray(weight)}
  state = optimizer.init(params)

  expected = weight.astype(np.float64)
  squares = deltas = np.zeros_like(expected)
  for gradient in gradients:
    with jax.numpy_dtype_promotion("standard"):  # optax's
      updates, state = optimizer.update(
        {"w": jnp.asarray(gradient)}, state, params
      )
    params = optax.apply_updates(params, updates)
    g = gradient + 0.03 * expected
    squares = 0.9 * squares + 0.1 * g**2
    step = np.sqrt(deltas + 1e-6) / np.sqrt(squares + 1e-6) * g
    deltas = 0.9 * deltas + 0.1 * step**2
    expected = expected - 0.7 * step
    (got,) = jax.tree.leaves(params)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
  assert np.abs(expected - weight).max() > 1e-3


def test_training_stops_and_keeps_the_best_weights(images, monkeypatch):
  losses = iter([3.0, 2.0, *[2.5] * 9, 1.0])
  seen = []

  def evaluate(model, params, data):
    seen.append(params)
    return next(losses), 0.0

  monkeypatch.setattr(training, "evaluate_sums", evaluate)
  monkeypatch.setattr(
    red_green, "_make_step", lambda model, config: _counting_step
  )
  config = dataclasses.replace(
    red_green.EXPERIMENT.settings.train, epochs=50, batch_size=200
  )
  kept = red_green.fit(red_green.make_model("valid"), 0, images, config)
  assert len(seen) == 11  # the ninth in turn without a lower one
  assert kept is seen[1]
  assert kept["params"] == 20  # ten batches an epoch


def _counting_step(params, state, images, labels):
  assert labels.shape == (200,)
  count = params["params"]
  return {"params": count + 1 if isinstance(count, int) else 1}, state


# --- rules -------------------------------------------------------------------


def judged(change=None):
  """The outcomes for the published numbers, with one of them changed."""
  values = {
    (p.cell, p.condition): p.value for p in red_green.EXPERIMENT.published
  }
  values |= change or {}
  rows = [
    (cell, "trained", condition, "accuracy", seed, value)
    for (cell, condition), value in values.items()
    for seed in (0, 1)
  ]
  results = base.Results(pd.DataFrame(rows, columns=list(running.COLUMNS)))
  return [s.judge(results).outcome for s in red_green.EXPERIMENT.statements]


def test_the_published_numbers_pass_their_own_rules():
  assert judged() == ["yes"] * 4


@pytest.mark.parametrize(
  ("change", "failing"),
  [
    ({("valid", "dissimilar"): 40.0}, {0, 2, 3}),
    ({("full-zero", "similar"): 90.0}, {1}),
    ({("same-circular", "dissimilar"): 70.0}, {1, 3}),
    ({("same-zero", "dissimilar"): 0.5}, {2, 3}),
  ],
)
def test_other_numbers_fail_the_rules_they_should(change, failing):
  outcomes = judged(change)
  assert {i for i, o in enumerate(outcomes) if o == "no"} == failing


def test_a_tiny_run(tmp_path, monkeypatch):
  monkeypatch.setattr(red_green, "_PIECES", 1)  # compiles sooner
  table = check_run("red_green", tmp_path)
  of = table[table["cell"].isin(["same-circular", "full-zero"])]
  wide = of.pivot(index=["cell", "seed"], columns="condition", values="value")
  assert (wide["similar"] == wide["dissimilar"]).all()
