"""Where compiled programs are kept, so that later processes start sooner.

In `~/.cache/partial-invariance`, or below `XDG_CACHE_HOME`; another folder is
named by `--compilation_cache` or `JAX_COMPILATION_CACHE_DIR`. It may be removed
at any time: `rm -r ~/.cache/partial-invariance`.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

import jax

from experiments import cli

# The flag's value for no cache.
NONE = "none"

_FOLDER = "jax_compilation_cache_dir"


def keep(folder: str = "") -> None:
  """Keeps compiled programs in a folder for later processes.

  Apart for each kind of CPU, because XLA compiles for the one it runs on. A
  folder that cannot be written costs a warning and the time to compile.

  Args:
    folder: where; "none" for nowhere. If empty, the folder that jax was told
      of, such as by `JAX_COMPILATION_CACHE_DIR`, else the user's cache folder.
  """
  if folder == NONE:
    jax.config.update("jax_enable_compilation_cache", False)
    return
  told = getattr(jax.config, _FOLDER)
  path = Path(told) if told and not folder else _of_this_cpu(folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  except OSError as error:
    jax.config.update("jax_enable_compilation_cache", False)
    cli.warn(
      f"compiled programs are not kept, {path} cannot be written"
      f" ({error.strerror}): give another --compilation_cache, or {NONE}"
    )
    return
  jax.config.update(_FOLDER, str(path))
  # Many small programs make up the time of a measuring process.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  # Of a disk that is full, or a program that another process is just writing:
  # it is compiled, as without a cache.
  warnings.filterwarnings("ignore", "Error .* persistent compilation cache")


def user_folder() -> Path:
  """The user's cache folder for this project."""
  cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  return Path(cache) / "partial-invariance"


def _of_this_cpu(folder: str) -> Path:
  """The part of a folder, or of the user's, that is for this kind of CPU."""
  whole = Path(folder).expanduser() if folder else user_folder()
  features = f"{sys.platform} {os.uname().machine}"
  with contextlib.suppress(OSError):
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features += next((x for x in lines if x.startswith("flags")), "")
  return whole / hashlib.sha256(features.encode()).hexdigest()[:12]
