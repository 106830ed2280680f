import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import platform
from models.cnn import CNN
from models.mlp import MLP
from models.zoo import FAMILIES, MODELS

NETWORKS = {
  **{name: make() for name, make in MODELS.items()},
  "none": CNN(depth=2, width=4, pooling="none", head="gap"),
  "avg": CNN(depth=2, width=4, pooling="avg", padding="circular"),
  "stride": CNN(depth=2, width=4, pooling="stride", padding="valid"),
  "bfloat16": CNN(depth=2, width=4, dtype=jnp.dtype("bfloat16")),
  "residual": CNN(depth=3, width=4, residual=True, norm="group", head="gmp"),
  "double": CNN(depth=4, width=2, width_schedule="double", pool_after="2/4"),
  **{
    f"{family}: {name}": make()
    for family, members in FAMILIES.items()
    for name, make in members.items()
  },
}


class Network(NamedTuple):
  """A network, and what it makes of all digits: compiled once for all tests."""

  model: Any
  variables: Any
  names: list[str]
  logits: Any
  activations: Any


@pytest.fixture(params=NETWORKS, scope="module")
def network(request, digits):
  model = NETWORKS[request.param]
  blank = jnp.zeros((1, 32, 32, 1))
  variables = platform.jit(model.init, once=True)(jax.random.key(0), blank)
  names = []

  @jax.jit
  def apply(variables, x):
    logits, activations = model.apply(variables, x)
    names.extend(activations)  # what jit returns has them in another order
    return logits, activations

  seen = apply(variables, jnp.asarray(digits))
  return Network(model, variables, names, *seen)


@pytest.fixture(scope="module")
def steps(network, digits):
  """Losses of two steps of training, and the logits that the first is of."""
  model, variables = network.model, network.variables
  x, labels = jnp.asarray(digits), jnp.arange(16) % 10
  optimizer = optax.sgd(1e-3)
  kept = {k: v for k, v in variables.items() if k != "params"}

  @jax.jit
  def step(params):
    def loss(params):
      (logits, _), _ = model.apply(
        {"params": params, **kept}, x, train=True, mutable=["batch_stats"]
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), logits

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params))
    return optax.apply_updates(params, updates), value, logits

  params, first, logits = step(variables["params"])
  _, second, _ = step(params)
  return first, second, logits


def test_activations_are_named_in_forward_order(network):
  model, activations = network.model, network.activations
  assert tuple(network.names) == model.layer_names
  assert network.logits.shape == (16, 10)
  assert network.logits.dtype == jnp.float32
  np.testing.assert_array_equal(network.logits, activations["logits"])
  for name, where in model.geometry(32).items():
    spatial = activations[name].shape[1:3] if where.spatial else None
    assert spatial == where.spatial


def test_training_mode_computes_the_same_function(network, steps):
  model, plain = network.model, network.logits
  *_, trained = steps
  if getattr(model, "norm", "") == "batch":
    # But for the batch's own statistics in place of the running ones.
    assert np.abs(plain - trained).max() > 1e-3
    return
  tolerance = 1e-5 if getattr(model, "dtype", None) == jnp.float32 else 0.1
  np.testing.assert_allclose(plain, trained, atol=tolerance)


def test_forward_mode_works(network, digits):
  """Lie derivatives need `jax.jvp` through every layer."""
  x = jnp.asarray(digits[:2])

  @jax.jit
  def change(variables, x):
    apply = functools.partial(network.model.apply, variables)
    return jax.jvp(lambda x: apply(x)[0], (x,), (x,))[1]

  tangent = change(network.variables, x)
  assert np.isfinite(tangent).all()


def test_one_real_training_step_lowers_the_loss(steps):
  first, second, _ = steps
  assert second < first


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"pooling": "median"}, "pooling='median' is not one of max, avg"),
    ({"pooling": "max:3"}, "pooling='max:3' is not one of"),
    ({"pooling": "max:0/2"}, "pooling='max:0/2' is not one of"),
    ({"pooling": "max:"}, "pooling='max:' is not one of"),
    ({"pooling": "blur:6"}, "pooling='blur:6' is not one of"),
    ({"pooling": "lp_blur"}, "pooling='lp_blur' is not one of"),
    ({"pooling": "aps:3"}, "pooling='aps:3' is not one of"),
    ({"padding": "wrap"}, "padding='wrap' is not one of"),
    ({"head": "none"}, "head='none' is not one of"),
    ({"norm": "layer"}, "norm='layer' is not one of"),
    ({"activation": "swish"}, "activation='swish' is not one of"),
    ({"depth": 0}, "depth=0 is not between 1 and 8"),
    ({"depth": 9}, "depth=9 is not between 1 and 8"),
    ({"pool_after": "4"}, "pool_after='4' is not all or different numbers"),
    ({"pool_after": "1/1"}, "pool_after='1/1' is not all or different"),
    ({"pool_after": ""}, "pool_after='' is not all or different"),
    ({"width_schedule": "8/16"}, "'8/16' is not constant, double or 3"),
    ({"width_schedule": "8/x/8"}, "'8/x/8' is not constant, double or 3"),
    ({"residual": True, "padding": "valid"}, "residual=True needs a padding"),
    ({"scales": (1.0,), "padding": "circular"}, "scales need padding 'same'"),
    ({"scales": (1.0,), "weight_sharing": False}, "scales need weight_sharing"),
    ({"pooling": "dilate", "weight_sharing": False}, "'dilate' is for ordin"),
    ({"width": 0}, "width=0 is not positive"),
    ({"kernel_size": 4}, "kernel_size=4 is even"),
  ],
)
def test_impossible_networks_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    CNN(**fields)


def test_an_even_kernel_is_fine_without_padding():
  assert CNN(kernel_size=4, padding="valid", depth=1).geometry(32)


def test_impossible_mlps_are_refused():
  with pytest.raises(ValueError, match="depth=0"):
    MLP(depth=0)
  with pytest.raises(ValueError, match="width=0"):
    MLP(width=0)
