"""The two ways in which a command ends badly, each one line for the user."""

import errno
import re
from pathlib import Path


class UsageError(Exception):
  """The command line is wrong; exit code 2. Says what value and what to do."""


class ExperimentError(Exception):
  """The work failed; exit code 1. Says what, where and what to do."""


def as_flag(message: str) -> str:
  """A message that begins with name=value, as the flag that it is about.

  Args:
    message: of a library's check, as in "pooling='min' is not one of ...".

  Returns:
    The message with --name=value in front; other messages as they are.
  """
  return re.sub(r"^(\w+)=(?:'([^']*)'|(?=[^']))", r"--\1=\2", message)


_REMEDIES = {
  **dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "make room and run the same command again, which keeps what is complete",
  ),
  **dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS),
    "make the folder writable or use another --workdir",
  ),
  **dict.fromkeys(
    (errno.ENOENT, errno.ESTALE, errno.ENOTCONN),
    "its folder was removed or unmounted meanwhile; bring it back and run the"
    " same command again",
  ),
  **dict.fromkeys(
    (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    "something else has that name; remove it or use another --workdir",
  ),
}


def cannot_write(path: Path, error: OSError) -> ExperimentError:
  """What to tell the user when a file or folder cannot be written.

  Args:
    path: the file or folder.
    error: what the operating system said.

  Returns:
    An error to raise, which names the path, the reason and the remedy.
  """
  reason = error.strerror or str(error)
  remedy = _REMEDIES.get(
    error.errno or 0, "run the same command again once that is mended"
  )
  return ExperimentError(f"{path} cannot be written: {reason}: {remedy}")
