"""Cells shared out among array tasks, and the flags that say who does what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cells, launchers, locks, presets, store, studies
from experiments.cells import Task
from experiments.config import LaunchConfig
from experiments.errors import ExperimentError, UsageError
from tests import flags

ROOT = Path(__file__).parents[2]

# Written of a study, and free of times.
TABLES = (
  *("measurements.parquet", "networks.csv", "exact.csv", "claims.csv"),
  *("effects.csv", "effect_values.csv", "controls.csv", "summary.csv"),
)


def start(workdir, *arguments, **environment):
  """The tiny study as a process of its own, on one device.

  A command divides its batches among all devices, which rounds differently from
  what the fixture's call trains on one.
  """
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "tests.experiments.tiny",
      f"--workdir={workdir}",
      *arguments,
    ],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": flags.on_one_device()} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def assert_equal_tables(found, expected):
  for name in TABLES:
    assert (found / name).read_bytes() == (expected / name).read_bytes(), name
  # Its other columns are times.
  curves, others = (
    store.read_table(f / "training.csv").drop(columns="images_per_second")
    for f in (found, expected)
  )
  assert curves.equals(others)


@pytest.fixture(scope="module")
def costs(small, tmp_path_factory):
  """The 19 cells of the preset mnist, with digits, and what each costs."""
  study = presets.build("mnist", {"dataset": "digits", "measure_examples": 16})
  planned = cells.plan(study, small, tmp_path_factory.mktemp("none"))
  works = cells.missing(planned, study.seeds, claim=False)
  return {work.cell.name: cells.cost(work, small) for work in works}


@pytest.mark.parametrize("count", [1, 2, 5, 19, 25])
def test_shares_are_disjoint_complete_and_balanced(costs, count):
  shares = cells.shares(list(costs.values()), count)
  assert len(shares) == count
  assert sorted(sum(map(tuple, shares), ())) == list(range(len(costs)))
  assert all(share == sorted(share) for share in shares)
  seconds = list(costs.values())
  longest = max(sum(seconds[i] for i in share) for share in shares)
  # No split of whole cells can be shorter than either.
  assert longest <= 4 / 3 * max(sum(seconds) / count, *seconds)


def test_shares_do_not_depend_on_what_is_done(finished, tmp_path):
  study, dataset, workdir = finished
  shares = [
    [
      [cell.name for cell in cells.share(planned, study, dataset, Task(i, 2))]
      for i in range(2)
    ]
    for planned in (
      cells.plan(study, dataset, folder) for folder in (workdir, tmp_path)
    )
  ]
  assert shares[0] == shares[1]
  assert sorted(map(tuple, shares[0])) == [("pooled",), ("unpooled",)]


def test_two_tasks_at_once_and_a_plain_study_are_one_study(
  finished, tmp_path, monkeypatch
):
  workdir = tmp_path / "results"
  flags = ("--task_count=2", "--debug")
  tasks = [start(workdir, f"--task_index={i}", *flags) for i in range(2)]
  for index, task in enumerate(tasks):
    stdout, stderr = task.communicate(timeout=300)
    assert task.returncode == 0, stderr
    assert f"task {index} of 2 is complete: 1 of 2 cells" in stdout
  assert [path.name for path in workdir.iterdir()] == ["runs"]
  assert len(list((workdir / "runs").iterdir())) == 2

  def forbidden(work, *_):
    raise AssertionError(f"{work.cell.name} was done already")

  monkeypatch.setattr(cells, "do", forbidden)
  studies.run_study(finished.study, finished.dataset, workdir)
  assert_equal_tables(workdir, finished.workdir)


def test_a_task_leaves_the_other_tasks_folders_alone(copied, monkeypatch):
  done = []
  monkeypatch.setattr(cells, "do", lambda work, *_: done.append(work.cell.name))
  study, dataset, workdir = copied
  for run in (workdir / "runs").iterdir():
    (run / "metrics.jsonl").unlink()
    (run / "config.json").unlink()
  text = studies.run_task(study, dataset, workdir, Task(0, 2))
  assert len(done) == 1
  claimed = [p.parent.name for p in workdir.glob("runs/*/config.json")]
  assert len(claimed) == 1
  assert f"1 of 2 cells ({done[0]})" in text
  studies.run_task(study, dataset, workdir, Task(1, 2))
  assert sorted(done) == ["pooled", "unpooled"]


def test_a_task_without_a_cell_says_so(copied):
  study, dataset, workdir = copied
  text = studies.run_task(study, dataset, workdir, Task(2, 3))
  assert "task 2 of 3 is complete: 0 of 2 cells (none)" in text


def test_a_plain_study_and_a_task_exclude_each_other(copied):
  study, dataset, workdir = copied
  with (
    locks.holding(workdir),
    pytest.raises(ExperimentError, match="is in use by"),
  ):
    studies.run_task(study, dataset, workdir, Task(0, 2))
  with (
    locks.holding(workdir, shared=True),
    pytest.raises(ExperimentError, match="is in use by"),
  ):
    studies.run_study(study, dataset, workdir)
  with locks.holding(workdir, shared=True):
    studies.run_task(study, dataset, workdir, Task(0, 2))


def test_a_dry_run_of_a_task_prints_its_share(finished):
  study, dataset, workdir = finished
  shares = [
    studies.dry_run(study, dataset, workdir, Task(i, 2)).splitlines()
    for i in range(2)
  ]
  whole = studies.dry_run(study, dataset, workdir).splitlines()
  assert sorted(share[0] for share in shares) == sorted(whole[:-1])
  assert shares[1][1].startswith("task 1 of 2: 1 cells of 2, seeds 0, 1: about")


@pytest.mark.parametrize(
  ("variables", "last"),
  [
    ({}, ["--task_index=5", "--task_count=8"]),
    ({"COLLECT": "1"}, ["--workdir=DIR"]),
  ],
)
def test_the_sbatch_file_hands_a_task_its_share(variables, last, tmp_path):
  script = ROOT / "examples" / "study.sbatch"
  python = tmp_path / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text("#!/bin/sh\necho NPROC=$NPROC $@\n")
  python.chmod(0o755)
  slurm = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_CPUS_PER_TASK": "2"}
  found = subprocess.run(
    ["bash", script, "--preset=mnist", "--workdir=DIR"],
    cwd=tmp_path,
    env=os.environ | slurm | variables,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  assert found[:4] == ["NPROC=2", "-m", "experiments.study", "--preset=mnist"]
  assert found[-len(last) :] == last
  assert len(found) == 5 + 2 * (not variables)
  assert "#SBATCH --array=0-7\n" in script.read_text()


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ({"task_index": 3}, "--task_index=3 needs --task_count, the number"),
    ({"task_count": 3}, "--task_count=3 needs --task_index, 0 to 2"),
    ({"task_index": 3, "task_count": 3}, "--task_index=3 is not one of the 3"),
    ({"task_index": -2, "task_count": 3}, "--task_index=-2 is not one of"),
    ({"task_index": 0, "task_count": -1}, "--task_count=-1 is not 1 or more"),
  ],
)
def test_a_task_that_is_none_is_refused(flags, says):
  with pytest.raises(UsageError, match=says):
    launchers.task(LaunchConfig(**flags))


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ({"launcher": "slurm"}, "--launcher=slurm is unknown; known are local"),
    (
      {"launcher": "ray", "task_index": 0, "task_count": 2},
      "--launcher=ray and --task_index exclude each other",
    ),
    ({"launcher": "ray", "cell_cpus": -1}, "--cell_cpus=-1 is negative"),
    ({"launcher": "ray", "max_retries": -1}, "--max_retries=-1 is negative"),
    (
      {"launcher": "ray", "ray_address": "ray://head:10001"},
      "run the command on a node of the cluster",
    ),
  ],
)
def test_a_launcher_that_cannot_be_is_refused(flags, says):
  with pytest.raises(UsageError, match=says):
    launchers.choose(LaunchConfig(**flags))


def test_a_missing_ray_names_the_file_to_install(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(
    ExperimentError, match=r"pip install -r requirements-ray\.txt"
  ):
    launchers.choose(LaunchConfig(launcher="ray"))
  assert (ROOT / "requirements-ray.txt").exists()


def test_without_flags_all_is_done_here():
  assert launchers.choose(LaunchConfig()) is launchers.local
  assert launchers.task(LaunchConfig()) is None
