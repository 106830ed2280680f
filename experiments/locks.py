"""One command at a time in a folder: a lock that names its owner.

The lock is the operating system's (`flock`), on a file `.lock` in the folder
that says who holds it: a line of JSON an owner, with host, pid, command and
since when. Because the system holds it and not the file, a process that dies
in any way frees it. Commands that only read take none.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments import cli, store, unfinished
from experiments.errors import ExperimentError, cannot_write

NAME = ".lock"

# Seconds to try: who comes or goes holds even a shared lock alone for a moment.
_PATIENCE = 0.5

# File systems without locks, such as some network mounts.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def holding(folder: Path, *, shared: bool = False) -> Iterator[None]:
  """Holds the lock of a folder, which is made if it is not there.

  Args:
    folder: the folder.
    shared: whether others may hold it shared at the same time; exclusive
      otherwise.

  Yields:
    Nothing. A folder that was made and is still empty goes again at the end.

  Raises:
    ExperimentError: another process holds the lock, named with what to do; or
      nothing can be written there.
  """
  made = [p for p in (folder, *folder.parents) if not p.exists()]
  try:
    with _holding(folder / NAME, shared):
      yield
  finally:
    with contextlib.suppress(OSError):
      for path in made:
        path.rmdir()


@contextlib.contextmanager
def _holding(path: Path, shared: bool) -> Iterator[None]:
  store.make_folder(path.parent)
  try:
    handle = _acquire(path, shared)
  except OSError as error:
    raise cannot_write(path.parent, error) from error
  try:
    if shared:
      yield
      return
    with unfinished.removed_in_haste(path):
      unfinished.sweep(path.parent)
      yield
  finally:
    _release(path, handle)


def _acquire(path: Path, shared: bool) -> int:
  """An open file with the lock on it and this process in it."""
  while True:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
      _lock(handle, path, shared)
      # Its last owner may have removed the file since it was opened.
      if _is_at(handle, path):
        os.write(handle, (json.dumps(_this_process()) + "\n").encode())
        return handle
    except BaseException:
      os.close(handle)
      raise
    os.close(handle)


def _lock(handle: int, path: Path, shared: bool) -> None:
  """Takes the lock; the file of dead owners is emptied.

  Raises:
    ExperimentError: another process holds it.
  """
  give_up = time.monotonic() + _PATIENCE
  while not _try_lock(handle, path, shared):
    if time.monotonic() > give_up:
      raise ExperimentError(
        f"{path.parent} is in use by {_owner(handle)}: wait for that to end or"
        " stop it, or use another --workdir"
      )
    time.sleep(_PATIENCE / 10)


def _try_lock(handle: int, path: Path, shared: bool) -> bool:
  try:
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      os.ftruncate(handle, 0)
      if not shared:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(handle, kind | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    cli.warn(
      f"the file system of {path.parent} has no locks: run one command at a"
      " time in it"
    )
  return True


def _release(path: Path, handle: int) -> None:
  """Gives the lock back; the last owner removes the file."""
  with contextlib.suppress(OSError):
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if _is_at(handle, path):
      path.unlink()
  os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
  try:
    return os.path.samestat(os.fstat(handle), path.stat())
  except FileNotFoundError:
    return False


def _this_process() -> dict[str, str | int]:
  program, *arguments = sys.argv or [""]
  command = shlex.join([Path(program).stem, *arguments])
  return {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "command": command[:200],
    "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
  }


def _owner(handle: int) -> str:
  """Who holds the lock, in words: of several, who came last."""
  content = os.pread(handle, 1 << 16, 0).decode(errors="replace")
  for line in reversed(content.splitlines()):
    with contextlib.suppress(ValueError, KeyError, TypeError):
      owner = json.loads(line)
      if not _is_dead(owner["host"], owner["pid"]):
        return (
          f"{owner['command']!r} (pid {owner['pid']} on {owner['host']}, since"
          f" {owner['since']})"
        )
  return "another process"


def _is_dead(host: str, pid: int) -> bool:
  """Whether a process is known to be gone."""
  if host != socket.gethostname():
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass  # it is another user's
  return False
