"""The accelerator suite, on the CPU: its arithmetic, and that it runs."""

import json

import numpy as np
import optax
import pytest

from experiments import accelerator, pairing
from experiments import workloads_accelerator as workloads
from experiments.errors import ExperimentError, UsageError

DEVICE = accelerator.Device("gpu", "Fast Thing")


def _answer(training, seeds=1, target=None, value=0.99):
  return {
    "items": 1000 * seeds,
    "training_s": training,
    "total_s": training + 0.5,
    "target_s": target,
    "value": value,
  }


@pytest.fixture
def answers():
  """One seed in 1 s, 8 in 2 s, 32 in 3 s, PyTorch in 4 s; five rounds."""
  later = [
    {
      1: _answer(1.0, target=0.6),
      8: _answer(2.0, 8),
      32: _answer(3.0, 32),
      "torch": _answer(4.0, target=2.4 if i else None),
    }
    for i in range(5)
  ]
  first = {side: {**a, "total_s": 30.0} for side, a in later[0].items()}
  return [first, *later]


def _rows(answers, missing="", monkeypatch=None):
  rows = list(accelerator.rows(answers, DEVICE, missing))
  json.dumps(rows, allow_nan=False)
  return {(row["name"], row["peer_name"].split()[0]): row for row in rows}


def test_rates_times_and_the_cost_of_more_seeds(answers, monkeypatch):
  monkeypatch.setattr(accelerator, "_version", lambda: "9.9")
  rows = _rows(answers)
  by_seeds = [
    rows[f"train, {words}", "PyTorch"]
    for words in ("1 seed", "8 seeds side by side", "32 seeds side by side")
  ]
  assert [row["ours"] for row in by_seeds] == [1000, 4000, 10670]
  assert [row["peer"] for row in by_seeds] == [250] * 3
  assert [row["ratio"] for row in by_seeds] == [4, 16, 42.67]
  assert by_seeds[0]["peer_name"] == "PyTorch 9.9, torch.compile"
  assert by_seeds[0]["hardware"].startswith("Fast Thing, jax ")
  whole = rows["whole run, 1 seed", "PyTorch"]
  assert (whole["ours"], whole["peer"], whole["ratio"]) == (1.5, 4.5, 3)
  assert rows["whole run, 1 seed", "limit"]["ratio"] == 2  # of 3 s
  assert rows["whole run, 1 seed, with compilation", "PyTorch"]["ours"] == 30
  cost = rows["cost of 32 seeds side by side over that of 1", "limit"]
  assert (cost["ours"], cost["peer"], cost["ratio"]) == (3, 4, 1.333)
  extra = rows["an extra seed beside 31", "by"]
  assert extra["ours"] == float(f"{2 / 31:.4g}")
  assert extra["ratio"] == 15.5


def test_the_time_to_the_target_is_of_runs_that_reach_it(answers, monkeypatch):
  monkeypatch.setattr(accelerator, "_version", lambda: "9.9")
  name = "to the target accuracy, reached in 5 and 4 of 5 runs"
  row = _rows(answers)[name, "PyTorch"]
  assert (row["ours"], row["peer"], row["rounds"]) == (0.6, 2.4, 4)
  for a in answers:
    a[1]["target_s"] = None
  name = "to the target accuracy, reached in 0 and 4 of 5 runs"
  row = _rows(answers)[name, "not"]
  assert (row["ours"], row["rounds"]) == (None, 0)
  assert pairing.cells(row)[1:3] == ["", "not reached"]


def test_without_pytorch_ours_is_there_alone(answers):
  for a in answers:
    del a["torch"]
  rows = _rows(answers, "PyTorch: not installed")
  row = rows["train, 8 seeds side by side", "PyTorch:"]
  assert (row["ours"], row["peer"], row["ratio"]) == (4000, None, None)
  assert rows["whole run, 1 seed", "limit"]["ratio"] == 2


def test_sides_that_do_not_learn_alike_are_not_compared(answers):
  accelerator._check_alike(answers)
  for a in answers:
    a["torch"]["value"] = 0.96
  with pytest.raises(ExperimentError, match=r"0\.9900, PyTorch 0\.9600: not"):
    accelerator._check_alike(answers)


def test_a_cpu_is_no_accelerator(monkeypatch, tmp_path):
  cpu = accelerator.Device("cpu", "cpu")
  monkeypatch.setattr(accelerator, "find_device", lambda: cpu)
  with pytest.raises(UsageError, match="finds no accelerator here"):
    list(accelerator.run(5, str(tmp_path)))
  with pytest.raises(UsageError, match="--rounds=3 is too few"):
    list(accelerator.run(3, str(tmp_path)))


def test_a_run_notes_when_the_target_was_first_reached(monkeypatch, small):
  clock = iter(np.arange(0.0, 100.0))
  monkeypatch.setattr(workloads.time, "perf_counter", lambda: next(clock))
  chosen = workloads.Recipe(small, 3, 1, 0.1, 0.9)
  accuracies = iter([0.5, 0.95, 0.8])
  found = workloads.timed_run(chosen, lambda epoch: None, accuracies.__next__)
  assert found == {
    "value": 0.8,
    "training_s": 3,  # a second an epoch, as the clock ticks
    "total_s": 8,
    "target_s": 5,
  }


@pytest.mark.parametrize("steps", [7, 40])
def test_the_peer_has_our_schedule(steps):
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, 0.3, max(steps // 10, 1), steps
  )
  ours = [np.asarray(schedule(i)) for i in range(steps)]
  np.testing.assert_allclose(
    list(workloads.cosine(0.3, steps)), ours, atol=1e-7
  )


def test_the_smoke_mode_runs_on_the_cpu(command, tmp_path):
  """Real processes: a seed, two side by side, and PyTorch where it is."""
  path = tmp_path / "accelerator.json"
  code, stdout, stderr = command(
    "benchmark",
    "--suite=accelerator",
    "--smoke",
    "--rounds=1",
    f"--output={path}",
  )
  assert code == 0, stderr
  rows = json.loads(path.read_text())
  assert rows[0]["name"] == "train, 1 seed"
  assert rows[0]["ours"] > 0
  assert rows[0]["hardware"].startswith("cpu, jax ")
  assert "cost of 2 seeds side by side over that of 1" in stdout
