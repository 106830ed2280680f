"""Files: written whole or not at all, read whole or refused.

A file is written under a temporary name, brought to the disk and renamed, so
that a kill, a full disk or a power cut leaves the old file or the new one.
Nothing is pickled. Run folders are `experiments.run_folder`'s.
"""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import archives, unfinished
from experiments.errors import ExperimentError, cannot_write

# What is told of a file and its content before it is there, and what reads one:
# those of `checksums.Sums`, for files that have checksums.
Record = Callable[[Path, bytes], None]
Read = Callable[[Path], bytes]

# Names of vector instructions, widest first, by what Linux calls them.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "numpy",
  "scipy",
  "pandas",
  "matplotlib",
)


def write_bytes(
  path: Path, content: bytes, *, record: Record | None = None
) -> None:
  """Writes a file whole or not at all.

  Args:
    path: the file. Its folder is made if it is not there, but not the one that
      it is in: a results folder that was removed meanwhile is not made again.
    content: what it is to hold.
    record: called before the file takes its name.

  Raises:
    ExperimentError: it cannot be written, with the reason and the remedy.
  """
  try:
    path.parent.mkdir(exist_ok=True)
    with unfinished.beside(path) as temporary:
      _write_to_disk(temporary, content)
      if record is not None:
        record(path, content)
      os.replace(temporary, path)
    _bring_to_disk(path.parent)
  except OSError as error:
    raise cannot_write(path, error) from error


def _write_to_disk(path: Path, content: bytes) -> None:
  with path.open("xb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _bring_to_disk(folder: Path) -> None:
  """Makes a rename in a folder survive a power cut."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # not every file system can
      os.fsync(handle)
  finally:
    os.close(handle)


def make_folder(folder: Path) -> None:
  """Makes a folder and those that it is in, where they are not there.

  Raises:
    ExperimentError: it cannot be made.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise cannot_write(folder, error) from error


def remove(path: Path) -> None:
  """Removes a file if it is there.

  Raises:
    ExperimentError: it cannot be removed.
  """
  try:
    path.unlink(missing_ok=True)
  except OSError as error:
    raise cannot_write(path, error) from error


def write_text(path: Path, text: str, *, record: Record | None = None) -> None:
  """Writes a text file; see `write_bytes`."""
  write_bytes(path, text.encode(), record=record)


def write_json(path: Path, value: Any, *, record: Record | None = None) -> None:
  """Writes readable JSON; see `write_bytes`."""
  write_text(path, json.dumps(value, indent=2) + "\n", record=record)


def read_json(path: Path, *, read: Read = Path.read_bytes) -> Any:
  """Reads JSON.

  Args:
    path: the file.
    read: what reads it.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  try:
    return json.loads(read(path).decode())
  except (OSError, ValueError) as error:
    raise _cannot_read(path, error) from error


def write_table(
  path: Path, table: pd.DataFrame, *, record: Record | None = None
) -> None:
  """Writes a Parquet or CSV table, by its suffix; see `write_bytes`."""
  buffer = io.BytesIO()
  if path.suffix == ".parquet":
    table.to_parquet(buffer, index=False, compression="zstd")
  else:
    # An empty cell would be read back as an empty word.
    table.to_csv(buffer, index=False, lineterminator="\n", na_rep="nan")
  write_bytes(path, buffer.getvalue(), record=record)


def read_table(path: Path, *, read: Read = Path.read_bytes) -> pd.DataFrame:
  """Reads a Parquet or CSV table.

  Args:
    path: the file.
    read: what reads it.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  try:
    buffer = io.BytesIO(read(path))
    if path.suffix == ".parquet":
      return pd.read_parquet(buffer)
    return pd.read_csv(buffer, keep_default_na=False, na_values=["NaN", "nan"])
  except (OSError, ValueError) as error:
    raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: Exception) -> ExperimentError:
  first = str(error).splitlines()[0] if str(error) else type(error).__name__
  return ExperimentError(f"{path} cannot be read: {first}")


def require(path: Path, table: pd.DataFrame, columns: Iterable[str]) -> None:
  """Refuses a table of something else.

  Raises:
    ExperimentError: it lacks a column; the message names it.
  """
  for column in columns:
    if column not in table:
      raise ExperimentError(
        f"{path} has no column {column!r}: it is not of this version; run the"
        " command that writes it again"
      )


def save_params(
  path: Path, params: Mapping[str, Any], *, record: Record | None = None
) -> None:
  """Saves nested dictionaries of arrays as a flat npz, keys joined by '/'.

  Raises:
    ValueError: a name that reading would refuse, such as '..'.
    ExperimentError: the file cannot be written.
  """
  write_bytes(path, npz(_flatten(params)), record=record)


def npz(arrays: Mapping[str, Any]) -> bytes:
  """Arrays by name as the content of an npz file.

  Raises:
    ValueError: a name that reading would refuse.
  """
  for name in arrays:
    if not archives.names_array(f"{name}.npy"):
      raise ValueError(f"{name!r} cannot be an array's name in a file")
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in sorted(tree.items()):
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{key}/")
    else:
      flat[prefix + key] = np.asarray(value)
  return flat


def load_params(path: Path, *, read: Read = Path.read_bytes) -> dict[str, Any]:
  """Loads what `save_params` saved.

  Args:
    path: the file.
    read: what reads it.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  tree: dict[str, Any] = {}
  try:
    archives.check_regular(path)
    flat = arrays_of(read(path))
  except (OSError, ValueError) as error:
    raise _cannot_read(path, error) from error
  for name, value in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ExperimentError(
          f"{path} cannot be read: it has {name!r} below another array"
        )
    node[leaf] = value
  return tree


def arrays_of(content: bytes) -> dict[str, np.ndarray]:
  """The arrays in the content of an npz file.

  Raises:
    ValueError: it is none.
  """
  return archives.parse(io.BytesIO(content), len(content))


def as_config(**sections: Any) -> dict[str, Any]:
  """config.json's content from dataclasses, by section."""
  return {name: dataclasses.asdict(value) for name, value in sections.items()}


def provenance(data: Mapping[str, Any]) -> dict[str, Any]:
  """What a result depends on besides its flags.

  Args:
    data: the data set's provenance.

  Returns:
    Versions, devices, threads, git commit and data, without the time or any
    path, so that equal runs have equal provenance.
  """
  import jax

  return {
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "machine": platform.machine(),
    "system": platform.system(),
    "processor": processor(),
    "devices": [device.device_kind for device in jax.devices()],
    "cpu_count": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "NPROC": os.environ.get("NPROC"),
    "git_commit": _git_commit(),
    "data": dict(data),
  }


def processor() -> str:
  """The processor's name, with its widest vectors where they are known.

  Machines of one name may differ by a factor of two in what they compute.
  """
  first: dict[str, str] = {}
  with contextlib.suppress(OSError):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      key, _, value = line.partition(":")
      first.setdefault(key.strip(), value.strip())
  name = first.get("model name") or platform.processor()
  instructions = first.get("flags", "").split()
  for flag, vectors in _VECTORS.items():
    if flag in instructions:
      return f"{name} ({vectors})"
  return name


def _git_commit() -> str | None:
  """The commit of this source, with '-dirty' for changed source, or None."""

  def git(*arguments: str) -> str:
    result = subprocess.run(
      ["git", *arguments],
      cwd=Path(__file__).parent.parent,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
    return result.stdout.strip()

  try:
    commit = git("rev-parse", "--short=12", "HEAD")
    # Results and documents that changed do not make a run another.
    changed = git(
      "status", "--porcelain", "--", "models", "analysis", "experiments"
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return f"{commit}-dirty" if changed else commit
