"""Studies by name: which networks, which data, how long, how measured.

quick
  Question: does the invariance of each layer differ with pooling and depth,
  before and after training? Two depths, with max pooling and without.
  Command: make study
  Time: 3 to 4 minutes on 2 cores with the digits, 5 with MNIST (the first
  10,000 training images, 3 epochs).
  Expected: see the README for MNIST; with the digits the logits' invariance
  error at 2 px is about 0.38 with pooling and 0.49 without at depth 3.
"""

import dataclasses
from typing import Any

from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Study:
  """A declarative list of cells and how each is trained and measured.

  Attributes:
    preset: the preset's name.
    data: the images.
    models: one run each.
    train: how they are trained.
    measure: how they are measured.
    seeds: replicates of every run.
  """

  preset: str
  data: DataConfig
  models: tuple[ModelConfig, ...]
  train: TrainConfig
  measure: MeasureConfig
  seeds: tuple[int, ...]


_QUICK = Study(
  preset="quick",
  data=DataConfig(),
  models=tuple(
    ModelConfig(pooling=pooling, depth=depth, width=16)
    for depth in (1, 3)
    for pooling in ("max", "none")
  ),
  train=TrainConfig(epochs=12, batch_size=64),
  measure=MeasureConfig(measure_examples=128),
  seeds=tuple(range(5)),
)

PRESETS = {"quick": _QUICK}

# What a preset changes for a data set larger than its default one.
_LARGE: dict[str, dict[str, Any]] = {
  "quick": {"train_examples": 10_000, "epochs": 3, "batch_size": 64},
}


def build(preset: str, changes: dict[str, Any]) -> Study:
  """A preset with some fields changed.

  Args:
    preset: its name.
    changes: values by field name; each goes to the section that has the field.

  Returns:
    The study.

  Raises:
    UsageError: an unknown preset.
  """
  if preset not in PRESETS:
    raise UsageError(
      f"--preset={preset} is unknown; known are {', '.join(PRESETS)}"
    )
  study = PRESETS[preset]
  if changes.get("dataset", study.data.dataset) != study.data.dataset:
    changes = _LARGE[preset] | changes

  def changed(section: Any) -> Any:
    names = {field.name for field in dataclasses.fields(section)}
    return dataclasses.replace(
      section, **{k: v for k, v in changes.items() if k in names}
    )

  return dataclasses.replace(
    study,
    data=changed(study.data),
    train=changed(study.train),
    measure=changed(study.measure),
    models=tuple(changed(model) for model in study.models),
    seeds=changes.get("seeds", study.seeds),
  )


def default_workdir(study: Study) -> str:
  """results/<preset>, and -<data set> for another than the preset's own."""
  own = PRESETS[study.preset].data.dataset
  name = study.preset
  if study.data.dataset != own:
    name += "-" + study.data.dataset.replace(":", "-").replace("/", "-")
  return f"results/{name}"
