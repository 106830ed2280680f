"""Every experiment in a tiny size: what it computes, leaves and resumes."""

import dataclasses
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from analysis import actions, orbits
from experiments import datasets, store, training
from experiments.config import DataConfig
from experiments.errors import ExperimentError
from experiments.reproductions import (
  antialias,
  aps,
  augmentation,
  base,
  learned_or_built,
  networks,
  rot_mnist,
  running,
)
from models.cnn import CNN
from models.group_cnn import GroupCNN

TINY = {
  "train_examples": 24,
  "test_examples": 8,
  "measure_examples": 4,
  "batch_size": 12,
  "epochs": 1,
  "width": 2,
  "strategy": "loop",
  "seeds": (0, 1),
}


def experiment(name) -> base.Experiment:
  module = importlib.import_module(f"experiments.reproductions.{name}")
  return module.EXPERIMENT


def tiny(name) -> base.Settings:
  chosen = experiment(name)
  changes = {k: v for k, v in TINY.items() if k in {*chosen.takes, "seeds"}}
  return base.resized(chosen, changes)


# --- a tiny run of each ------------------------------------------------------


@pytest.fixture
def shallow(monkeypatch):
  """Networks of one block, and few of them: deep ones take long to compile."""
  for module in (aps, antialias, learned_or_built, augmentation):
    monkeypatch.setattr(module, "DEPTH", 1)
  monkeypatch.setattr(antialias, "SIZES", (1, 3))
  monkeypatch.setattr(learned_or_built, "POOLED", ("max",))
  monkeypatch.setattr(learned_or_built, "UNPOOLED", ("none",))
  monkeypatch.setattr(augmentation, "POOLINGS", ("max",))
  group = {"plain": functools.partial(CNN, depth=1, width=8, head="gap")} | {
    name: functools.partial(GroupCNN, depth=1, width=2, group=name)
    for name in ("p4", "p4m")
  }
  monkeypatch.setattr(rot_mnist, "FAMILIES", {"group": group})


def check_run(name, workdir):
  chosen, settings = experiment(name), tiny(name)
  text = running.run(chosen, settings, workdir)
  summary = store.read_table(workdir / "summary.csv")
  table = store.read_table(workdir / "results.csv")
  claims = store.read_table(workdir / "claims.csv")
  assert (workdir / "summary.md").read_text() == text
  assert set(table["measure"]) == set(chosen.quantities)
  assert set(table["seed"]) == {0, 1}
  assert set(summary["n_seeds"]) <= {0, 1, 2}
  assert set(claims["outcome"]) <= {"yes", "no", "undecided"}
  assert len(claims) == len(chosen.statements)
  assert len(re.findall(r"^\* (?:reproduced|holds): ", text, re.M)) == len(
    claims
  )
  provenance = store.read_json(workdir / "provenance.json")
  assert provenance["reproduction"]["seeds"] == [0, 1]
  for p in chosen.published:
    row = summary[
      (summary["cell"] == p.cell)
      & (summary["measure"] == p.measure)
      & (summary["condition"] == p.condition)
      & (summary["stage"] == p.stage)
    ]
    assert row["published"].item() == p.value
  return table


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["antialias", "learned_or_built", "aps"])
def test_a_tiny_run(name, tmp_path):
  check_run(name, tmp_path)


@pytest.mark.usefixtures("shallow")
def test_a_tiny_run_of_augmentation(tmp_path):
  table = check_run("augmentation", tmp_path)
  of = table[table["condition"] == "0 px"]
  assert (of["value"][of["measure"] == "invariance_error"] < 1e-5).all()
  assert set(of["cell"]) == {
    f"max, {head}, {kind}"
    for head in ("dense", "gap")
    for kind in ("centred", "augmented")
  }


@pytest.mark.usefixtures("shallow")
def test_a_tiny_run_of_rot_mnist(tmp_path):
  table = check_run("rot_mnist", tmp_path)
  steady = table[table["measure"] == "consistency"].set_index("cell")["value"]
  assert (steady[["p4", "p4m"]] == 100).all()


# --- resuming ----------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
  """The seeds that are trained, in order; the run stops after so many."""
  trained, limit = [], [100]
  genuine = training.train

  def train(model, dataset, config, seeds):
    for seed in seeds:
      if len(trained) == limit[0]:
        raise KeyboardInterrupt
      trained.append(seed)
      yield from genuine(model, dataset, config, [seed])

  monkeypatch.setattr(training, "train", train)
  return trained, limit


@pytest.mark.usefixtures("shallow")
def test_an_interrupted_run_continues_where_it_stopped(tmp_path, counted):
  trained, limit = counted
  chosen, settings = experiment("antialias"), tiny("antialias")
  limit[0] = 3
  with pytest.raises(KeyboardInterrupt):
    running.run(chosen, settings, tmp_path)
  assert trained == [0, 1, 0]
  assert not (tmp_path / "summary.md").exists()
  limit[0] = 100
  text = running.run(chosen, settings, tmp_path)
  assert trained == [0, 1, 0, 1]
  assert running.run(chosen, settings, tmp_path) == text
  one = dataclasses.replace(settings, seeds=(1,))
  assert "n = 1)" in running.run(chosen, one, tmp_path)
  assert len(trained) == 4
  assert not list(tmp_path.rglob(".*"))  # nothing half written

  other = dataclasses.replace(settings, width=3)
  with pytest.raises(ExperimentError, match=r"with settings.width=2, not 3"):
    running.run(chosen, other, tmp_path)
  assert len(trained) == 4


# --- what is computed --------------------------------------------------------


@pytest.mark.parametrize(
  ("pooling", "exact"), [("aps", True), ("max_aps", True), ("max", False)]
)
def test_only_polyphase_sampling_is_exact_before_training(pooling, exact):
  settings = dataclasses.replace(
    base.Settings(data=DataConfig(test_examples=6, train_examples=6)),
    width=4,
    measure_examples=6,
  )
  dataset = networks.load(settings)
  model = networks.make_model(
    settings, dataset, pooling=pooling, depth=2, padding="circular", head="gap"
  )
  params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
  table = networks.measure_output(
    model,
    params,
    networks.measured(settings, dataset),
    networks.circular_shifts(4),
    ["pairwise_consistency", networks.logit_difference],
  )
  difference = networks.value(table, "logit_difference")
  if exact:
    assert difference < 1e-6
    assert networks.value(table, "pairwise_consistency") == 1
  else:
    assert difference > 1e-3


def test_the_logit_difference_is_the_largest_over_the_largest():
  def logits(images):
    return images[:, :2, 0, 0]  # two pixels below each other

  images = np.zeros((2, 4, 4, 1), np.float32)
  images[0, 0, 0], images[1, 1, 0] = 0.5, 0.8
  table = orbits.measure(
    lambda x: (logits(x), {"x": x}),
    images,
    actions.orbit("translation", [(0, 0), (0, 1)], border="circular"),
    [networks.logit_difference],
  )
  assert networks.value(table, "logit_difference") == pytest.approx(1)


def test_deformations_are_smooth_small_and_always_the_same(digits):
  deformed = learned_or_built.deform(digits[:4])
  assert deformed.shape == (4, 4, 32, 32, 1)
  np.testing.assert_array_equal(deformed, learned_or_built.deform(digits[:4]))
  assert deformed.min() >= 0
  assert deformed.max() <= 1
  mass = deformed.sum(axis=(2, 3, 4)) / digits[:4].sum(axis=(1, 2, 3))
  assert (np.abs(mass - 1) < 0.4).all()
  y, x = np.mgrid[:32, :32]
  for axis in (y, x):
    centre = (digits[:4, ..., 0] * axis).sum((1, 2)) / digits[:4].sum((1, 2, 3))
    moved = (deformed[..., 0] * axis).sum((2, 3)) / deformed.sum((2, 3, 4))
    assert (np.abs(moved - centre) < 4).all()
    assert np.abs(moved - centre).max() > 0.2


def test_rotated_images_are_turned_by_their_own_angle():
  images = datasets.load(DataConfig(test_examples=3)).test.images
  turned = rot_mnist.rotate(images, np.array([0, 90, 37], np.float32))
  np.testing.assert_array_equal(turned[0], images[0])
  np.testing.assert_array_equal(turned[1], np.rot90(images[1]))
  ours = turned[2, ..., 0].astype(float)
  scipys = ndimage.rotate(
    images[2, ..., 0].astype(float), 37, reshape=False, order=1
  )
  assert np.abs(ours - scipys).max() <= 1  # rounded to bytes


def test_rotated_sets_do_not_overlap():
  settings = base.resized(
    rot_mnist.EXPERIMENT, {"train_examples": 20, "test_examples": 600}
  )
  dataset = rot_mnist.load(settings)
  plain = datasets.load(DataConfig())
  labels = np.concatenate([plain.train.labels, plain.test.labels])
  np.testing.assert_array_equal(dataset.train.labels, labels[:20])
  np.testing.assert_array_equal(dataset.test.labels, labels[-600:])
  # The same image has the same angle, however many there are.
  fewer = rot_mnist.load(
    base.resized(
      rot_mnist.EXPERIMENT, {"train_examples": 10, "test_examples": 300}
    )
  )
  np.testing.assert_array_equal(fewer.train.images, dataset.train.images[:10])
  np.testing.assert_array_equal(fewer.test.images, dataset.test.images[-300:])
