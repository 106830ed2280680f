"""Checksums of a folder's files, so that a damaged one is never a result.

They are in `SHA256SUMS`, which `sha256sum -c SHA256SUMS` reads too:

  # flags DIGEST            what the run in the folder was trained with
  DIGEST  params/seed0_init.npz
  # lines above DIGEST      of this file itself

A file's digest is listed before the file gets its name, beside that of the
file it replaces, so that a kill at any moment leaves a file that is listed. A
change of a line can only make a file count as damaged, never as whole.
"""

import hashlib
import re
from pathlib import Path

from experiments import store
from experiments.errors import ExperimentError

NAME = "SHA256SUMS"

_ENTRY = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
_FLAGS, _SELF = "# flags ", "# lines above "


class DamagedError(ExperimentError):
  """A file is not what was written."""


class Sums:
  """The checksums of the files in a folder."""

  def __init__(self, folder: Path) -> None:
    """Names the folder; nothing is written yet."""
    self.folder = folder
    self.path = folder / NAME

  def exist(self) -> bool:
    """Whether the folder has checksums; older versions wrote none."""
    return self.path.exists()

  def whole(self, path: Path) -> bool:
    """Whether a file is there and is what was written.

    In a folder without checksums every file counts as whole.
    """
    try:
      self.read(path)
    except (OSError, DamagedError):
      return False
    return True

  def read(self, path: Path) -> bytes:
    """The content of a file.

    Raises:
      DamagedError: it is not what was written.
      OSError: it cannot be read.
    """
    content = path.read_bytes()
    if self.exist() and (digest(content), self._name(path)) not in self._all():
      raise DamagedError(
        f"{path} is damaged: it does not match its checksum in {self.path};"
        " run the command that wrote it again, which makes it anew"
      )
    return content

  def listed(self) -> list[Path]:
    """The files that have a checksum; they need not be there."""
    return sorted({self.folder / name for _, name in self._all()})

  @property
  def flags(self) -> str | None:
    """The digest of the run's flags; None if not known for certain."""
    text = self._text()
    above, mark, own = text.rpartition(_SELF)
    found = re.search(f"^{_FLAGS}(.*)$", above, re.M)
    if not mark or not found or own.strip() != digest(above.encode()):
      return None
    return found[1]

  def set_flags(self, flags: str) -> None:
    """Writes the digest of the run's flags; drops files that are gone."""
    there = {(d, n) for d, n in self._all() if (self.folder / n).exists()}
    self._write(there, flags)

  def record(self, path: Path, content: bytes) -> None:
    """Lists a file that is about to be written.

    Args:
      path: the file.
      content: what it will hold; until it does, its present content is
        listed too.
    """
    entries = self._all()
    names = [name for _, name in entries]
    # What a name had before its last change: settled by what is there now.
    unsettled = {n for n in names if names.count(n) > 1} | {self._name(path)}
    now = {(self._digest_of(n), n) for n in unsettled}
    entries = {e for e in entries if e[1] not in unsettled or e in now}
    self._write(entries | {(digest(content), self._name(path))}, self.flags)

  def _write(self, entries: set[tuple[str, str]], flags: str | None) -> None:
    lines = [f"{_FLAGS}{flags}\n"] if flags else []
    lines += [f"{d}  {n}\n" for d, n in sorted(entries, key=lambda e: e[::-1])]
    text = "".join(lines)
    store.write_text(self.path, f"{text}{_SELF}{digest(text.encode())}\n")

  def _all(self) -> set[tuple[str, str]]:
    """(digest, name) of every line; two of a name that is being replaced."""
    matches = map(_ENTRY.fullmatch, self._text().splitlines())
    return {(m[1], m[2]) for m in matches if m}

  def _text(self) -> str:
    if not self.exist():
      return ""
    return self.path.read_text(encoding="utf-8", errors="replace")

  def _name(self, path: Path) -> str:
    return path.relative_to(self.folder).as_posix()

  def _digest_of(self, name: str) -> str:
    path = self.folder / name
    return digest(path.read_bytes()) if path.is_file() else ""


def digest(content: bytes) -> str:
  """The sha256 of bytes, in hexadecimal."""
  return hashlib.sha256(content).hexdigest()
