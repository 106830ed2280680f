import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import platform
from models.zoo import MODELS


@pytest.mark.parametrize("name", ["cnn", "p4cnn"])
def test_what_is_compiled_to_run_once_computes_the_same_bits(name):
  model, blank = MODELS[name](), jnp.zeros((1, 32, 32, 1))
  once = platform.jit(model.init, once=True)(jax.random.key(0), blank)
  often = platform.jit(model.init)(jax.random.key(0), blank)
  jax.tree.map(np.testing.assert_array_equal, once, often)


def test_an_option_that_xla_does_not_know_is_not_given(monkeypatch):
  monkeypatch.setattr(platform, "_CPU_COMPILER_OPTIONS", {"xla_new": True})
  probe = platform.compiler_options.__wrapped__
  assert probe() == {}
  assert probe(once=True) == platform._ONCE_OPTIONS
