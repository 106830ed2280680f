"""Every flag, as frozen dataclasses that a notebook can build too.

The dataclasses are the definition: their defaults are the flags' defaults and
their docstrings the flags' help. Nothing here imports jax.
"""

import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, TypeVar

from absl import flags

from experiments.errors import UsageError

T = TypeVar("T")

# More than anybody can train; the list of them has to fit into memory.
_MOST_SEEDS = 100_000

# Flags defined here belong to the command that asks for them, so that its
# --help lists them.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Images.

  Attributes:
    dataset: digits, mnist, fashion_mnist, kmnist or tfds:NAME.
    data_dir: folder with the IDX .gz files or TFDS's data; TFDS's default if
      empty.
    canvas: width and height that images are padded to, in pixels.
    train_examples: use the first so many training images; 0 for all.
    test_examples: use the first so many test images; 0 for all.
  """

  dataset: str = "digits"
  data_dir: str = ""
  canvas: int = 32
  train_examples: int = 0
  test_examples: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Architecture.

  Attributes:
    model: an entry of models.zoo.MODELS: cnn, local (weights not shared), p4cnn
      or p4mcnn (quarter turns, mirrors), pyramid (scales), mlp or lecture.
    pooling: what downsamples after each activation: none, max, avg, lp, mixed
      (windows as in max:3/2), stride, dilate, blur (as in blur:5), aps, lps
      (max_ or avg_ before these three), spectral.
    depth: number of convolutions, 1 to 8, or hidden layers (mlp), 1 to 6.
    width: channels of each convolution (an orientation, for p4cnn and p4mcnn),
      or units of each hidden layer.
    kernel_size: width of each kernel.
    padding: same (zeros; zero is the same), circular, reflect, valid or full.
    head: dense, gap or gmp (average or maximum over positions); p4cnn and
      p4mcnn take gap for dense.
    pool_after: blocks followed by pooling, as in 2/4, or all.
    width_schedule: constant, double (at each block) or widths as in 32/32/64.
    activation: relu, leaky_relu, elu, gelu, softplus, tanh or identity.
    norm: batch or group normalisation, or none.
    residual: add each block's input to its output.
    bias: give convolutions a bias.
  """

  model: str = "cnn"
  pooling: str = "max"
  depth: int = 3
  width: int = 32
  kernel_size: int = 3
  padding: str = "same"
  head: str = "dense"
  pool_after: str = "all"
  width_schedule: str = "constant"
  activation: str = "relu"
  norm: str = "none"
  residual: bool = False
  bias: bool = True

  def __post_init__(self) -> None:
    if self.padding == "zero":
      object.__setattr__(self, "padding", "same")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Training.

  Attributes:
    epochs: passes over the training set.
    batch_size: images a step; an incomplete last batch is left out.
    optimizer: adamw or sgd (momentum 0.9).
    learning_rate: peak learning rate; 0 for the optimizer's default.
    schedule: cosine (a tenth of warm-up, then to zero) or constant.
    weight_decay: decoupled weight decay (adamw) or L2 (sgd).
    augment: random transformations, as in translation:4,rotation:15: each
      parameter uniform within plus or minus the number; empty for none.
    dtype: float32 or bfloat16, of the computation; parameters are float32.
    strategy: loop (a step at a time, seeds in turn), scan (an epoch at a time,
      seeds side by side), or auto: loop on a CPU, scan elsewhere.
  """

  epochs: int = 5
  batch_size: int = 128
  optimizer: str = "adamw"
  learning_rate: float = 0.0
  schedule: str = "cosine"
  weight_decay: float = 1e-4
  augment: str = ""
  dtype: str = "float32"
  strategy: str = "auto"


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
  """Measuring.

  Attributes:
    measures: comma-separated names of docs/measures.md, or all.
    transforms: the orbits, as in translation:1/2/4,rotation:15/30: the
      identity and plus and minus each number (for translation and shear, in
      the four directions); scaling takes log2 factors, or factors as x1.2. Also
      shear:0.1, reflection, quarter_turn, matrix:FILE.csv (a 2x3 matrix
      a,b,c,d,e,f a line) and compositions as scaling:x1.2+rotation:15.
    shift_map: grid of translations for the sensitivity map, as in 6:2: from -6
      to 6 px in steps of 2, both ways; empty for none.
    diagonal: length in pixels, either way, of the diagonal path on which
      jaggedness is measured; 0 for none.
    measure_examples: so many test images, evenly spread; 0 for all.
    measure_batch_size: images a step; 0 to choose by memory.
    memory_limit: most memory that measuring may take, as in 2GiB, of the
      process on a CPU and of each device elsewhere; if empty, three quarters of
      what there is. No value depends on it beyond rounding.
    order: interpolation, 1 (bilinear) or 3 (cubic).
    border: what lies outside an image, zero, circular or reflect (mirrored).
  """

  measures: str = (
    "invariance_error,equivariance_error,normalized_variance,accuracy,"
    "consistency"
  )
  transforms: str = (
    "translation:1/2/4/6,rotation:5/10/15/20/30/45/60/90,"
    "scaling:x1.05/x1.1/x1.2/x1.3/x1.4/x1.5/x1.7/x2"
  )
  shift_map: str = "6:2"
  diagonal: int = 4
  measure_examples: int = 256
  measure_batch_size: int = 0
  memory_limit: str = ""
  order: int = 1
  border: str = "zero"


@dataclasses.dataclass(frozen=True)
class HostConfig:
  """Several processes as one run.

  Attributes:
    coordinator: HOST:PORT, a free port of process 0's host, where the processes
      of a run meet; none for this process alone; auto to ask the scheduler
      (SLURM, TPU pods, Open MPI), which is also done if this is empty and srun
      has started several tasks or this is a host of a TPU pod.
    num_processes: how many processes were started, with the same flags.
    process_id: which of them this is, from 0; process 0 alone writes.
    coordinator_timeout: seconds to wait for the others to start.
  """

  coordinator: str = ""
  num_processes: int = 0
  process_id: int = -1
  coordinator_timeout: int = 300


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
  """Where a study's cells are done.

  Attributes:
    launcher: local (in this process) or ray (by the workers of a Ray cluster,
      or by several processes of this machine).
    ray_address: HOST:PORT of a running Ray cluster, or auto for the one on this
      machine; if empty, Ray is started on this machine alone and ended with the
      study.
    cell_cpus: CPU cores and threads of each cell under Ray; 0 for NPROC, or 2
      if that is not set, but no more than the largest node has.
    max_retries: how often a cell is begun again under Ray when its worker or
      node was lost; errors of the cell itself are never retried.
    task_index: do only this task's share of the cells, 0 to task_count - 1,
      and write no tables; -1 to do all. See docs/scaling.md.
    task_count: number of tasks that share the cells; 0 for one process.
  """

  launcher: str = "local"
  ray_address: str = ""
  cell_cpus: int = 0
  max_retries: int = 3
  task_index: int = -1
  task_count: int = 0


def attribute_help(cls: type) -> dict[str, str]:
  """The `Attributes:` section of a dataclass's docstring, by field."""
  # Since Python 3.13 the compiler takes the indentation away itself.
  doc = inspect.cleandoc(cls.__doc__ or "")
  section = doc.split("Attributes:\n", 1)[1]
  entries = re.findall(r"^ {2}(\w+): ((?:.|\n {4})*)", section, re.M)
  return {name: " ".join(text.split()) for name, text in entries}


def define_flags(*classes: type, skip: Collection[str] = ()) -> None:
  """Defines one flag a field.

  Args:
    *classes: the dataclasses.
    skip: fields that get no flag.
  """
  for cls in classes:
    text = attribute_help(cls)
    for name, default in field_defaults(cls).items():
      if name in skip:
        continue
      if isinstance(default, bool):
        flags.DEFINE_bool(name, default, text[name])
      elif isinstance(default, int):
        flags.DEFINE_integer(name, default, text[name])
      elif isinstance(default, float):
        flags.DEFINE_float(name, default, text[name])
      else:
        flags.DEFINE_string(name, default, text[name])


def field_defaults(cls: Any) -> dict[str, Any]:
  """Default value of each field of a dataclass, by name."""
  return {field.name: field.default for field in dataclasses.fields(cls)}


def from_flags(cls: type[T]) -> T:
  """A dataclass from the parsed flags."""
  return cls(**{name: flags.FLAGS[name].value for name in field_defaults(cls)})


def define_seed_flags(seeds: int | None) -> None:
  """Defines --seeds and --seed; None leaves their number to the preset."""
  text = "use seeds 0 to N - 1"
  if seeds is None:
    text += "; the preset's number if not given"
  flags.DEFINE_integer(
    "seeds", seeds, text, lower_bound=1, upper_bound=_MOST_SEEDS
  )
  flags.DEFINE_integer(
    "seed", None, "use this one seed", lower_bound=0, upper_bound=2**32 - 1
  )


def seeds_from_flags() -> tuple[int, ...]:
  """The seeds that the flags ask for.

  Raises:
    UsageError: both flags given.
  """
  if flags.FLAGS.seed is None:
    return tuple(range(flags.FLAGS.seeds))
  if flags.FLAGS["seeds"].present:
    raise UsageError("--seeds and --seed exclude each other; give one")
  return (flags.FLAGS.seed,)
