"""The commands as functions: what they make of their flags, and print."""

import json

import pytest

from experiments import measuring, presets, studies, training
from experiments.config import DataConfig

TINY = (
  "--model=mlp",
  "--depth=1",
  "--width=8",
  "--train_examples=256",
  "--test_examples=96",
  "--epochs=2",
  "--batch_size=60",
  "--strategy=loop",
)


def test_a_run_is_trained_measured_and_neither_again(
  command, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  train = ["train", f"--workdir={workdir}", *TINY]
  measure = ["measure", f"--workdir={workdir}", "--transforms=rotation:15"]
  measure += ["--shift_map=", "--measure_examples=8"]

  code, stdout, _ = command(*train, "--seeds=2")
  *seeds, last = stdout.splitlines()
  assert code == 0
  assert last == str(workdir)
  assert [line.split(":")[0] for line in seeds] == ["seed 0", "seed 1"]
  metrics = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  accuracy = metrics[-1]["test_accuracy"]
  assert f"seed 1: test accuracy {accuracy:.4f}, loss" in seeds[1]

  code, stdout, _ = command(*measure)
  assert code == 0
  assert stdout.splitlines()[-1] == str(workdir / "measurements.parquet")
  assert "invariance_error" in stdout

  def forbidden(*args, **kwargs):
    raise AssertionError("this was done already")

  monkeypatch.setattr(training, "train", forbidden)
  monkeypatch.setattr(measuring, "measure_network", forbidden)
  assert command(*train, "--seed=1")[0] == 0
  assert command(*measure)[1] == stdout


def test_measuring_what_was_not_trained_is_an_error(command, tmp_path):
  code, stdout, stderr = command("measure", f"--workdir={tmp_path}")
  assert (code, stdout) == (1, "")
  assert "holds no config.json" in stderr
  assert not list(tmp_path.iterdir())


@pytest.fixture
def requested(monkeypatch):
  """The studies asked for, with their folders; none is run."""
  result = []
  monkeypatch.setattr(
    studies,
    "run_study",
    lambda study, dataset, workdir, launch: result.append((study, workdir)),
  )
  return result


def test_a_study_is_the_preset_with_the_flags_given(command, requested):
  code, stdout, _ = command("study", "--width=4", "--seed=3", "--order=3")
  assert (code, stdout) == (0, "results/quick\n")
  ((study, workdir),) = requested
  assert str(workdir) == "results/quick"
  assert study == presets.build(
    "quick", {"width": 4, "seeds": (3,), "order": 3}
  )


def test_a_flag_given_its_default_value_still_counts(command, requested):
  """The preset trains 12 epochs, the flag's default is 5."""
  assert command("study", "--epochs=5", "--workdir=elsewhere")[0] == 0
  ((study, workdir),) = requested
  assert study.train.epochs == 5
  assert str(workdir) == "elsewhere"
  assert study.seeds == (0, 1, 2, 3, 4)
  assert study.data == DataConfig()


def test_a_wrong_flag_of_a_study_is_code_2(command, requested):
  code, _, stderr = command("study", "--preset=slow")
  assert code == 2
  assert stderr.startswith("error: --preset=slow is unknown")
  assert not requested


def test_a_dry_run_prints_the_cells_and_runs_none(command, requested, tmp_path):
  workdir = tmp_path / "results"
  code, stdout, _ = command("study", "--dry_run", f"--workdir={workdir}")
  assert code == 0
  *cells, last = stdout.splitlines()
  names = ["shallow pooled", "shallow unpooled", "pooled", "unpooled"]
  assert [line[:20].strip() for line in cells] == names
  assert last.startswith("4 cells, seeds 0, 1, 2, 3, 4: about ")
  assert not requested
  assert not workdir.exists()
