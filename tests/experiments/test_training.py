import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import building, datasets, training
from experiments.config import DataConfig, ModelConfig, TrainConfig
from experiments.diverging import NonFiniteLossError
from experiments.errors import UsageError
from models import platform
from models.cnn import CNN

CONFIG = TrainConfig(epochs=2, batch_size=60, strategy="loop")


def train(model, dataset, seeds=(0,), **changes):
  config = dataclasses.replace(CONFIG, **changes)
  return list(training.train(model, dataset, config, seeds))


@pytest.fixture(scope="module")
def two_seeds(mlp, small):
  return train(mlp, small, (0, 1))


def assert_same(first, second, tolerance=0.0):
  """Equal parameters and metrics, but for the speed."""
  assert first.seed == second.seed
  for stage in ("initial", "trained"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance),
      getattr(first, stage),
      getattr(second, stage),
    )
  for ours, theirs in zip(first.metrics, second.metrics, strict=True):
    assert ours[:3] == theirs[:3]
    np.testing.assert_allclose(ours[3:6], theirs[3:6], rtol=10 * tolerance)


def differ(first, second):
  return [
    bool((a != b).any())
    for a, b in zip(
      jax.tree.leaves(first), jax.tree.leaves(second), strict=True
    )
  ]


# --- the same again ----------------------------------------------------------


def test_a_seed_gives_the_same_bytes_whatever_trains_beside_it(
  mlp, small, two_seeds
):
  assert_same(train(mlp, small, (1,))[0], two_seeds[1])


def test_seeds_differ(two_seeds):
  first, second = two_seeds
  assert any(differ(first.initial, second.initial))
  assert all(differ(first.trained, second.trained))
  assert first.metrics[0].train_loss != second.metrics[0].train_loss


def test_the_strategies_agree_to_rounding(mlp, small, two_seeds):
  """Some ulps of parameters below 1, after 8 steps of at most 0.004 each."""
  side_by_side = train(mlp, small, (0, 1), strategy="scan")
  for ours, theirs in zip(two_seeds, side_by_side, strict=True):
    assert_same(ours, theirs, tolerance=1e-6)
    assert all(differ(theirs.initial, theirs.trained))


def test_side_by_side_a_seed_does_not_depend_on_its_neighbours(mlp, small):
  first, second = (
    train(mlp, small, seeds, strategy="scan")[0] for seeds in ((3, 0), (3, 7))
  )
  assert_same(first, second)


def test_a_batch_can_be_cut_into_pieces(mlp, small):
  """23 images do not divide: the pieces are of unequal size."""
  split = training.on_device(small.train)
  images, labels = training.as_float(split.images[:23]), split.labels[:23]
  params = mlp.init(jax.random.key(0), images[:1])
  whole, cut = (
    training.loss_and_gradient(mlp, params, images, labels, pieces)
    for pieces in (1, 5)
  )
  for one, other in zip(
    jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-6)
  logits, _ = mlp.apply(params, images)
  mean = training.cross_entropy(logits, labels).mean()
  assert float(whole[0]) == pytest.approx(float(mean), rel=1e-6)


@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_batch_normalisation_keeps_statistics_of_whole_batches(small, strategy):
  """One step: what is kept is a tenth of the way to the batch's own moments."""
  model = CNN(depth=1, width=3, norm="batch", pooling="none", head="gap")
  one = dataclasses.replace(
    small,
    train=datasets.Split(small.train.images[:64], small.train.labels[:64]),
  )
  (result,) = train(
    model, one, (0,), strategy=strategy, batch_size=64, epochs=1
  )
  assert set(result.initial) == {"params", "batch_stats"}
  kept = result.trained["batch_stats"]["norm1"]
  images = training.as_float(jnp.asarray(one.train.images))
  start = jax.tree.map(jnp.asarray, result.initial)
  maps = np.asarray(model.apply(start, images)[1]["conv1"], np.float64)
  np.testing.assert_allclose(
    kept["mean"], 0.1 * maps.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    kept["var"], 0.9 + 0.1 * maps.var((0, 1, 2)), rtol=1e-4
  )
  # They are not parameters: the optimizer and its decay leave them alone.
  assert sum(model.parameter_counts(32).values()) == sum(
    leaf.size for leaf in jax.tree.leaves(result.trained["params"])
  )


def test_auto_is_loop_on_a_cpu_and_scan_elsewhere(monkeypatch):
  config = TrainConfig(strategy="auto")
  for on_cpu, strategy in ((True, "loop"), (False, "scan")):
    monkeypatch.setattr(training.platform, "on_cpu", lambda c=on_cpu: c)
    assert training.resolve_strategy(config) == strategy


# --- what an epoch is --------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(small):
  """Image i is all of byte i, its label i modulo 10."""
  images = np.zeros((110, 32, 32, 1), np.uint8)
  images += np.arange(110, dtype=np.uint8)[:, None, None, None]
  labels = np.arange(110, dtype=np.int32) % 10
  return dataclasses.replace(small, train=datasets.Split(images, labels))


@pytest.fixture
def batches(mlp, numbered, monkeypatch):
  """Trains and returns the images seen, (epochs, steps, batch)."""
  seen = []

  def augment(key, images):
    del key
    jax.debug.callback(
      lambda x: seen.append(np.array(x)), images[:, 5, 5, 0], ordered=True
    )
    return images

  monkeypatch.setattr(training, "make_augmentation", lambda config: augment)

  def run(seed):
    seen.clear()
    train(mlp, numbered, (seed,), batch_size=25)
    jax.effects_barrier()
    return np.array(seen).reshape(2, 4, 25)

  return run


def test_an_epoch_uses_an_image_at_most_once_in_a_new_order(batches):
  bytes_seen = batches(0) * 255
  order = np.round(bytes_seen).astype(int)
  np.testing.assert_allclose(bytes_seen, order, atol=1e-4)  # 0..255 to 0..1
  for epoch in order:
    assert len(set(epoch.ravel())) == 100
  used = [set(epoch.ravel()) for epoch in order]
  assert used[0] != used[1]  # not always the same ten are left out
  assert (order[0] != order[1]).any(axis=0).all()
  correlation = np.corrcoef(order[0].ravel(), np.arange(100))[0, 1]
  assert abs(correlation) < 0.5  # five standard deviations for chance
  other = np.round(batches(1) * 255).astype(int)
  assert (other != order).mean() > 0.9


def test_augmentation_is_of_training_only_and_new_at_every_step(
  mlp, small, monkeypatch
):
  keys, shapes = [], []

  def augment(key, images):
    shapes.append(images.shape)
    jax.debug.callback(
      lambda k: keys.append(k.tobytes()), jax.random.key_data(key)
    )
    return images

  monkeypatch.setattr(training, "make_augmentation", lambda config: augment)
  train(mlp, small)
  jax.effects_barrier()
  assert set(shapes) == {(60, 32, 32, 1)}  # 96 for testing
  assert len(keys) == len(set(keys)) == 8


# --- what comes out ----------------------------------------------------------


def test_metrics_say_where_training_is(two_seeds):
  for seed, result in enumerate(two_seeds):
    assert [m[:3] for m in result.metrics] == [(seed, 1, 4), (seed, 2, 8)]
    assert all(m.images_per_second > 0 for m in result.metrics)


def test_metrics_are_of_the_trained_network_on_the_test_split(
  mlp, small, two_seeds
):
  result = two_seeds[0]
  images = jnp.asarray(small.test.images, jnp.float32) / 255
  outputs, _ = jax.jit(mlp.apply)(result.trained, images)
  logits = np.asarray(outputs, np.float64)
  right = logits[np.arange(96), small.test.labels]
  loss = (np.log(np.exp(logits).sum(axis=1)) - right).mean()
  accuracy = (logits.argmax(axis=1) == small.test.labels).mean()
  assert result.metrics[-1].test_loss == pytest.approx(loss, rel=1e-5)
  assert result.metrics[-1].test_accuracy == pytest.approx(accuracy, rel=1e-6)


def test_evaluation_in_batches_is_a_mean_over_images(mlp, small, two_seeds):
  """600 images are two batches and a ragged third."""
  split = training.DeviceSplit(
    jnp.asarray(np.tile(small.test.images, (7, 1, 1, 1))[:600]),
    jnp.asarray(np.tile(small.test.labels, 7)[:600]),
  )
  params = two_seeds[0].trained
  loss, accuracy = training.evaluate_sums(mlp, params, split)
  logits, _ = jax.jit(mlp.apply)(params, training.as_float(split.images))
  expected = training.cross_entropy(logits, split.labels).mean()
  hits = (np.argmax(logits, axis=1) == np.asarray(split.labels)).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(accuracy, hits, rtol=1e-6)


def test_results_are_on_the_host_and_initial_ones_as_they_were(mlp, two_seeds):
  result = two_seeds[0]
  for leaf in jax.tree.leaves((result.initial, result.trained)):
    assert isinstance(leaf, np.ndarray)
  key = jax.random.fold_in(jax.random.key(0), 0)
  expected = platform.jit(mlp.init, once=True)(key, jnp.zeros((1, 32, 32, 1)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
    result.initial,
    jax.device_get(expected),
  )


def test_seeds_come_one_by_one_and_progress_counts_epochs(mlp, small):
  done = []
  results = training.train(mlp, small, CONFIG, [4, 5], progress=done.append)
  assert next(iter(results)).seed == 4
  assert done == [1, 1]  # seed 5 has not begun


def test_a_tiny_network_learns_the_digits():
  model = building.build_model(
    ModelConfig(depth=1, width=8), num_classes=10, canvas=32
  )
  (result,) = train(model, datasets.load(DataConfig()), epochs=5, batch_size=64)
  losses = [m.train_loss for m in result.metrics]
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] < 0.5
  assert result.metrics[-1].test_accuracy > 0.85


def test_bfloat16_keeps_float32_parameters(small):
  model = building.build_model(
    ModelConfig(model="mlp", depth=1, width=8),
    num_classes=10,
    canvas=32,
    dtype="bfloat16",
  )
  (result,) = train(model, small, dtype="bfloat16")
  for leaf in jax.tree.leaves((result.initial, result.trained)):
    assert leaf.dtype == np.float32
  assert result.metrics[1].train_loss < result.metrics[0].train_loss


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_a_loss_that_is_not_finite_names_seed_and_step(mlp, small, strategy):
  with pytest.raises(NonFiniteLossError) as caught:
    train(
      mlp,
      small,
      (3,),
      strategy=strategy,
      optimizer="sgd",
      schedule="constant",
      learning_rate=1e30,
    )
  message = str(caught.value)
  # The first step sees initial parameters, so it is not the first.
  assert message.startswith("the train loss of seed 3 is ")
  assert " at step 2 (epoch 1, learning rate 1e+30);" in message
  assert "--learning_rate" in message


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch_size": 257}, "--batch_size=257 is not between 1 and the 256"),
    ({"batch_size": 0}, "--batch_size=0 is not between 1 and the 256"),
    ({"epochs": 0}, "--epochs=0 is not positive"),
    ({"epochs": -1}, "--epochs=-1 is not positive"),
    ({"strategy": "fast"}, "--strategy=fast is not auto, loop or scan"),
    ({"optimizer": "lamb"}, "--optimizer=lamb"),
    ({"augment": "rotation"}, "--augment=rotation"),
  ],
)
def test_impossible_flags_are_refused_before_training(
  mlp, small, changes, message
):
  with pytest.raises(UsageError, match=message):
    train(mlp, small, **changes)


@pytest.mark.slow
def test_mnist_reaches_99_percent(mnist_dir):
  """Depth 3, width 32 and max pooling, 5 epochs; 4 minutes on 2 cores."""
  mnist = datasets.load(DataConfig("mnist", str(mnist_dir)))
  model = building.build_model(
    ModelConfig(pooling="max", depth=3, width=32), num_classes=10, canvas=32
  )
  config = TrainConfig(epochs=5)
  results = training.train(model, mnist, config, range(3))
  accuracy = [result.metrics[-1].test_accuracy for result in results]
  assert np.mean(accuracy) >= 0.990
