"""Network, optimizer and augmentation, each from its flags."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from analysis import transforms
from experiments import specs
from experiments.config import ModelConfig, TrainConfig
from experiments.errors import UsageError, as_flag
from models.zoo import MODELS, Model

_LEARNING_RATES = {"adamw": 4e-3, "sgd": 0.05}

# The flags that each kind of architecture has; the others are fixed by name.
_GROUP_FIELDS = (
  *("pooling", "depth", "width", "kernel_size", "padding", "head", "norm"),
)
_CNN_FIELDS = (
  *_GROUP_FIELDS,
  *("pool_after", "width_schedule", "activation", "residual", "bias"),
)
_FIELDS = {
  "cnn": _CNN_FIELDS,
  "local": _CNN_FIELDS,
  "pyramid": _CNN_FIELDS,
  "p4cnn": _GROUP_FIELDS,
  "p4mcnn": _GROUP_FIELDS,
  "mlp": ("depth", "width"),
}


def model_fields(config: ModelConfig) -> dict[str, Any]:
  """The flags that the architecture has, as its module's fields."""
  names = _FIELDS.get(config.model, ())
  fields = {name: getattr(config, name) for name in names}
  if config.model in ("p4cnn", "p4mcnn") and config.head == "dense":
    # Weights of their own for every position would undo the symmetry.
    fields["head"] = "gap"
  return fields


def build_model(
  config: ModelConfig, *, num_classes: int, canvas: int, dtype: str = "float32"
) -> Model:
  """The network that the flags describe.

  Args:
    config: the architecture.
    num_classes: number of logits.
    canvas: image size, for the check that every layer keeps a position.
    dtype: "float32" or "bfloat16".

  Returns:
    The module; equal arguments give the same object, so that it is compiled
    once.

  Raises:
    UsageError: an unknown model, or values that no network can have.
  """
  if config.model not in MODELS:
    raise UsageError(
      f"--model={config.model} is unknown; known are {', '.join(MODELS)}"
    )
  if dtype not in ("float32", "bfloat16"):
    raise UsageError(f"--dtype={dtype} is not float32 or bfloat16")
  fields = tuple(model_fields(config).items())
  try:
    return _module(config.model, num_classes, canvas, dtype, fields)
  except ValueError as error:
    raise UsageError(as_flag(str(error))) from error


@functools.cache
def _module(
  name: str,
  num_classes: int,
  canvas: int,
  dtype: str,
  fields: tuple[tuple[str, Any], ...],
) -> Model:
  module = MODELS[name](
    num_classes=num_classes, dtype=jnp.dtype(dtype), **dict(fields)
  )
  module.geometry(canvas)  # refuses impossible depths
  return module


def peak_learning_rate(config: TrainConfig) -> float:
  """The largest learning rate: the flag, or the optimizer's default."""
  return config.learning_rate or _LEARNING_RATES[config.optimizer]


def check_rates(config: TrainConfig) -> None:
  """Refuses a learning rate or weight decay that is no number from 0 on.

  Raises:
    UsageError: naming the flag.
  """
  for name in ("learning_rate", "weight_decay"):
    value = getattr(config, name)
    if not (math.isfinite(value) and value >= 0):
      raise UsageError(
        f"--{name}={value:g} is not a finite number from 0 on: give another"
      )


def make_optimizer(
  config: TrainConfig, steps: int
) -> optax.GradientTransformation:
  """AdamW or SGD with momentum, with its schedule.

  Args:
    config: optimizer, learning rate, schedule and weight decay.
    steps: total number of steps.

  Returns:
    The optimizer.

  Raises:
    UsageError: an unknown optimizer or schedule.
  """
  if config.optimizer not in _LEARNING_RATES:
    raise UsageError(
      f"--optimizer={config.optimizer} is not one of"
      f" {', '.join(_LEARNING_RATES)}"
    )
  check_rates(config)
  peak = peak_learning_rate(config)
  if config.schedule == "cosine":
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, peak, max(steps // 10, 1), max(steps, 2)
    )
  elif config.schedule == "constant":
    schedule = optax.constant_schedule(peak)
  else:
    raise UsageError(f"--schedule={config.schedule} is not cosine or constant")
  if config.optimizer == "adamw":
    return optax.adamw(schedule, weight_decay=config.weight_decay)
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule, momentum=0.9),
  )


def make_augmentation(
  config: TrainConfig,
) -> Callable[[Array, Array], Array] | None:
  """Random transformations of a batch, or None.

  Args:
    config: `augment` names the families and their largest parameters.

  Returns:
    From a key and images to transformed images: every image by its own
    composition of the families, in the order given, in one resampling.

  Raises:
    UsageError: a malformed `augment`.
  """
  limits = specs.parse_magnitudes(config.augment, "augment")
  for limit in limits:
    if len(limit.values) != 1:
      raise UsageError(
        f"--augment={config.augment}: give one number for {limit.family}, the"
        " largest"
      )
  if not limits:
    return None

  def augment(key: Array, images: Array) -> Array:
    matrix = jnp.broadcast_to(jnp.eye(3), (len(images), 3, 3))
    for i, limit in enumerate(limits):
      family = transforms.FAMILIES[limit.family]
      shape = (len(images), len(family.parameters))
      bound = limit.values[0]
      theta = jax.random.uniform(
        jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound
      )
      theta = theta[:, 0] if shape[1] == 1 else theta
      matrix = family.matrix(theta) @ matrix
    return transforms.affine_warp(images, matrix)

  return augment
