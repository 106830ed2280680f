"""Stored parameters that fit their network, or a line that says why not."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import ExperimentError
from models.zoo import Model

_REMEDY = "remove it to have the seed trained again"


def check(
  found: dict[str, Any], path: Path, model: Model, shape: tuple[int, ...]
) -> None:
  """Refuses parameters that are not a network's.

  Args:
    found: its variables, nested, as of `store.load_params`.
    path: where they are from.
    model: the network.
    shape: (height, width, channels) of its images.

  Raises:
    ExperimentError: they are of another network, or one is not finite.
  """
  expected, own = _shapes(model, shape), _leaves(found)
  for name in sorted(set(expected) | set(own)):
    if name not in own or name not in expected:
      state = "lacks" if name not in own else "has a superfluous"
      raise ExperimentError(f"{path} {state} {name}: {_REMEDY}")
    array = own[name]
    if array.shape != expected[name].shape or array.dtype.kind != "f":
      raise ExperimentError(
        f"{path} is of another network: {name} is {array.shape} {array.dtype},"
        f" not {expected[name].shape}: {_REMEDY}"
      )
    if not np.isfinite(array).all():
      raise ExperimentError(
        f"{path} holds numbers in {name} that are not finite: {_REMEDY}"
      )


@functools.cache
def _shapes(model: Model, shape: tuple[int, ...]) -> dict[str, Any]:
  """Shape and type of every variable, without computing any."""
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return _leaves(jax.eval_shape(model.init, jax.random.key(0), image))


def _leaves(tree: Any) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
