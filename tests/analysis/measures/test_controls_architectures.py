"""What each architecture promises exactly, untrained and trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.assertions import assert_equivariant, assert_invariant
from analysis.orbits import measure, orbit
from analysis.transforms import rotation, translation
from experiments import datasets, training
from experiments.config import DataConfig, TrainConfig
from models import group, platform
from models.cnn import CNN
from models.group_cnn import GroupCNN

SHIFTS = [(1, 0), (0, -3), (7, 5), (-16, 11), (8, -8)]
CIRCULAR = orbit(translation, SHIFTS, border="circular")

small = functools.partial(CNN, depth=3, width=6, padding="circular", head="gap")
POLYPHASE = ("aps", "max_aps", "avg_aps", "lps", "max_lps")
SAMPLED = (
  *("max", "max:3/2", "avg", "stride", "lp", "mixed", "spectral"),
  *("blur", "blur:4", "max_blur:5", "avg_blur:2"),
)


def _initial(model):
  """As training with seed 0 begins."""
  key = jax.random.fold_in(jax.random.key(0), training._INIT)
  return platform.jit(model.init, once=True)(key, jnp.zeros((1, 32, 32, 1)))


@pytest.fixture(scope="module")
def networks():
  """(model, stage) -> function of images; 1 epoch of the real digits."""
  dataset = datasets.load(DataConfig(train_examples=512))

  @functools.cache
  def get(model, stage):
    if stage == "init":
      return _of_images(model, _initial(model))
    config = TrainConfig(
      epochs=1, batch_size=64, optimizer="sgd", schedule="constant"
    )
    result = next(iter(training.train(model, dataset, config, (0,))))
    moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), result.initial, result.trained
    )
    assert min(jax.tree.leaves(moved["params"])) > 0
    return _of_images(model, jax.tree.map(jnp.asarray, result.trained))

  return get


@functools.cache
def _compiled(model):
  return jax.jit(model.apply)


def _of_images(model, variables):
  # Variables are arguments: all stages of a model share compiled programs.
  return jax.tree_util.Partial(_compiled(model), variables)


def _in_float64(model, network):
  """The same network, whose rounding is far below any tolerance.

  In float32 it reaches 1e-5 of the rms where some activations are 20 times it.
  """
  with jax.enable_x64(True):
    variables = jax.tree.map(
      lambda a: jnp.asarray(a, jnp.float64), network.args[0]
    )
  run = _compiled(model.clone(dtype=jnp.float64))

  def call(images):
    with jax.enable_x64(True):
      return run(variables, jnp.asarray(images, jnp.float64))

  return call


MEASURES = ["equivariance_error", "invariance_error", "consistency"]


def _errors(table):
  """Invariance error by layer, and consistency; of each transformation."""
  table = table[table["measure"].isin(["invariance_error", "consistency"])]
  name = table["layer"].where(
    table["measure"] != "consistency", table["measure"]
  )
  return {k: v.to_numpy() for k, v in table["value"].groupby(name)}


# --- 3: shifts ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("pooling", "stage"),
  [
    *((p, "init") for p in POLYPHASE),
    ("max_aps", "trained"),
    ("lps", "trained"),
  ],
)
def test_polyphase_sampling_is_exactly_invariant(
  networks, digits, pooling, stage
):
  model = small(pooling=pooling)
  network = networks(model, stage)
  table = measure(
    network, digits[:6], CIRCULAR, MEASURES, geometry=model.geometry(32)
  )
  values = _errors(table)
  assert values["gap"].max() < 1e-5
  assert values["logits"].max() < 1e-5
  assert (values["consistency"] == 1).all()
  assert values["pool1"].min() > 0.1  # maps do move
  by_layer = table[table["measure"].str.startswith("equiv")].groupby("layer")
  assert by_layer["value"].max()["relu1"] < 1e-5
  assert by_layer["note"].first()["pool1"] == (
    "where its positions lie depends on the image"
  )


@pytest.mark.parametrize(
  ("pooling", "stage"),
  [
    *((p, "init") for p in SAMPLED),
    *((p, "trained") for p in ("max", "lp", "mixed", "blur")),
  ],
)
def test_fixed_sampling_is_exact_for_its_stride_only(
  networks, digits, pooling, stage
):
  """All layers move with 8 px; odd shifts change the pooled output."""
  model = small(pooling=pooling)
  network = networks(model, stage)
  geometry = model.geometry(32)
  assert geometry["relu3"].stride in (4, 8)
  table = measure(network, digits[:4], CIRCULAR, MEASURES, geometry=geometry)
  whole = table[
    (table["theta"] == "8,-8") & (table["measure"] == "equivariance_error_full")
  ]
  values = whole.set_index("layer")["value"].dropna()
  assert set(values.index) == {n for n, w in geometry.items() if w.spatial}
  assert values.max() < 1e-5
  *odd, at_stride = _errors(table)["logits"]
  assert at_stride < 1e-5
  assert min(odd) > 1e-3


def test_everything_that_keeps_positions_keeps_the_symmetry(networks, digits):
  """Eight residual blocks, normalised, with a smooth activation."""
  model = CNN(
    depth=8,
    width=3,
    pooling="none",
    padding="circular",
    head="gmp",
    residual=True,
    norm="group",
    activation="gelu",
  )
  for stage in ("init", "trained"):
    network = networks(model, stage)
    table = measure(
      network,
      digits[:3],
      CIRCULAR,
      ["equivariance_error", "invariance_error"],
      geometry=model.geometry(32),
    )
    full = table[table["measure"] == "equivariance_error_full"]
    # Sums over all positions, in another order: 24 layers add up to 2e-5.
    assert full["value"].max() < 5e-5
    last = table[
      (table["measure"] == "invariance_error") & (table["layer"] == "gmp")
    ]
    assert last["value"].max() < 5e-5


def test_without_shared_weights_nothing_moves_along(networks, digits):
  fields = {"depth": 1, "width": 4, "pooling": "none", "padding": "circular"}
  errors = {}
  for shared in (True, False):
    model = CNN(weight_sharing=shared, **fields)
    table = measure(
      networks(model, "init"),
      digits[:4],
      CIRCULAR,
      ["equivariance_error"],
      geometry=model.geometry(32),
    )
    rows = table[(table["layer"] == "conv1") & table["value"].notna()]
    errors[shared] = rows["value"]
  assert errors[True].max() < 1e-5
  assert errors[False].min() > 0.3


# --- 4: quarter turns and mirrors --------------------------------------------


def _mirrored(images):
  return images[:, :, ::-1]


@pytest.mark.parametrize(
  ("name", "pooling", "stage"),
  [
    *(("p4", "max", stage) for stage in ("init", "trained")),
    *(("p4m", "max", stage) for stage in ("init", "trained")),
    ("p4m", "avg", "init"),
    ("p4", "none", "init"),
    ("p4m", "max", "trained, batch"),
    ("p4", "avg", "init, group"),
  ],
)
def test_group_networks_turn_with_the_image(
  networks, digits, name, pooling, stage
):
  stage, _, norm = stage.partition(", ")
  model = GroupCNN(
    depth=2, width=4, group=name, pooling=pooling, norm=norm or "none"
  )
  network = networks(model, stage)
  if not norm:  # normalisation is of float32
    network = _in_float64(model, network)
  copies = group.ORIENTATIONS[name]
  blocks = [k for k in model.layer_names if k[-1].isdecimal()]

  def act(maps, quarter_turns):
    split = maps.reshape(*maps.shape[:3], copies, -1)
    return group.turn(split, quarter_turns).reshape(maps.shape)

  for k in (1, 2, 3):
    assert_equivariant(
      network,
      (rotation, 90 * k),
      digits,
      layers=[*blocks, "orientations"],
      act=dict.fromkeys(blocks, functools.partial(act, quarter_turns=k)),
      geometry={"orientations": model.geometry(32)["orientations"]},
    )
    assert_invariant(
      network, (rotation, 90 * k), digits, layers=["gap", "logits"]
    )
  if name == "p4m":
    assert_invariant(network, _mirrored, digits, layers=["gap", "logits"])


@pytest.mark.parametrize("stage", ["init", "trained"])
def test_what_is_not_built_in_is_not_there(networks, digits, stage):
  p4 = networks(GroupCNN(depth=2, width=4), stage)
  with pytest.raises(AssertionError, match="'gap' is not invariant"):
    assert_invariant(p4, _mirrored, digits, layers="gap", rtol=0.05)
  plain = networks(CNN(depth=2, width=4, head="gap"), stage)
  with pytest.raises(AssertionError, match="'gap' is not invariant"):
    assert_invariant(plain, (rotation, 90), digits, layers="gap", rtol=0.05)


# --- 5: bag of pixels --------------------------------------------------------


@pytest.mark.parametrize("stage", ["init", "trained"])
@pytest.mark.parametrize(
  "model",
  [
    CNN(depth=2, width=6, kernel_size=1, pooling="none", head="gap"),
    CNN(depth=2, width=6, kernel_size=1, pooling="none", head="gmp"),
    CNN(
      depth=3,
      width=6,
      kernel_size=1,
      pooling="none",
      head="gap",
      residual=True,
      norm="batch",
    ),
  ],
  ids=["gap", "gmp", "batch norm"],
)
def test_single_pixels_know_no_order(networks, digits, model, stage):
  order = np.random.default_rng(1).permutation(32 * 32)

  def shuffle(x):
    return x.reshape(len(x), -1)[:, order].reshape(x.shape)

  assert_invariant(
    networks(model, stage), shuffle, digits, layers=[model.head, "logits"]
  )


# --- 6: padding tells where things are ---------------------------------------


@pytest.mark.parametrize(
  ("padding", "knows"),
  [("circular", False), ("same", True), ("reflect", True), ("valid", True)],
)
def test_only_circular_padding_hides_the_position(digits, padding, knows):
  """Blank but for a dot: circular shifts must not show in the output."""
  model = CNN(depth=3, width=6, pooling="none", padding=padding, head="gap")
  variables = _initial(model)
  dot = jnp.zeros((1, 32, 32, 1)).at[:, 15:17, 15:17].set(1.0)
  outputs = [
    model.apply(variables, jnp.roll(dot, shift, axis=1))[0] for shift in (0, 15)
  ]
  moved = float(np.abs(outputs[0] - outputs[1]).max())
  assert (moved > 1e-4) == knows
