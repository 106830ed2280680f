"""Locks between real processes: owners named, dead ones forgotten."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import locks
from experiments.errors import ExperimentError

ROOT = Path(locks.__file__).parents[1]

HOLD = """
import sys
from pathlib import Path
from experiments import locks
with locks.holding(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
  print("held", flush=True)
  sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process(folder, kind="exclusive"):
  """Another process that holds the lock of a folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(folder), kind],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stdin is not None
  assert process.stdout.readline() == "held\n"
  try:
    yield process
  finally:
    with contextlib.suppress(BrokenPipeError):
      process.communicate("\n", timeout=60)


def assert_free(folder, **options):
  with locks.holding(folder, **options):
    pass


def test_a_lock_comes_and_goes_and_so_does_a_folder_left_empty(tmp_path):
  folder = tmp_path / "new" / "results"
  with locks.holding(folder):
    assert [path.name for path in folder.iterdir()] == [locks.NAME]
  assert not list(tmp_path.iterdir())
  folder.mkdir(parents=True)
  (folder / "kept").touch()
  assert_free(folder)
  assert [path.name for path in folder.iterdir()] == ["kept"]


def test_the_owner_is_named_with_the_remedy(tmp_path):
  with another_process(tmp_path) as other:
    message = (
      re.escape(f"{tmp_path} is in use by '-c ")
      + rf".*\(pid {other.pid} on \S+, since \d{{4}}-\d\d-\d\d [\d:+-]+\): "
      + "wait for that to end or stop it, or use another --workdir$"
    )
    for shared in (False, True):
      with pytest.raises(ExperimentError, match=message):
        assert_free(tmp_path, shared=shared)
  assert_free(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_shared_lock_has_several_owners_and_keeps_out_the_one(tmp_path):
  refused = pytest.raises(ExperimentError, match="is in use by")
  with (
    another_process(tmp_path, "shared"),
    locks.holding(tmp_path, shared=True),
    refused,
  ):
    assert_free(tmp_path)
  with another_process(tmp_path, "shared") as other:
    message = rf"\(pid {other.pid} on"
    with pytest.raises(ExperimentError, match=message):
      assert_free(tmp_path)
  assert_free(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_the_lock_of_a_killed_process_is_free(tmp_path, kind):
  with another_process(tmp_path, kind) as other:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / locks.NAME).exists()
    with locks.holding(tmp_path):
      content = (tmp_path / locks.NAME).read_text()
      assert f'"pid": {os.getpid()}' in content
      assert str(other.pid) not in content
  assert not list(tmp_path.iterdir())


def test_a_damaged_lock_file_is_a_lock_nonetheless(tmp_path):
  with another_process(tmp_path):
    (tmp_path / locks.NAME).write_bytes(b"\xff{}\n")
    with pytest.raises(ExperimentError, match="in use by another process: "):
      assert_free(tmp_path)
  (tmp_path / locks.NAME).write_bytes(b"\xff{}\n")
  assert_free(tmp_path)


def test_where_there_can_be_no_folder_the_path_is_named(tmp_path):
  (tmp_path / "file").touch()
  message = "file/results cannot be written: Not a directory: something else"
  with pytest.raises(ExperimentError, match=message):
    assert_free(tmp_path / "file" / "results")


def test_without_locks_in_the_file_system_there_is_a_warning(
  tmp_path, monkeypatch, capsys
):
  def unsupported(*_):
    raise OSError(locks.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(locks.fcntl, "flock", unsupported)
  with locks.holding(tmp_path / "results"):
    pass
  assert "has no locks: run one command at a time" in capsys.readouterr().err
