"""The strategy for accelerators: what an epoch asks of the host is nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets, evaluating, training
from experiments.config import TrainConfig

CONFIG = TrainConfig(epochs=3, batch_size=60, strategy="scan")
STEPS = 4  # 256 images


@pytest.fixture(scope="module")
def split(small):
  """600 images on the device: two batches of a test and a ragged third."""
  tiled = datasets.Split(
    np.tile(small.test.images, (7, 1, 1, 1))[:600],
    np.tile(small.test.labels, 7)[:600],
  )
  return evaluating.on_device(tiled)


def _epoch(mlp, small, strategy):
  """A trainer, and what its epoch and evaluation take, on the device."""
  config = dataclasses.replace(CONFIG, strategy=strategy)
  trainer = training.make_trainer(mlp, config, small)
  seeds = jnp.asarray([0, 1] if strategy == "scan" else 0, jnp.uint32)
  state = trainer.create_train_state(seeds)
  data = evaluating.on_device(small.train)
  return trainer, (state, seeds, jnp.asarray(0, jnp.uint32), data)


def test_nothing_goes_to_the_device_during_an_epoch_or_a_test(
  mlp, small, split
):
  trainer, arguments = _epoch(mlp, small, "scan")
  with jax.transfer_guard("disallow"):
    state, losses = trainer.train_epoch(*arguments)
    test = trainer.evaluate(state.params, split)
  assert losses.shape == (2, STEPS)
  assert [value.shape for value in test] == [(2,), (2,)]


def test_testing_a_batch_at_a_time_does_ask_the_host(mlp, small, split):
  """So the guard above would have seen it."""
  trainer, (state, *_) = _epoch(mlp, small, "loop")
  with (
    jax.transfer_guard("disallow"),
    pytest.raises(Exception, match="Disallowed host-to-device transfer"),
  ):
    trainer.evaluate(state.params, split)


def test_the_host_is_told_once_an_epoch(mlp, small, monkeypatch):
  fetch, told = jax.device_get, []

  def counted(tree):
    told.append(jax.tree.leaves(tree))
    return fetch(tree)

  monkeypatch.setattr(jax, "device_get", counted)
  monkeypatch.setattr(
    type(jnp.zeros(())), "__float__", lambda a: pytest.fail("fetched alone")
  )
  list(training.train(mlp, small, CONFIG, (0, 1)))
  initial, *epochs, trained = told
  assert len(initial) == len(trained) == 4  # kernels and biases
  assert [[leaf.shape for leaf in leaves] for leaves in epochs] == [
    [(2, STEPS), (2,), (2,)]  # losses, test loss and accuracy, by seed
  ] * CONFIG.epochs


def _equations(jaxpr, seen=None):
  """All equations of a program, however deep; shared parts once."""
  seen = set() if seen is None else seen
  if id(jaxpr) in seen:
    return
  seen.add(id(jaxpr))
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _equations(inner, seen)


def test_an_epoch_is_one_scan_over_bytes_on_the_device(mlp, small, monkeypatch):
  # A program with options of its own cannot be looked into.
  monkeypatch.setattr(training.platform, "compiler_options", lambda **_: {})
  trainer, arguments = _epoch(mlp, small, "scan")
  program = jax.make_jaxpr(trainer.train_epoch)(*arguments)
  assert [v.aval.dtype for v in program.jaxpr.invars].count(jnp.uint8) == 1
  equations = list(_equations(program.jaxpr))
  scans = [e for e in equations if e.primitive.name == "scan"]
  assert [e.params["length"] for e in scans].count(STEPS) == 1
  assert not [e for e in equations if "callback" in e.primitive.name]


def test_the_state_is_given_away(mlp, small):
  """Two copies of it would halve the networks that fit side by side."""
  trainer, arguments = _epoch(mlp, small, "scan")
  trainer.train_epoch(*arguments)
  leaves = jax.tree.leaves(arguments[0])
  assert leaves
  assert all(leaf.is_deleted() for leaf in leaves)
  assert not arguments[3].images.is_deleted()


def test_both_ways_of_testing_agree(mlp, split):
  params = mlp.init(jax.random.key(1), jnp.zeros((1, 32, 32, 1)))
  by_batch = evaluating.evaluate_sums(mlp, params, split)
  at_once = evaluating.evaluate_scanned(mlp, params, split)
  np.testing.assert_allclose(at_once[0], by_batch[0], rtol=1e-6)
  assert float(at_once[1]) == float(by_batch[1]) > 0
