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


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
  model = NETWORKS[request.param]
  blank = jnp.zeros((1, 32, 32, 1))
  return model, platform.jit(model.init, once=True)(jax.random.key(0), blank)


def test_activations_are_named_in_forward_order(network, digits):
  model, variables = network
  names = []

  @jax.jit
  def apply(variables, x):
    logits, activations = model.apply(variables, x)
    names.extend(activations)  # what jit returns has them in another order
    return logits, activations

  logits, activations = apply(variables, jnp.asarray(digits[:2]))
  assert tuple(names) == model.layer_names
  assert logits.shape == (2, 10)
  assert logits.dtype == jnp.float32
  np.testing.assert_array_equal(logits, activations["logits"])
  for name, where in model.geometry(32).items():
    spatial = activations[name].shape[1:3] if where.spatial else None
    assert spatial == where.spatial


def _training(model, variables, x):
  """Logits in training mode."""
  (logits, _), _ = model.apply(
    variables, x, train=True, mutable=["batch_stats"]
  )
  return logits


def test_training_mode_computes_the_same_function(network, digits):
  model, variables = network
  x = jnp.asarray(digits[:4])
  plain, _ = jax.jit(model.apply)(variables, x)
  fast = jax.jit(lambda v, x: _training(model, v, x))(variables, x)
  if getattr(model, "norm", "") == "batch":
    # But for the batch's own statistics in place of the running ones.
    assert np.abs(plain - fast).max() > 1e-3
    return
  tolerance = 1e-5 if getattr(model, "dtype", None) == jnp.float32 else 0.1
  np.testing.assert_allclose(plain, fast, atol=tolerance)


def test_forward_mode_works(network, digits):
  """Lie derivatives need `jax.jvp` through every layer."""
  model, variables = network
  x = jnp.asarray(digits[:2])

  @jax.jit
  def change(variables, x):
    return jax.jvp(lambda x: model.apply(variables, x)[0], (x,), (x,))[1]

  tangent = change(variables, x)
  assert np.isfinite(tangent).all()


def test_one_real_training_step_lowers_the_loss(network, digits):
  model, variables = network
  x, labels = jnp.asarray(digits), jnp.arange(16) % 10
  optimizer = optax.sgd(1e-3)

  kept = {k: v for k, v in variables.items() if k != "params"}

  @jax.jit
  def step(params):
    def loss(params):
      logits = _training(model, {"params": params, **kept}, x)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
      ).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params))
    return value, optax.apply_updates(params, updates)

  first, params = step(variables["params"])
  second, _ = step(params)
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
