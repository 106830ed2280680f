"""Files that must not outlive the command: those of writes in progress.

A command that is interrupted has them removed on its way out, even where it
has no time to unwind; see `experiments.interrupts`. What a killed process
leaves is swept when the next command takes the folder's lock.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".tmp-"

# Of the whole process, since it is the process that ends.
_paths: set[Path] = set()


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
  """A temporary name in the folder of a file, gone when the block ends.

  Args:
    path: the file that it is to become.

  Yields:
    The name; there is no such file yet.
  """
  temporary = path.with_name(f"{PREFIX}{secrets.token_hex(4)}-{path.name}")
  with removed_in_haste(temporary):
    try:
      yield temporary
    finally:
      with contextlib.suppress(OSError):
        temporary.unlink()


@contextlib.contextmanager
def removed_in_haste(path: Path) -> Iterator[None]:
  """Has a file removed if the process ends at once within the block."""
  _paths.add(path)
  try:
    yield
  finally:
    _paths.discard(path)


def remove_all() -> None:
  """Removes all such files, before the process ends at once."""
  for path in list(_paths):
    with contextlib.suppress(OSError):
      path.unlink()


def sweep(folder: Path) -> None:
  """Removes what killed processes have left in a folder.

  Only for who holds its lock. Runs inside the folder have locks of their own,
  so `runs/` is left alone.
  """
  for parent, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if name != "runs"]
    for name in files:
      if name.startswith(PREFIX):
        with contextlib.suppress(OSError):
          Path(parent, name).unlink()
