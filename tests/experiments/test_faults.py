"""Full disks, read-only and vanishing folders: one line each, nothing lost."""

import contextlib
import functools
import os
import re
import resource
import shutil
import subprocess

import pytest

from experiments import (
  checksums,
  locks,
  runs,
  shared,
  store,
  training,
  unfinished,
)
from experiments.checkpoints import Checkpoints
from experiments.errors import ExperimentError
from experiments.run_folder import RunFolder
from tests.experiments.test_locks import another_process

TRAIN = (
  *("--model=mlp", "--depth=1", "--width=8", "--epochs=2", "--seeds=2"),
  *("--train_examples=256", "--test_examples=96", "--batch_size=60"),
  "--strategy=loop",
)


def mount(folder, options):
  subprocess.run(
    ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)],
    check=True,
    capture_output=True,
  )


@pytest.fixture
def disk(tmp_path):
  """Mounts a small disk with options; what is there is kept for `remount,`."""
  folder = tmp_path / "disk"
  folder.mkdir()
  try:
    mount(folder, "size=1m")
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("needs to be allowed to mount a tmpfs")
  yield folder
  subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def no_training(monkeypatch):
  """What trains fails the test."""

  def forbid():
    def forbidden(*args, **kwargs):
      raise AssertionError("this was done already")

    monkeypatch.setattr(training, "train", forbidden)

  return forbid


def files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def assert_one_line(result, *parts):
  code, stdout, stderr = result
  assert (code, stdout) == (1, "")
  last = stderr.splitlines()[-1]
  assert last.startswith("error: ")
  assert "Traceback" not in stderr
  for part in parts:
    assert part in last, last


# --- no room -----------------------------------------------------------------


def test_a_full_disk_is_named_and_the_rest_goes_on_once_there_is_room(
  command, disk, monkeypatch
):
  always = functools.partial(Checkpoints, every=0.0, share=float("inf"))
  monkeypatch.setattr(runs, "Checkpoints", always)
  # On one device: on several, seeds train side by side and are stored at once.
  monkeypatch.setattr(shared, "training_devices", lambda: None)
  workdir = disk / "run"
  train = ["train", f"--workdir={workdir}", *TRAIN]
  # Room for one seed's two files of 34 kB and a checkpoint of 105, no more.
  mount(disk, "remount,size=220k")
  result = command(*train)
  assert_one_line(
    result, str(workdir), "No space left on device: make room and run the same"
  )
  folder = RunFolder(workdir)
  assert folder.trained_seeds() == [0]
  assert folder.damaged() == []
  assert not list(workdir.rglob(f"{unfinished.PREFIX}*"))
  before = folder.params_path(0, "trained").stat().st_mtime_ns

  mount(disk, "remount,size=1m")
  assert command(*train)[0] == 0
  assert folder.trained_seeds() == [0, 1]
  assert folder.params_path(0, "trained").stat().st_mtime_ns == before


def test_where_not_even_a_lock_has_room_the_folder_is_named(command, disk):
  mount(disk, "remount,nr_inodes=1")
  result = command("train", f"--workdir={disk / 'run'}", *TRAIN)
  assert_one_line(result, str(disk / "run"), "No space left on device: make r")


@contextlib.contextmanager
def largest_file(size):
  """No file may be larger: what can be had of a full disk without a mount."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path):
  path, record = tmp_path / "file.txt", checksums.Sums(tmp_path).record
  store.write_text(path, "before", record=record)
  before = files(tmp_path)
  message = f"^{re.escape(str(path))} cannot be written: File too large: make r"
  with largest_file(1000), pytest.raises(ExperimentError, match=message):
    store.write_text(path, "x" * 1001, record=record)
  assert files(tmp_path) == before


# --- no permission -----------------------------------------------------------


@pytest.mark.parametrize("command_name", ["train", "report", "measure"])
def test_a_read_only_folder_is_named(command, disk, copied, command_name):
  workdir = disk / "results"
  mount(disk, "remount,size=20m")
  shutil.copytree(copied.workdir, workdir)
  run = workdir / "runs" / "cnn-max-d1-w4-k3-same-dense"
  arguments = {
    "train": ["train", f"--workdir={disk / 'new'}", *TRAIN],
    "report": ["report", f"--workdir={workdir}"],
    "measure": ["measure", f"--workdir={run}"],
  }[command_name]
  before = files(disk)
  mount(disk, "remount,ro")
  result = command(*arguments)
  assert_one_line(
    result,
    arguments[1].partition("=")[2],
    "Read-only file system: make the folder writable or use another --workdir",
  )
  assert files(disk) == before
  mount(disk, "remount,rw")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_of_somebody_else_is_named(command, tmp_path):
  tmp_path.chmod(0o555)
  result = command("train", f"--workdir={tmp_path / 'run'}", *TRAIN)
  tmp_path.chmod(0o755)
  assert_one_line(result, str(tmp_path / "run"), "Permission denied: make the")


# --- no folder ---------------------------------------------------------------


def test_a_folder_that_vanishes_is_not_made_again_and_can_come_back(
  command, tmp_path, monkeypatch
):
  workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
  train = ["train", f"--workdir={workdir}", *TRAIN]
  add_seed = RunFolder.add_seed

  def vanish(folder, seed, *rest):
    if seed == 1:
      workdir.rename(elsewhere)
    add_seed(folder, seed, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(RunFolder, "add_seed", vanish)
    result = command(*train)
  assert_one_line(
    result, str(workdir), "its folder was removed or unmounted meanwhile; bring"
  )
  assert not workdir.exists()
  before = RunFolder(elsewhere).params_path(0, "trained").stat().st_mtime_ns
  elsewhere.rename(workdir)
  assert command(*train)[0] == 0
  folder = RunFolder(workdir)
  assert folder.trained_seeds() == [0, 1]
  assert folder.params_path(0, "trained").stat().st_mtime_ns == before
  assert not (workdir / locks.NAME).exists()


# --- somebody else's folder --------------------------------------------------


@pytest.mark.parametrize("name", ["study", "report"])
def test_two_commands_in_one_folder_are_kept_apart(
  command, copied, no_training, name
):
  before = files(copied.workdir)
  with another_process(copied.workdir) as other:
    no_training()
    result = command(name, f"--workdir={copied.workdir}")
  assert_one_line(
    result, f"{copied.workdir} is in use by ", f"(pid {other.pid} on "
  )
  assert files(copied.workdir) == before


def test_a_run_folder_is_locked_for_whom_its_study_is_another(
  command, copied, no_training
):
  run = copied.workdir / "runs" / "cnn-max-d1-w4-k3-same-dense"
  no_training()
  with another_process(run):
    result = command("measure", f"--workdir={run}")
  assert_one_line(result, f"{run} is in use by ")


def test_a_run_of_other_flags_or_of_an_older_format_is_refused_whole(
  command, copied, no_training
):
  run = copied.workdir / "runs" / "cnn-max-d1-w4-k3-same-dense"
  no_training()
  before = files(run)
  result = command("train", f"--workdir={run}", *TRAIN)
  assert_one_line(result, str(run), "holds a run with", "use another --workdir")
  assert files(run) == before
  (run / checksums.NAME).unlink()
  before = files(run)
  for name in ("train", "measure"):
    flags = TRAIN if name == "train" else ("--measure_examples=8",)
    result = command(name, f"--workdir={run}", *flags)
    assert_one_line(result, str(run), "is of an older format", "--workdir or")
  assert files(run) == before


# --- what killed processes have left -----------------------------------------


def test_leftover_files_are_swept_by_the_next_owner_only(tmp_path):
  left = [
    tmp_path / f"{unfinished.PREFIX}0-table.csv",
    tmp_path / "params" / f"{unfinished.PREFIX}1-seed0.npz",
  ]
  other = tmp_path / "runs" / "one" / f"{unfinished.PREFIX}2-seed0.npz"
  for path in (*left, other):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  refused = pytest.raises(ExperimentError, match="is in use by")
  with another_process(tmp_path):
    for path in left:
      path.touch()
    with refused, locks.holding(tmp_path):
      pass
  with locks.holding(tmp_path, shared=True):
    assert all(path.exists() for path in left)
  with locks.holding(tmp_path):
    assert not any(path.exists() for path in left)
  assert other.exists()  # its run has a lock of its own


@pytest.mark.parametrize(
  "name",
  ["measurements.parquet", "training.csv", "networks.csv", "provenance.json"],
)
def test_a_report_is_never_of_a_damaged_table(command, copied, name):
  path = copied.workdir / name
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  result = command("report", f"--workdir={copied.workdir}")
  assert_one_line(
    result, f"{path} is damaged: it does not match its checksum", "run the comm"
  )
