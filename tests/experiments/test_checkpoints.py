"""Training that is cut short goes on, to the same bits."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import checkpoints, training
from experiments.checkpoints import Checkpoints
from experiments.config import TrainConfig

CONFIG = TrainConfig(epochs=3, batch_size=60)


def store(path, identity="flags", every=0.0, share=float("inf")):
  return Checkpoints(path, identity, every=every, share=share)


def train(mlp, small, seeds, strategy, kept=None, cut_after=None):
  """Trains, or is cut short after so many calls of progress."""
  config = dataclasses.replace(CONFIG, strategy=strategy)
  epochs = []

  def progress(count):
    epochs.append(count)
    if len(epochs) == cut_after:
      raise KeyboardInterrupt

  results = []
  try:
    for result in training.train(
      mlp, small, config, seeds, progress=progress, checkpoints=kept
    ):
      results.append(result)
  except KeyboardInterrupt:
    return None, epochs
  return results, epochs


def leaves(result):
  return jax.tree.leaves([result.initial, result.trained])


def assert_same_bits(first, second):
  for ours, theirs in zip(first, second, strict=True):
    assert ours.seed == theirs.seed
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
      np.testing.assert_array_equal(a, b)
    assert [m[:-1] for m in ours.metrics] == [m[:-1] for m in theirs.metrics]


@pytest.fixture(scope="module", params=["loop", "scan"])
def uninterrupted(request, mlp, small):
  return request.param, train(mlp, small, (0, 1), request.param)[0]


def test_training_goes_on_at_the_epoch_where_it_was_cut(
  uninterrupted, mlp, small, tmp_path
):
  strategy, expected = uninterrupted
  # The third call: one epoch (loop: of seed 0; scan: of both) is not kept.
  cut, _ = train(mlp, small, (0, 1), strategy, store(tmp_path), cut_after=3)
  assert cut is None
  results, epochs = train(mlp, small, (0, 1), strategy, store(tmp_path))
  assert_same_bits(results, expected)
  done = {"loop": [2, 1, 1, 1, 1], "scan": [4, 2]}[strategy]
  assert epochs == done
  assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_there_until_its_seed_is_stored(mlp, small, tmp_path):
  results = training.train(
    mlp,
    small,
    dataclasses.replace(CONFIG, strategy="loop"),
    (0, 1),
    checkpoints=store(tmp_path),
  )
  results = iter(results)
  next(results)
  files = [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()]
  assert files == ["seed0.npz"]
  next(results)
  files = [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()]
  assert files == ["seed1.npz"]
  assert next(results, None) is None
  assert not list(tmp_path.iterdir())


def test_seeds_side_by_side_stay_together_when_some_are_stored(
  mlp, small, tmp_path
):
  """A kill between storing seed 0 and seed 1: 1 is not trained again alone."""
  config = dataclasses.replace(CONFIG, strategy="scan")
  results = iter(
    training.train(mlp, small, config, (0, 1), checkpoints=store(tmp_path))
  )
  _, second = next(results), next(results)
  again, epochs = train(mlp, small, (1,), "scan", store(tmp_path))
  assert_same_bits(again, [second])
  assert epochs == [6]  # all of them from the file
  assert not list(tmp_path.iterdir())


def test_more_seeds_than_were_cut_are_a_group_of_their_own(tmp_path):
  kept = store(tmp_path)
  kept.save([3, 4], 1, {"a": jax.numpy.ones((2, 3))}, [[], []])
  assert kept.groups([0, 3, 5], at_once=3) == [[0, 5], [3, 4]]
  assert kept.groups([0, 3, 5], at_once=1) == [[0], [3, 4], [5]]
  assert kept.groups([0], at_once=1) == [[0]]
  kept.tidy([0, 3])
  assert kept.groups([4], at_once=1) == [[3, 4]]
  kept.tidy([3, 4, 5])
  assert not list(tmp_path.iterdir())


STATE = {"a": jax.numpy.arange(3.0), "b": jax.numpy.ones((), jax.numpy.int32)}


@pytest.fixture
def saved(tmp_path):
  store(tmp_path).save([2], 5, STATE, [[{"seed": 2, "train_loss": 0.1}]])
  return tmp_path / checkpoints.FOLDER / "seed2.npz"


def test_a_checkpoint_holds_all_of_the_state(saved, tmp_path):
  assert saved.exists()
  found = store(tmp_path).load([2], STATE)
  assert found is not None
  assert (found.seeds, found.epochs) == ([2], 5)
  assert found.metrics == [[{"seed": 2, "train_loss": 0.1}]]
  for name, array in STATE.items():
    assert found.state[name].dtype == array.dtype
    np.testing.assert_array_equal(found.state[name], array)
  assert store(tmp_path).load([1], STATE) is None


def cut(content):
  return content[:-1]


def flipped(content):
  return bytes([*content[:100], content[100] ^ 1, *content[101:]])


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b""])
def test_a_damaged_checkpoint_is_named_and_not_used(
  saved, tmp_path, capsys, damage
):
  saved.write_bytes(damage(saved.read_bytes()))
  assert store(tmp_path).load([2], STATE) is None
  assert f"{saved} is not used: it does not match" in capsys.readouterr().err
  store(tmp_path).tidy([])
  assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_is_not_used(saved, tmp_path, capsys):
  assert store(tmp_path, "other").load([2], STATE) is None
  assert f"{saved} is not used: it is of other flags" in capsys.readouterr().err
  other = {"a": jax.numpy.arange(4.0), "b": STATE["b"]}
  assert store(tmp_path).load([2], other) is None
  assert f"{saved} is of another version" in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for `clock[0] += seconds`."""
  now = [0.0]
  monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
  return now


def test_short_epochs_are_not_worth_a_checkpoint_each(tmp_path, clock):
  kept = store(tmp_path, every=1.0)
  kept.load([0], STATE)
  assert not kept.due()
  clock[0] += 1.0
  assert kept.due()
  kept.save([0], 1, STATE, [[]])
  assert not kept.due()


def test_slow_writing_makes_checkpoints_rarer(tmp_path, clock, monkeypatch):
  kept = store(tmp_path, every=1.0, share=1 / 20)
  write_bytes = checkpoints.store.write_bytes

  def slow(*arguments):
    clock[0] += 0.5
    write_bytes(*arguments)

  monkeypatch.setattr(checkpoints.store, "write_bytes", slow)
  kept.save([0], 1, STATE, [[]])
  clock[0] += 9.9
  assert not kept.due()  # a twentieth of the time: not before 10 s
  clock[0] += 0.2
  assert kept.due()


def test_seconds_of_before_are_counted_once(tmp_path, clock):
  kept = store(tmp_path)
  kept.load([0], STATE)
  clock[0] += 4.0
  kept.save([0], 1, STATE, [[]])
  clock[0] += 100.0
  again = store(tmp_path)
  again.load([0], STATE)
  assert again.seconds_before() == 4.0
  assert again.seconds_before() == 0.0


def test_a_diverged_seed_leaves_no_checkpoint(
  mlp, small, tmp_path, monkeypatch
):
  make_trainer = training.make_trainer

  def explosive(*args):
    trainer = make_trainer(*args)

    def train_epoch(state, seed, epoch, data):
      state, losses = trainer.train_epoch(state, seed, epoch, data)
      return state, losses * (jax.numpy.inf if int(epoch) == 1 else 1.0)

    return trainer._replace(train_epoch=train_epoch)

  monkeypatch.setattr(training, "make_trainer", explosive)
  config = dataclasses.replace(CONFIG, strategy="loop")
  kept, failed = store(tmp_path), []
  results = training.train(
    mlp, small, config, (0,), diverged=failed.append, checkpoints=kept
  )
  assert not list(results)
  assert [found.epoch for found in failed] == [2]
  assert not list(tmp_path.iterdir())
