import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import transforms
from experiments import building
from experiments.config import ModelConfig, TrainConfig
from experiments.errors import UsageError


def build(dtype="float32", **fields):
  return building.build_model(
    ModelConfig(**fields), num_classes=10, canvas=32, dtype=dtype
  )


def updates_of(config, count, steps=10):
  """The first updates of a parameter 0 whose gradient is 1."""
  optimizer = building.make_optimizer(config, steps)
  params = jnp.zeros(())
  state = optimizer.init(params)
  step = jax.jit(optimizer.update)
  sizes = []
  for _ in range(count):
    update, state = step(jnp.ones(()), state, params)
    sizes.append(float(update))
  return sizes


# --- networks ----------------------------------------------------------------


def test_the_flags_reach_the_network():
  model = build(
    pooling="avg",
    depth=2,
    width=4,
    kernel_size=5,
    padding="circular",
    head="gap",
  )
  params = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )["params"]
  assert params["conv1"]["kernel"].shape == (5, 5, 1, 4)
  assert params["conv2"]["kernel"].shape == (5, 5, 4, 4)
  assert params["logits"]["kernel"].shape == (4, 10)  # global average
  assert "pool2" in model.layer_names
  assert model.geometry(32)["pool2"].spatial == (8, 8)
  assert getattr(model, "pooling", None) == "avg"
  assert getattr(model, "padding", None) == "circular"


def test_equal_flags_give_the_same_object():
  assert build(depth=2, width=4) is build(depth=2, width=4)
  assert build(depth=2, width=4) is not build(depth=2, width=5)


def test_flags_that_an_architecture_lacks_do_not_matter():
  assert build(model="mlp", width=4) is build(
    model="mlp", width=4, pooling="none"
  )
  assert build(model="lecture", depth=5).layer_names == (
    build(model="lecture").layer_names
  )


@pytest.mark.parametrize(
  ("dtype", "fields", "message"),
  [
    ("float32", {"model": "vit"}, "--model=vit is unknown; known are cnn, mlp"),
    ("float16", {}, "--dtype=float16 is not float32 or bfloat16"),
    ("float32", {"pooling": "median"}, "--pooling=median is not one of"),
    ("float32", {"depth": 9}, "depth=9 is not between"),
    ("float32", {"model": "mlp", "width": 0}, "width=0 is not positive"),
  ],
)
def test_impossible_networks_are_usage_errors(dtype, fields, message):
  with pytest.raises(UsageError, match=message):
    build(dtype, **fields)


def test_a_network_deeper_than_the_canvas_is_refused():
  config = ModelConfig(depth=6, padding="valid")
  with pytest.raises(UsageError):
    building.build_model(config, num_classes=10, canvas=20)


# --- optimizers --------------------------------------------------------------


@pytest.mark.parametrize(
  ("optimizer", "default"), [("adamw", 4e-3), ("sgd", 0.05)]
)
def test_learning_rates(optimizer, default):
  """A first step on gradient 1 has the size of the learning rate."""
  config = TrainConfig(optimizer=optimizer, schedule="constant", weight_decay=0)
  assert updates_of(config, 1) == pytest.approx([-default], rel=1e-4)
  given = TrainConfig(
    optimizer=optimizer, schedule="constant", learning_rate=0.01
  )
  assert updates_of(given, 1) == pytest.approx([-0.01], rel=1e-4)


def test_sgd_has_momentum():
  config = TrainConfig(optimizer="sgd", schedule="constant", learning_rate=1.0)
  assert updates_of(config, 2) == pytest.approx([-1.0, -1.9], rel=1e-6)


def test_the_cosine_schedule_warms_up_for_a_tenth_and_ends_at_zero():
  config = TrainConfig(learning_rate=1.0, weight_decay=0)
  sizes = -np.array(updates_of(config, 101, steps=100))
  assert sizes[0] == 0
  assert sizes.argmax() == 10
  assert sizes[5] == pytest.approx(0.5, rel=1e-3)
  assert sizes[10] == pytest.approx(1.0, rel=1e-3)
  assert sizes[55] == pytest.approx(0.5, rel=1e-3)
  assert sizes[100] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("steps", [2, 3])
def test_the_cosine_schedule_moves_even_in_few_steps(steps):
  updates = updates_of(TrainConfig(learning_rate=1.0), steps, steps)
  assert np.isfinite(updates).all()
  assert any(updates)


def test_weight_decay_pulls_to_zero():
  for optimizer in ("adamw", "sgd"):
    tx = building.make_optimizer(
      TrainConfig(
        optimizer=optimizer,
        schedule="constant",
        learning_rate=0.1,
        weight_decay=0.5,
      ),
      10,
    )
    params = jnp.full((), 2.0)
    update, _ = tx.update(jnp.zeros(()), tx.init(params), params)
    # For decoupled decay and, in a first step, for L2 too.
    assert float(jnp.asarray(update)) == pytest.approx(-0.1 * 0.5 * 2)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"optimizer": "lamb"}, "--optimizer=lamb is not one of adamw, sgd"),
    ({"schedule": "step"}, "--schedule=step is not cosine or constant"),
  ],
)
def test_unknown_optimizers_and_schedules_are_refused(fields, message):
  with pytest.raises(UsageError, match=message):
    building.make_optimizer(TrainConfig(**fields), 10)


# --- augmentation ------------------------------------------------------------


@pytest.fixture(scope="module")
def one_digit(digits):
  """The same digit sixteen times, so that differences are of the theta."""
  return jnp.asarray(np.repeat(digits[3:4], 16, axis=0))


def test_no_augmentation_is_none():
  assert building.make_augmentation(TrainConfig(augment="")) is None


@pytest.mark.parametrize(
  ("augment", "message"),
  [
    ("rotation:5/10", "give one number for rotation, the largest"),
    ("twist:5", "--augment=twist:5: 'twist:5' is not of the form"),
    ("rotation:0", "'0' is not a positive number"),
  ],
)
def test_malformed_augmentations_are_refused(augment, message):
  with pytest.raises(UsageError, match=message):
    building.make_augmentation(TrainConfig(augment=augment))


def augmented(augment, images, seed=0):
  function = building.make_augmentation(TrainConfig(augment=augment))
  assert function is not None
  return np.asarray(jax.jit(function)(jax.random.key(seed), images))


def test_every_image_has_a_transformation_of_its_own(one_digit):
  images = augmented("rotation:30", one_digit)
  assert len({image.tobytes() for image in images}) == 16


def test_transformations_follow_from_the_key(one_digit):
  first = augmented("translation:4,rotation:30", one_digit)
  again = augmented("translation:4,rotation:30", one_digit)
  other = augmented("translation:4,rotation:30", one_digit, seed=1)
  np.testing.assert_array_equal(first, again)
  assert (first != other).any(axis=(1, 2, 3)).all()


def chosen(monkeypatch, *values):
  """Makes the random numbers known: the n-th family's share of its bound."""
  shares = iter(values)

  def uniform(key, shape, *, minval, maxval):
    del key
    assert minval == -maxval
    return jnp.broadcast_to(jnp.asarray(next(shares), jnp.float32), shape) * (
      maxval
    )

  monkeypatch.setattr(jax.random, "uniform", uniform)


@pytest.mark.parametrize(
  ("augment", "share", "theta"),
  [
    ("rotation:30", 0.5, 15.0),
    ("scaling:x2", -0.25, -0.25),
    ("translation:4", (0.5, -1.0), (2.0, -4.0)),
  ],
)
def test_one_family_is_the_familys_warp(
  digits, monkeypatch, augment, share, theta
):
  chosen(monkeypatch, share)
  images = jnp.asarray(digits)
  family = transforms.FAMILIES[augment.partition(":")[0]]
  np.testing.assert_allclose(
    augmented(augment, images),
    family.warp(images, jnp.asarray(theta, jnp.float32)),
    atol=1e-5,
  )


def test_families_act_in_the_order_given_in_one_resampling(digits, monkeypatch):
  images = jnp.asarray(digits)
  shift, turn = jnp.array([3.0, 0.0]), jnp.asarray(20.0)
  matrices = (
    transforms.translation.matrix(shift),
    (transforms.rotation.matrix(turn)),
  )
  for text, shares, matrix in (
    ("translation:3,rotation:20", ((1.0, 0.0), 1.0), matrices[1] @ matrices[0]),
    ("rotation:20,translation:3", (1.0, (1.0, 0.0)), matrices[0] @ matrices[1]),
  ):
    chosen(monkeypatch, *shares)
    np.testing.assert_allclose(
      augmented(text, images),
      transforms.affine_warp(images, matrix),
      atol=1e-5,
    )


def test_parameters_stay_within_their_bounds(one_digit):
  """The centre of mass of a digit that fits moves with the translation."""
  images = jnp.tile(one_digit, (8, 1, 1, 1))
  place = np.arange(32)

  def centre(batch):
    batch = np.asarray(batch)[..., 0]
    total = batch.sum(axis=(1, 2))
    return np.stack(
      [
        batch.sum(axis=1) @ place / total,
        batch.sum(axis=2) @ place / total,
      ]
    )

  moved = centre(augmented("translation:2", images)) - centre(images)
  assert np.abs(moved).max() <= 2 + 1e-3
  # 128 uniform numbers leave an end tenth empty once in 100,000 times.
  assert (moved.min(axis=1) < -1.6).all()
  assert (moved.max(axis=1) > 1.6).all()
