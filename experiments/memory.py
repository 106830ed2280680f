"""How much memory there is, and refusing what cannot fit before trying."""

import contextlib
import os
from pathlib import Path

_GIB = 2**30
_UNKNOWN = 4 * _GIB  # where the system does not say

# Of the control group that a container or a batch job runs in.
_GROUPS = (
  ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
  (
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
  ),
)


def available() -> int:
  """Bytes of main memory that this process can still have, about."""
  found = [_UNKNOWN]
  with contextlib.suppress(OSError, ValueError, AttributeError):
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
  with contextlib.suppress(OSError, ValueError, IndexError):
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found.append(int(text.split("MemAvailable:")[1].split()[0]) * 1024)
  for limit, used in _GROUPS:
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
      left = int(Path(limit).read_text()) - int(Path(used).read_text())
      found.append(max(left, 0))
  return min(found)


def shortage(needed: int) -> str:
  """What is wrong with needing so many bytes; nothing if they are there.

  Args:
    needed: bytes.

  Returns:
    The end of a sentence, as in "needs 40.0 GiB of memory, of which 3.1 GiB are
    free"; empty if that fits.
  """
  free = available()
  if needed <= free:
    return ""
  return (
    f"needs {needed / _GIB:,.1f} GiB of memory, of which {free / _GIB:,.1f} GiB"
    " are free"
  )
