"""What a user can get wrong: one line that says what and how to mend it.

Each case is a command in a folder with a few files. It must end with exit code
2 (the command line is wrong) or 1 (something failed), say one line that holds
the words given, and leave the folder as it was.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments import datasets, memory, runs, training
from experiments.config import DataConfig, ModelConfig, TrainConfig
from experiments.progress import Progress
from tests.experiments.bad_data import FILES
from tests.experiments.bad_flags import FLAGS, OTHERS

ROOT = Path(experiments.__file__).parents[1]

CASES = [*FLAGS, *OTHERS, *FILES]


def arguments(case):
  """The usual arguments without those that are given otherwise."""
  changes = case.changes.split() if case.changes.strip() else []
  if case.changes.endswith("=  "):
    changes = [case.changes]
  names = {change.partition("=")[0] for change in changes}
  usual = [a for a in case.usual if a.partition("=")[0] not in names]
  return [*usual, *changes]


def tree():
  """Every file and folder here with its content."""
  return {
    str(path): path.read_bytes() if path.is_file() else path.is_dir()
    for path in Path().rglob("*")
  }


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, lenient_optax):
  """Where a run of the tiniest network is, which is trained when needed."""
  del lenient_optax
  path = tmp_path_factory.mktemp("trained") / "run"
  return functools.cache(lambda: train_run(path))


def train_run(path):
  data = DataConfig(train_examples=64, test_examples=32)
  train = TrainConfig(epochs=1, batch_size=32, strategy="loop")
  dataset = datasets.load(data)
  model = ModelConfig(model="mlp", depth=1, width=4)
  run = runs.make_run(path, data, model, train, dataset)
  with Progress(1, 1) as bar:
    runs.train(run, dataset, [0], bar)
  return path


# Reading the digits takes most of the time.
load = functools.cache(datasets.load)


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(datasets, "load", load)
  # Whatever machine the tests are on.
  monkeypatch.setattr(memory, "available", lambda: 4 * 2**30)
  return tmp_path


def identity(case):
  return f"{case.command}: {case.what}"


@pytest.mark.parametrize("case", CASES, ids=map(identity, CASES))
def test_bad_input_is_one_line_and_writes_nothing(
  case, command, here, a_run, monkeypatch, capsys
):
  for write in case.files:
    write(a_run)
  capsys.readouterr()
  before = tree()
  monkeypatch.setattr(training, "train", None)  # nothing gets that far
  code, stdout, stderr = command(case.command, *arguments(case))
  assert (code, stdout) == (case.code, ""), stderr
  assert re.fullmatch(r"error: [^\n]+\n", stderr), stderr
  for word in case.words:
    assert word.strip() in stderr
  assert tree() == before


def test_there_are_many_cases_and_each_is_named_once():
  names = [identity(case) + case.changes for case in CASES]
  assert len(names) == len(set(names)) >= 60


@pytest.mark.parametrize("case", CASES[::40], ids=map(identity, CASES[::40]))
def test_debug_shows_where_it_was_raised(case, command, here, a_run):
  for write in case.files:
    write(a_run)
  code, _, stderr = command(case.command, *arguments(case), "--debug")
  assert code == case.code
  assert "Traceback (most recent call last)" in stderr
  assert re.search(r"\nerror: [^\n]+\n$", stderr)


@pytest.mark.parametrize(
  ("arguments", "code", "words"),
  [
    (["train", "--workdir=out", "--epochs=0"], 2, "--epochs=0 is not positive"),
    (["measure", "--workdir=out"], 1, "out holds no config.json"),
    (["train", "--workdir=\udcff\u00e9 x", "--width=0"], 2, "--width=0 is not"),
    (["report", "--workdir=caf\u00e9 \udcff"], 1, "holds no measurements"),
  ],
)
def test_a_real_process_says_the_same(tmp_path, arguments, code, words):
  """Also of names that are no text, on a terminal that knows no accents."""
  name, *rest = arguments
  result = subprocess.run(
    [sys.executable, "-m", f"experiments.{name}", *rest],
    cwd=tmp_path,
    env=os.environ
    | {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert result.returncode == code, result.stderr
  assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
  assert words in result.stderr
  assert not list(tmp_path.iterdir())
