"""Loops over the activations of one step, compiled for the CPU by Numba.

Most take x (t, b, u), the activations of b images under t transformations, or r
(b, u), those of the untransformed images, and work on the units from `low` to
`high`: small enough a tile that what is read again lies in the cache. Arrays
that they add to are indexed by unit, so that tiles may run side by side, or
belong to the thread.

The innermost loops are functions of their own, over slices that are contiguous:
that is what the compiler turns into vector instructions.

Numba keeps compiled code beside each file until that file changes. Functions
here call those of other files, so all of it is dropped when any file changes.
"""

from pathlib import Path
from typing import Any

# Sums over units may be taken in any order.
FAST: Any = {
  "fastmath": {"reassoc", "contract", "nsz"},
  "error_model": "numpy",
  "nogil": True,
  "cache": True,
}

# Products and sums may be fused, as XLA fuses them, but not reordered: a
# constant map is then the same to the last bit whoever interpolates it.
ORDERED: Any = {**FAST, "fastmath": {"contract"}}


# For what is called once a vector: a call that counts references to its arrays
# would take longer than the work. The caller compiles and keeps it.
INLINE: Any = {**FAST, "forceinline": True}


def keep_nothing() -> None:
  """Compiles functions that are imported from now on for this process only."""
  for options in (FAST, ORDERED, INLINE):
    options["cache"] = False


def drop_stale(folder: Path) -> None:
  """Removes compiled code that is older than any source file."""
  newest = max(path.stat().st_mtime for path in folder.glob("*.py"))
  for path in (folder / "__pycache__").glob("*.nb[ci]"):
    # Another process may do the same.
    try:
      if path.stat().st_mtime < newest:
        path.unlink()
    except OSError:
      continue


drop_stale(Path(__file__).parent)
