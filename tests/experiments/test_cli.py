import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging

import experiments
from experiments import cli, config
from experiments.errors import ExperimentError, UsageError

ROOT = Path(experiments.__file__).parents[1]


def command(*arguments, options=()):
  """Runs a command of the package as a user does."""
  return subprocess.run(
    [sys.executable, *options, "-m", *arguments],
    cwd=ROOT,
    env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )


def assert_one_line(stderr, message):
  assert re.fullmatch(r"error: [^\n]+\n", stderr), stderr
  assert re.search(message, stderr), stderr


@pytest.mark.parametrize(
  ("arguments", "code", "message"),
  [
    (["study", "--deepth=3"], 2, "deepth"),
    (["train", "--workdir=x", "--epochs=many"], 2, "epochs=many"),
    (["train"], 2, "--workdir is required"),
    (["study", "quick"], 2, "unexpected argument 'quick'; flags start with"),
  ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(arguments, code, message):
  name, *rest = arguments
  result = command(f"experiments.{name}", *rest)
  assert result.returncode == code
  assert_one_line(result.stderr, message)
  assert not result.stdout


def test_a_failure_is_one_line_and_code_1(tmp_path):
  missing = tmp_path / "missing"
  result = command("experiments.report", f"--workdir={missing}")
  assert result.returncode == 1
  assert_one_line(
    result.stderr, f"^error: {missing} holds no measurements.parquet: "
  )
  assert not missing.exists()


def test_help_lists_every_flag_without_importing_jax():
  result = command("experiments.study", "--help", options=["-X", "importtime"])
  assert result.returncode == 0
  imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.M))
  assert "absl.app" in imported  # or the next lines say nothing
  assert not {"jax", "flax", "numpy", "pandas", "matplotlib"} & imported
  help_text = " ".join(result.stdout.split())
  assert "Question:" in help_text
  for cls in (
    config.DataConfig,
    config.ModelConfig,
    config.TrainConfig,
    config.MeasureConfig,
  ):
    for name in config.attribute_help(cls):
      fixed = name in ("model", "pooling", "depth")  # by the preset
      listed = re.search(rf"--(\[no\])?{name}:", help_text) is not None
      assert listed != fixed, name
  for name in ("preset", "workdir", "seeds", "seed"):
    assert f"--{name}:" in help_text


# --- in this process ---------------------------------------------------------


def raising(error):
  def main():
    raise error

  return main


def test_success_is_code_0_and_silent(run):
  done = []
  assert run(lambda: done.append("ran")) == (0, "", "")
  assert done == ["ran"]


@pytest.mark.parametrize(
  ("error", "code", "message"),
  [
    (UsageError("--flag=1 is wrong"), 2, "--flag=1 is wrong"),
    (ExperimentError("it failed"), 1, "it failed"),
    (ExperimentError("over\nseveral\n  lines"), 1, "over several lines"),
    (PermissionError(13, "Permission denied", "results"), 1, "'results'"),
    (KeyboardInterrupt(), 130, "the same command continues where it stopped"),
  ],
)
def test_errors_are_one_line_with_their_code(run, error, code, message):
  exit_code, stdout, stderr = run(raising(error))
  assert not stdout
  assert exit_code == code
  assert_one_line(stderr, message)


def test_debug_adds_the_traceback(run):
  error = ExperimentError("it failed")
  exit_code, _, stderr = run(raising(error), "--debug")
  assert exit_code == 1
  assert "Traceback (most recent call last)" in stderr
  assert stderr.endswith("\nerror: it failed\n")


def test_a_bug_is_not_made_to_look_like_a_users_error(fresh_flags, monkeypatch):
  monkeypatch.setattr("models.platform.keep_freed_memory", lambda: None)
  fresh_flags(["command"])
  verbosity = logging.get_verbosity()
  with pytest.raises(ZeroDivisionError):
    cli._guarded(raising(ZeroDivisionError()))
  logging.set_verbosity(verbosity)


def test_flags_reach_main(run):
  config.define_flags(config.TrainConfig)
  seen = []

  def main():
    seen.append(config.from_flags(config.TrainConfig))

  assert run(main, "--epochs=9")[0] == 0
  assert seen == [config.TrainConfig(epochs=9)]
