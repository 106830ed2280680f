"""Studies by name: which networks, which data, how long, how measured.

quick
  Question: does the invariance of each layer differ with pooling and depth,
  before and after training? Two depths, with max pooling and without.
  Command: make study
  Time: 4 to 5 minutes on 2 cores with the digits, 6 with MNIST (the first
  10,000 training images, 3 epochs).
  Expected: claims without the networks they need are "not tested"; with the
  digits the logits' invariance error at 2 px is about 0.38 with pooling and
  0.49 without at depth 3.

mnist
  Question: what of the lecture's claims, and of the published ones beside
  them, holds on MNIST? All claims of `analysis.claims`.
  Command: python -m experiments.study --preset=mnist --data_dir=DIR
  Time: an hour on 2 cores (the first 10,000 training images, 4 epochs, 8
  seeds); it resumes where it stopped.
  Expected: see the README.

full
  Question: the same with all 60,000 training images, wider networks and 10
  seeds.
  Command: python -m experiments.study --preset=full --data_dir=DIR
  Time: an estimated hour on one data-centre GPU, where it has not been run;
  about a day on 2 cores, 21.5 hours by --dry_run, whose estimate was a fifth
  too low for the preset mnist.

fashion_mnist, kmnist
  Question: do the verdicts carry over to other images? As mnist; compare the
  two with python -m experiments.compare.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.config import (
  DataConfig,
  MeasureConfig,
  ModelConfig,
  TrainConfig,
)
from experiments.errors import UsageError

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
  """One network of a study, by what it differs in from the study's own.

  Attributes:
    name: what claims call it.
    model: architecture flags that differ; these win over the command line's.
    train: likewise for training.
    measure: likewise for measuring.
    match: name of a cell whose number of parameters this one gets, by its
      width.
  """

  name: str
  model: Changes = dataclasses.field(default_factory=dict)
  train: Changes = dataclasses.field(default_factory=dict)
  measure: Changes = dataclasses.field(default_factory=dict)
  match: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
  """A declarative list of cells and how each is trained and measured.

  Attributes:
    preset: the preset's name.
    data: the images.
    cells: one run each.
    model: the architecture, where a cell does not differ.
    train: how they are trained, likewise.
    measure: how they are measured, likewise.
    seeds: replicates of every run.
    overview: names of the cells that the figures over all layers show.
  """

  preset: str
  data: DataConfig
  cells: tuple[Cell, ...]
  model: ModelConfig
  train: TrainConfig
  measure: MeasureConfig
  seeds: tuple[int, ...]
  overview: tuple[str, ...]


_QUICK = Study(
  preset="quick",
  data=DataConfig(),
  cells=(
    Cell("shallow pooled", {"pooling": "max", "depth": 1}),
    Cell("shallow unpooled", {"pooling": "none", "depth": 1}),
    Cell("pooled", {"pooling": "max", "depth": 3}),
    Cell("unpooled", {"pooling": "none", "depth": 3}),
  ),
  model=ModelConfig(width=16),
  train=TrainConfig(epochs=12, batch_size=64),
  measure=MeasureConfig(measure_examples=128),
  seeds=tuple(range(5)),
  overview=("shallow pooled", "shallow unpooled", "pooled", "unpooled"),
)

_NO_MAP = {"shift_map": ""}

# Measures of spread and of firing, for the published disagreement.
_BOTH_FAMILIES = {
  "measures": MeasureConfig.measures
  + ",normalized_distance,goodfellow,anova,cosine,cka"
}

# Circular shifts leave everything on the canvas, and nothing enters.
_CIRCULAR = {
  "transforms": "translation:1/2/3/4/6/8",
  "border": "circular",
  **_NO_MAP,
}


def _deep(depth: int) -> dict[str, Any]:
  """Two poolings, half-way and at the end, and an average over positions.

  18 channels: depths 2 and 6 have a width that gives as many parameters as
  depth 4, to 2 %.
  """
  after = f"{depth // 2}/{depth}"
  return {"depth": depth, "width": 18, "pool_after": after, "head": "gap"}


def _downsampled(kind: str) -> dict[str, Any]:
  return {"pooling": kind, "padding": "circular", "head": "gap"}


def _bordered(padding: str) -> dict[str, Any]:
  return {
    "pooling": "none",
    "depth": 2,
    "kernel_size": 5,
    "padding": padding,
    "head": "gap",
  }


_MNIST = Study(
  preset="mnist",
  data=DataConfig(dataset="mnist", train_examples=10_000),
  cells=(
    Cell("pooled", {"pooling": "max"}, measure=_BOTH_FAMILIES),
    Cell("unpooled", {"pooling": "none"}, measure=_BOTH_FAMILIES),
    Cell("averaged", {"pooling": "avg"}),
    Cell("strided", {"pooling": "stride"}),
    Cell(
      "augmented",
      {"pooling": "max"},
      train={"augment": "translation:4,rotation:15,scaling:0.263"},
      measure=_NO_MAP,
    ),
    *(Cell(f"depth {d}", _deep(d), measure=_NO_MAP) for d in (2, 4, 6)),
    *(
      Cell(f"depth {d}, matched", _deep(d), measure=_NO_MAP, match="depth 4")
      for d in (2, 6)
    ),
    Cell("shared", {"depth": 2, "width": 8}, measure=_NO_MAP),
    Cell("untied", {"model": "local", "depth": 2, "width": 8}, measure=_NO_MAP),
    Cell("circular strided", _downsampled("stride"), measure=_CIRCULAR),
    Cell("circular blurred", _downsampled("blur"), measure=_CIRCULAR),
    Cell("circular polyphase", _downsampled("aps"), measure=_CIRCULAR),
    Cell("zero padded", _bordered("same"), measure=_CIRCULAR),
    Cell("wrapped", _bordered("circular"), measure=_CIRCULAR),
    Cell(
      "field pooled",
      {"pooling": "max:3/2", "depth": 2, "width": 19, "head": "gap"},
      measure=_NO_MAP,
    ),
    Cell(
      "wide kernels",
      {"pooling": "none", "depth": 2, "kernel_size": 7, "head": "gap"},
      measure=_NO_MAP,
      match="field pooled",
    ),
  ),
  model=ModelConfig(width=16),
  train=TrainConfig(epochs=4, batch_size=64),
  measure=MeasureConfig(measure_examples=200),
  seeds=tuple(range(8)),
  overview=("pooled", "unpooled", "averaged", "strided"),
)

_FULL = dataclasses.replace(
  _MNIST,
  preset="full",
  data=DataConfig(dataset="mnist"),
  model=ModelConfig(width=32),
  train=TrainConfig(epochs=10),
  measure=MeasureConfig(measure_examples=1000),
  seeds=tuple(range(10)),
)


def _on(dataset: str) -> Study:
  data = dataclasses.replace(_MNIST.data, dataset=dataset)
  return dataclasses.replace(_MNIST, preset=dataset, data=data)


PRESETS = {
  study.preset: study
  for study in (_QUICK, _MNIST, _FULL, _on("fashion_mnist"), _on("kmnist"))
}

# What a preset changes for another data set than its own: the digits are few,
# and quick is for few.
_OTHER_DATA: dict[str, dict[str, Any]] = {
  "quick": {"train_examples": 10_000, "epochs": 3, "batch_size": 64},
  "digits": {"train_examples": 0, "epochs": 12},
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
  dataset = changes.get("dataset", study.data.dataset)
  if dataset != study.data.dataset:
    changes = (
      _OTHER_DATA.get("digits" if dataset == "digits" else preset, {}) | changes
    )

  return dataclasses.replace(
    study,
    data=changed(study.data, changes),
    model=changed(study.model, changes),
    train=changed(study.train, changes),
    measure=changed(study.measure, changes),
    seeds=changes.get("seeds", study.seeds),
  )


def changed(section: Any, changes: Changes) -> Any:
  """A dataclass with those of the changes that are fields of it."""
  names = {field.name for field in dataclasses.fields(section)}
  return dataclasses.replace(
    section, **{k: v for k, v in changes.items() if k in names}
  )


def default_workdir(study: Study) -> str:
  """results/<preset>, and -<data set> for another than the preset's own."""
  own = PRESETS[study.preset].data.dataset
  name = study.preset
  if study.data.dataset != own:
    name += "-" + study.data.dataset.replace(":", "-").replace("/", "-")
  return f"results/{name}"
