"""A folder's changes as bytes, so that it can be kept the same elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments import checksums, store
from experiments.checksums import Sums

_Stamp = tuple[int, int]  # when it was written, and its size


class Changes(NamedTuple):
  """What became of a folder's files.

  Attributes:
    written: contents by path inside the folder, in the order of writing.
    removed: paths.
  """

  written: dict[str, bytes]
  removed: list[str]


def read(folder: Path) -> dict[str, bytes]:
  """All files of a folder, by path; hidden ones are temporary or locks."""
  return {name: (folder / name).read_bytes() for name in _stamps(folder)}


def apply(folder: Path, changes: Changes, sums: Sums | None = None) -> None:
  """Makes the same changes to another folder.

  In the order in which they were first made, each file whole or not at all: a
  folder that is left half-way is one that a killed run could have left.

  Args:
    folder: the other folder.
    changes: what to change.
    sums: the folder's own checksums, which are kept instead of those sent; if
      None, those sent are written like any file.

  Raises:
    ExperimentError: a file cannot be written.
  """
  for name, content in changes.written.items():
    if sums is not None and name == checksums.NAME:
      continue
    # Checkpoints hold their own checksum and are listed nowhere.
    listed = sums is not None and not name.startswith("checkpoints/")
    store.write_bytes(
      folder / name, content, record=sums.record if sums and listed else None
    )
  for name in changes.removed:
    store.remove(folder / name)


class Mirror:
  """Notices what changes in a folder from now on."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    self._before = _stamps(folder)

  def changes(self) -> Changes:
    """What has changed since the last call; nobody may write meanwhile."""
    before, now = self._before, _stamps(self._folder)
    self._before = now
    written = sorted(
      (name for name, stamp in now.items() if before.get(name) != stamp),
      # Of equal time, those in folders first: metrics.jsonl says that the
      # parameters are complete.
      key=lambda name: (now[name][0], -name.count("/"), name),
    )
    return Changes(
      {name: (self._folder / name).read_bytes() for name in written},
      sorted(set(before) - set(now)),
    )


def _stamps(folder: Path) -> Mapping[str, _Stamp]:
  stamps = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file() and not path.name.startswith("."):
      stat = path.stat()
      stamps[path.relative_to(folder).as_posix()] = (
        stat.st_mtime_ns,
        stat.st_size,
      )
  return stamps
