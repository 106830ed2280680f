"""What several test files share: fake IDX files and tiny networks."""

import gzip
import hashlib
import runpy
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from absl import flags, logging

from experiments import (
  building,
  cli,
  datasets,
  idx,
  studies,
  training,
)
from experiments.config import DataConfig, ModelConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.idx import IdxFiles
from experiments.presets import Study
from experiments.reproductions import NAMES
from models.zoo import Model
from tests.experiments import tiny

# What the commands that take more than flags take.
POSITIONAL = {
  "compare": (cli.Positional("A"), cli.Positional("B")),
  "reproduce": (cli.Positional("NAME", NAMES),),
  "verify": (cli.Positional("RUN"),),
}

TRAIN, TEST = 12, 8  # images of a fake set


class FakeSet(NamedTuple):
  """Four IDX files in a folder, what they hold, and their registration."""

  folder: Path
  arrays: dict[tuple[str, str], np.ndarray]
  files: IdxFiles


@pytest.fixture(scope="session", autouse=True)
def lenient_optax() -> Iterator[None]:
  """Lets optax mix types, as its adamw does; our own code stays strict."""
  make_optimizer = building.make_optimizer

  def lenient(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    optimizer = make_optimizer(config, steps)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
      with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)

  with pytest.MonkeyPatch.context() as patch:
    for module in (building, training):
      patch.setattr(module, "make_optimizer", lenient)
    yield


def idx_bytes(array: np.ndarray) -> bytes:
  header = struct.pack(f">{array.ndim + 1}i", 0x0800 + array.ndim, *array.shape)
  return gzip.compress(header + array.tobytes(), mtime=0)


def write_set(folder: Path, seed: int) -> FakeSet:
  rng = np.random.default_rng(seed)
  arrays = {}
  for split, count in (("train", TRAIN), ("test", TEST)):
    arrays[split, "images"] = rng.integers(
      0, 256, (count, 28, 28), dtype=np.uint8
    )
    arrays[split, "labels"] = rng.integers(0, 10, count, dtype=np.uint8)
  content = {idx.FILES[key]: idx_bytes(array) for key, array in arrays.items()}
  folder.mkdir(parents=True, exist_ok=True)
  for name, data in content.items():
    (folder / name).write_bytes(data)
  return FakeSet(folder, arrays, register(content, f"http://fake/{seed}/"))


def register(content: dict[str, bytes], url: str) -> IdxFiles:
  return IdxFiles(
    url,
    {n: hashlib.sha256(data).hexdigest() for n, data in content.items()},
    {n: len(data) for n, data in content.items()},
  )


@pytest.fixture
def fake_mnist(tmp_path, monkeypatch) -> FakeSet:
  """A small set that passes for MNIST, and another for Fashion-MNIST."""
  result = write_set(tmp_path / "idx", seed=0)
  other = write_set(tmp_path / "fashion", seed=1)
  monkeypatch.setitem(idx.FAMILY, "mnist", result.files)
  monkeypatch.setitem(idx.FAMILY, "fashion_mnist", other.files)
  return result


@pytest.fixture
def fresh_flags() -> Iterator[flags.FlagValues]:
  """absl's flags are one per process: what a test defines goes again."""
  before = set(flags.FLAGS)
  yield flags.FLAGS
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)
  flags.FLAGS.unparse_flags()


@pytest.fixture
def run(
  fresh_flags: flags.FlagValues,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., tuple[int, str, str]]]:
  """Runs a command's `main` with arguments: exit code, stdout and stderr."""
  del fresh_flags
  # What would change this process for the tests after this one.
  monkeypatch.setattr(logging, "use_absl_handler", lambda: None)
  monkeypatch.setattr("faulthandler.enable", lambda: None)
  monkeypatch.setattr("models.platform.keep_freed_memory", lambda: None)
  verbosity = logging.get_verbosity()

  def call(
    main: Callable[..., None],
    *arguments: str,
    positional: Sequence[cli.Positional] = (),
  ) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as caught:
      cli.run(main, *([positional] if positional else []))
    code = caught.value.code or 0
    assert isinstance(code, int)
    output = capsys.readouterr()
    return code, output.out, output.err

  yield call
  logging.set_verbosity(verbosity)


@pytest.fixture
def command(
  run: Callable[..., tuple[int, str, str]], fresh_flags: flags.FlagValues
) -> Callable[..., tuple[int, str, str]]:
  """Runs a command by name; two that share a flag can run in turn."""
  before = set(fresh_flags)

  def call(name: str, *arguments: str) -> tuple[int, str, str]:
    for flag in set(fresh_flags) - before:
      delattr(fresh_flags, flag)
    main = runpy.run_module(f"experiments.{name}")["main"]
    return run(main, *arguments, positional=POSITIONAL.get(name, ()))

  return call


@pytest.fixture(scope="session")
def small() -> Dataset:
  """256 training and 96 test digits."""
  return datasets.load(DataConfig(train_examples=256, test_examples=96))


@pytest.fixture(scope="session")
def mlp() -> Model:
  """The network that compiles fastest."""
  config = ModelConfig(model="mlp", depth=1, width=8)
  return building.build_model(config, num_classes=10, canvas=32)


class RunStudy(NamedTuple):
  """A study, its images and the folder that it was run in."""

  study: Study
  dataset: Dataset
  workdir: Path


@pytest.fixture(scope="session")
def finished(
  tmp_path_factory: pytest.TempPathFactory, lenient_optax: None
) -> RunStudy:
  """The quick preset, tiny: 200 images, one epoch, two seeds, run once.

  Tests that change the folder copy it.
  """
  del lenient_optax
  study = tiny.study()
  dataset = datasets.load(study.data)
  workdir = tmp_path_factory.mktemp("study") / "results"
  studies.run_study(study, dataset, workdir)
  return RunStudy(study, dataset, workdir)


@pytest.fixture
def copied(finished: RunStudy, tmp_path: Path) -> RunStudy:
  """A copy of the finished study, to change."""
  workdir = tmp_path / "results"
  shutil.copytree(finished.workdir, workdir)
  return finished._replace(workdir=workdir)
