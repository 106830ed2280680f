"""Flags that no run can have, refused before anything is written."""

from experiments import building, memory
from experiments.config import ModelConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.errors import UsageError
from models import cost
from models.geometry import walk
from models.zoo import Model

# Steps are counted in 32 bits.
_MOST_STEPS = 2**31 - 1

# Of a batch, so many images at least are in memory at once, and of each
# parameter itself, its gradient and the optimizer's two numbers.
_IMAGES, _COPIES, _BYTES = 16, 4, 4


def check_training(config: TrainConfig, examples: int) -> None:
  """Refuses training that cannot be.

  Args:
    config: how to train.
    examples: number of training images.

  Raises:
    UsageError: naming the flag.
  """
  check_sizes(config, examples)
  if config.strategy not in ("auto", "loop", "scan"):
    raise UsageError(f"--strategy={config.strategy} is not auto, loop or scan")
  building.make_optimizer(config, 1)
  building.make_augmentation(config)


def check_sizes(config: TrainConfig, examples: int) -> None:
  """The part of `check_training` that holds for any way to train.

  Raises:
    UsageError: naming the flag.
  """
  building.check_rates(config)
  if not 1 <= config.batch_size <= examples:
    raise UsageError(
      f"--batch_size={config.batch_size} is not between 1 and the {examples}"
      " training images"
    )
  if config.epochs < 1:
    raise UsageError(f"--epochs={config.epochs} is not positive")
  steps = examples // config.batch_size
  if config.epochs * steps > _MOST_STEPS:
    raise UsageError(
      f"--epochs={config.epochs} are more than {_MOST_STEPS:,} steps: give at"
      f" most {_MOST_STEPS // steps:,}"
    )


def check_memory(
  model: Model, flags: ModelConfig, config: TrainConfig, dataset: Dataset
) -> None:
  """Refuses a network that cannot fit into memory.

  What is counted is less than what training takes.

  Args:
    model: the network.
    flags: those that it was built from, for the message.
    config: how to train it.
    dataset: for its shapes.

  Raises:
    UsageError: with the network's size and the memory there is.
  """
  canvas, channels = dataset.train.images.shape[2:]
  parameters = sum(model.parameter_counts(canvas, channels).values())
  units = sum(map(cost.units, walk(model.specs, canvas, channels)))
  images = min(config.batch_size, _IMAGES)
  short = memory.shortage(_BYTES * (_COPIES * parameters + images * units))
  if short:
    raise UsageError(
      f"--width={flags.width} on --canvas={canvas}: a network of"
      f" {parameters:,} parameters and {units:,} activations an image {short}:"
      " give a smaller --width, --canvas or --batch_size"
    )
