"""Foreign modules as networks: their layers, values, and what is not seen."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from analysis import network
from models import adapters

eqx = pytest.importorskip("equinox")

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def users_settings():
  """Stock layers promote types and ranks, as users' settings let them."""
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    yield


def layers_of(fn):
  """Unit shapes, as the measuring pass finds them."""
  return network.probe(fn, IMAGES, {})[1]


def ran(fn):
  """Output and activations of the jitted network."""
  return jax.jit(lambda fn, x: fn(x))(fn, IMAGES)


# --- Linen -------------------------------------------------------------------


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(2, (3, 3), name="zconv")(x))
    self.sow("intermediates", "relu", x)
    return nn.Conv(2, (3, 3), name="aconv")(x)


class Pair(nn.Module):
  """Returns two arrays and something that is none."""

  def __call__(self, x):
    return {"low": x - 1, "high": x + 1, "none": None}


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x, train=True):
    x = Block(name="first")(x)
    twice = nn.Conv(2, (1, 1), name="twice")
    x = twice(twice(x))
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = Pair(name="pair")(x)["high"]
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.softmax(nn.Dense(4)(x.reshape(len(x), -1)))

  @nn.compact
  def encode(self, x):
    return Block(name="first")(x)


@pytest.fixture(scope="module")
def linen():
  module = Linen()
  variables = jax.jit(module.init, static_argnames="train")(
    jax.random.key(0), IMAGES[:1], train=False
  )
  return module, variables


def test_linen_submodules_are_layers_in_the_order_of_their_calls(linen):
  fn = adapters.from_linen(*linen, train=False)
  assert layers_of(fn) == {
    "first/zconv": (8, 8, 2),
    "first/relu": (8, 8, 2),  # sown
    "first/aconv": (8, 8, 2),  # what `first` returns too
    "twice": (8, 8, 2),
    "twice#2": (8, 8, 2),
    "BatchNorm_0": (8, 8, 2),
    # `high` goes through the dropout, which does nothing, as it is.
    "pair/high": (8, 8, 2),
    "pair/low": (8, 8, 2),
    "Dense_0": (4,),
    "result": (4,),  # the softmax is no module
  }


def test_linen_values_are_the_modules_own(linen):
  module, variables = linen
  output, layers = ran(adapters.from_linen(*linen, train=False))
  expected = module.apply(variables, IMAGES, train=False)
  np.testing.assert_allclose(output, expected, atol=1e-6)
  np.testing.assert_array_equal(output, layers["result"])
  np.testing.assert_allclose(
    output, jax.nn.softmax(layers["Dense_0"]), atol=1e-6
  )
  conv = nn.Conv(2, (3, 3))
  kernel = {"params": variables["params"]["first"]["zconv"]}
  np.testing.assert_allclose(
    layers["first/zconv"], np.asarray(conv.apply(kernel, IMAGES)), atol=1e-6
  )


def test_linen_methods_other_than_call(linen):
  fn = adapters.from_linen(*linen, method="encode")
  assert list(layers_of(fn)) == ["first/zconv", "first/relu", "first/aconv"]


def test_layers_can_be_chosen_and_a_wrong_name_is_refused(linen):
  fn = adapters.from_linen(*linen, train=False, layers=["Dense_0", "twice"])
  assert list(layers_of(fn)) == ["twice", "Dense_0"]
  wrong = adapters.from_linen(*linen, train=False, layers=["dense"])
  with pytest.raises(ValueError, match="layer 'dense' is not one of first/zco"):
    layers_of(wrong)


def test_batch_normalisation_that_trains_is_refused_by_the_pass(linen):
  module, variables = linen
  training = adapters.from_linen(module, variables, train=True)
  with pytest.raises(ValueError, match="the function raises"):
    layers_of(training)


def test_other_variables_of_a_network_are_not_traced_again(linen):
  module, variables = linen
  fn = adapters.from_linen(module, variables, train=False)
  other = jax.tree.map(lambda a: a + 1, dict(variables))
  twin = jax.tree_util.Partial(fn.func, other)
  traces = []
  step = jax.jit(lambda fn, x: traces.append(1) or fn(x)[0])
  assert not np.array_equal(step(fn, IMAGES), step(twin, IMAGES))
  assert len(traces) == 1


# --- NNX ---------------------------------------------------------------------


class Base(nnx.Module):
  def __call__(self, x):
    return nnx.relu(x)


class Derived(Base):
  """Its call is its base's, which is wrapped too where both are used."""

  def __call__(self, x):
    return 2 * super().__call__(x)


class Plain(Derived):
  """Inherits its call."""


class NNX(nnx.Module):
  def __init__(self, rngs):
    self.zconv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
    self.parts = nnx.Sequential(Base(), Derived(), Plain())
    self.norm = nnx.BatchNorm(2, rngs=rngs)
    self.heads = nnx.List([nnx.Linear(2, 4, rngs=rngs)])
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x, scale=1.0):
    x = self.norm(self.parts(self.zconv(x)))
    return self.heads[0](self.dropout(x.mean(axis=(1, 2)))) * scale


@pytest.fixture(scope="module")
def nnx_module():
  module = NNX(nnx.Rngs(0))
  module.eval()
  return module


def test_nnx_submodules_are_layers_in_the_order_of_their_calls(nnx_module):
  fn = adapters.from_nnx(nnx_module, scale=3.0)
  assert layers_of(fn) == {
    "zconv": (8, 8, 2),
    "parts/layers/0": (8, 8, 2),
    "parts/layers/1": (8, 8, 2),
    "parts/layers/2": (8, 8, 2),
    "norm": (8, 8, 2),
    "dropout": (2,),
    "heads/0": (4,),
    "result": (4,),
  }
  output, layers = ran(fn)
  np.testing.assert_allclose(output, nnx_module(IMAGES, 3.0), atol=1e-6)
  np.testing.assert_allclose(output, 3 * layers["heads/0"], atol=1e-6)
  np.testing.assert_allclose(
    layers["parts/layers/2"], 2 * layers["parts/layers/1"], atol=1e-6
  )


def test_nnx_modules_are_left_as_they_were(nnx_module):
  classes = (Base, Derived, Plain, nnx.Conv, nnx.Linear)
  before = [vars(cls).get("__call__") for cls in classes]
  fn = adapters.from_nnx(nnx_module)
  state = jax.tree.map(
    np.asarray, nnx.to_pure_dict(nnx.state(nnx_module, nnx.Param))
  )
  layers_of(fn)
  after = nnx.to_pure_dict(nnx.state(nnx_module, nnx.Param))
  assert [vars(cls).get("__call__") for cls in classes] == before
  jax.tree.map(np.testing.assert_array_equal, state, after)
  # And the function is not changed by what happens to the module later.
  kernel, output = nnx_module.heads[0].kernel, ran(fn)[0]
  old = kernel[...]
  kernel[...] = 0 * old
  np.testing.assert_array_equal(ran(fn)[0], output)
  kernel[...] = old


def test_classes_are_restored_when_the_module_raises(nnx_module):
  before = vars(nnx.Conv)["__call__"]
  fn = adapters.from_nnx(nnx_module)
  with pytest.raises(ValueError, match="the function raises"):
    network.probe(fn, IMAGES[..., 0, 0], {})
  assert vars(nnx.Conv)["__call__"] is before


# --- Equinox -----------------------------------------------------------------


class Equinox(eqx.Module):
  features: eqx.nn.Sequential
  tokens: eqx.nn.Linear
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key, 3)
    self.features = eqx.nn.Sequential(
      [
        eqx.nn.Conv2d(1, 2, 3, key=keys[0]),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.MaxPool2d(2, 2),
      ]
    )
    self.tokens = eqx.nn.Linear(2, 5, key=keys[1])
    self.head = eqx.nn.Linear(5, 4, key=keys[2])

  def __call__(self, x):
    x = self.features(x).reshape(2, -1).T
    # Inside vmap the layer sees one token: there is nothing to record.
    return self.head(jax.vmap(self.tokens)(x).mean(axis=0)), "aux"


def test_equinox_submodules_are_layers_with_their_channels_last():
  module = Equinox(jax.random.key(0))
  fn = adapters.from_equinox(module)
  assert layers_of(fn) == {
    "features/layers/0": (6, 6, 2),
    "features/layers/1": (6, 6, 2),
    "features/layers/2": (3, 3, 2),
    "head": (4,),
  }
  output, layers = ran(fn)
  for i, image in enumerate(IMAGES):
    image = np.moveaxis(image, -1, 0)
    np.testing.assert_allclose(output[i], module(image)[0], atol=1e-6)
    pooled = module.features(image)
    np.testing.assert_allclose(
      layers["features/layers/2"][i], np.moveaxis(pooled, 0, -1), atol=1e-6
    )


def test_equinox_modules_may_take_channels_last():
  class Mean(eqx.Module):
    head: eqx.nn.Linear

    def __call__(self, x):
      return self.head(x.mean(axis=(0, 1)))

  fn = adapters.from_equinox(
    Mean(eqx.nn.Linear(1, 4, key=jax.random.key(0))), channels_first=False
  )
  assert layers_of(fn) == {"head": (4,)}
