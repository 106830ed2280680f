"""Run folders: what a run leaves on disk, written whole or not at all.

  config.json           every flag, resolved
  provenance.json       versions, devices, threads, git commit, data sha256
  metrics.jsonl         one object a seed and epoch
  failures.jsonl        one object a seed whose loss was not finite, if any
  params/               seed0_init.npz, seed0_trained.npz, ...
  measurements.parquet  one row a value, joined from measurements/
  seconds.json          how long training and measuring took

Every file is written under a temporary name and renamed. Nothing is pickled.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.diverging import Divergence
from experiments.errors import ExperimentError

STAGES = ("init", "trained")

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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A temporary path that becomes `path` when the block succeeds.

  Args:
    path: the file to write; its folder is created.

  Yields:
    The path to write to, in the same folder.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(
    prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
  )
  os.close(handle)
  temporary = Path(name)
  try:
    yield temporary
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
  """Writes a text file whole or not at all."""
  write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
  """Writes readable JSON whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
  """Reads JSON.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ExperimentError(f"{path} cannot be read: {error}") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
  """Writes a Parquet or CSV table, by its suffix, whole or not at all."""
  with replacing(path) as temporary:
    if path.suffix == ".parquet":
      table.to_parquet(temporary, index=False, compression="zstd")
    else:
      # An empty cell would be read back as an empty word.
      table.to_csv(temporary, index=False, lineterminator="\n", na_rep="nan")


def read_table(path: Path) -> pd.DataFrame:
  """Reads a Parquet or CSV table.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  try:
    if path.suffix == ".parquet":
      return pd.read_parquet(path)
    return pd.read_csv(path, keep_default_na=False, na_values=["NaN", "nan"])
  except (OSError, ValueError) as error:
    first = str(error).splitlines()[0]
    raise ExperimentError(f"{path} cannot be read: {first}") from error


def save_params(path: Path, params: Mapping[str, Any]) -> None:
  """Saves nested dictionaries of arrays as a flat npz, keys joined by '/'."""
  with replacing(path) as temporary:
    np.savez(temporary, **_flatten(params))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in sorted(tree.items()):
    if isinstance(value, Mapping):
      flat |= _flatten(value, f"{prefix}{key}/")
    else:
      flat[prefix + key] = np.asarray(value)
  return flat


def load_params(path: Path) -> dict[str, Any]:
  """Loads what `save_params` saved.

  Raises:
    ExperimentError: the file is missing or damaged.
  """
  tree: dict[str, Any] = {}
  try:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      flat = {name: archive[name] for name in archive.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ExperimentError(f"{path} cannot be read: {error}") from error
  for name, value in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


class RunFolder:
  """One architecture trained with several seeds, on disk."""

  def __init__(self, path: Path) -> None:
    """Names a run folder; nothing is created yet."""
    self.path = path

  def claim(
    self, config: Mapping[str, Any], provenance: Mapping[str, Any]
  ) -> None:
    """Makes the folder this run's own, or checks that it is.

    Args:
      config: data, model and training flags. `data_dir` may differ: it is the
        data's sha256 that must be the same.
      provenance: as of `provenance`.

    Raises:
      ExperimentError: the folder holds seeds trained with other flags or data.
    """
    path = self.path / "config.json"
    # A run that stopped before its first seed has left nothing worth keeping.
    if not path.exists() or not (self.trained_seeds() or self.failures()):
      self._become(config, provenance)
      return
    ours, theirs = _flatten_config(config), _flatten_config(read_json(path))
    stored = read_json(self.path / "provenance.json").get("data", {})
    for name in ("train_sha256", "test_sha256"):
      ours[name] = provenance["data"].get(name)
      theirs[name] = stored.get(name)
    for name in sorted(set(ours) | set(theirs)):
      if ours.get(name) == theirs.get(name):
        continue
      if not self.trained_seeds():  # others may succeed where all failed
        self._become(config, provenance)
        return
      raise ExperimentError(
        f"{self.path} holds a run with {name}={theirs.get(name)}, not"
        f" {ours.get(name)}: use another --workdir or remove it"
      )

  def _become(
    self, config: Mapping[str, Any], provenance: Mapping[str, Any]
  ) -> None:
    (self.path / "failures.jsonl").unlink(missing_ok=True)
    write_json(self.path / "provenance.json", provenance)
    write_json(self.path / "config.json", config)

  def measured_with(self, config: Mapping[str, Any]) -> bool:
    """Whether the measurements there are were made with these flags."""
    path = self.path / "measurements" / "config.json"
    return path.exists() and read_json(path) == config

  def claim_measurements(self, config: Mapping[str, Any]) -> None:
    """Drops measurements made with other flags: they can be made again."""
    path = self.path / "measurements" / "config.json"
    if self.measured_with(config):
      return
    for part in path.parent.glob("*.parquet"):
      part.unlink()
    (self.path / "measurements.parquet").unlink(missing_ok=True)
    write_json(path, config)

  def seconds(self) -> dict[str, float]:
    """How long training and measuring took, in all."""
    path = self.path / "seconds.json"
    return read_json(path) if path.exists() else {}

  def add_seconds(self, kind: str, seconds: float) -> None:
    """Adds to the time that training or measuring took."""
    total = self.seconds()
    total[kind] = round(total.get(kind, 0.0) + seconds, 1)
    write_json(self.path / "seconds.json", total)

  def params_path(self, seed: int, stage: str) -> Path:
    """Where the parameters of a seed and stage are."""
    return self.path / "params" / f"seed{seed}_{stage}.npz"

  def trained_seeds(self) -> list[int]:
    """The seeds whose training is complete."""
    metrics = {int(m["seed"]) for m in self.metrics()}
    return sorted(
      seed
      for seed in metrics
      if all(self.params_path(seed, stage).exists() for stage in STAGES)
    )

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl.

    Raises:
      ExperimentError: a line is damaged.
    """
    return _read_lines(self.path / "metrics.jsonl")

  def failures(self) -> list[Divergence]:
    """The seeds whose training failed, in order: they are not tried again.

    Raises:
      ExperimentError: failures.jsonl is damaged.
    """
    path = self.path / "failures.jsonl"
    try:
      found = [Divergence(**line) for line in _read_lines(path)]
    except TypeError as error:
      raise ExperimentError(f"{path} cannot be read: {error}") from error
    return sorted(found, key=lambda failure: failure.seed)

  def failed_seeds(self) -> set[int]:
    """The seeds whose training failed with these flags."""
    return {failure.seed for failure in self.failures()}

  def add_failure(self, failure: Divergence) -> None:
    """Stores that a seed's training failed."""
    others = [f for f in self.failures() if f.seed != failure.seed]
    lines = [json.dumps(f._asdict()) + "\n" for f in (*others, failure)]
    write_text(self.path / "failures.jsonl", "".join(lines))

  def add_seed(
    self,
    seed: int,
    initial: Mapping[str, Any],
    trained: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]],
  ) -> None:
    """Stores a trained seed; its metrics last: they mark it complete."""
    save_params(self.params_path(seed, "init"), initial)
    save_params(self.params_path(seed, "trained"), trained)
    lines = [m for m in self.metrics() if m["seed"] != seed] + list(metrics)
    lines.sort(key=lambda m: (m["seed"], m["epoch"]))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(self.path / "metrics.jsonl", text)

  def part_path(self, seed: int, stage: str) -> Path:
    """Where one seed's and stage's measurements wait to be joined."""
    return self.path / "measurements" / f"seed{seed}_{stage}.parquet"

  def join_measurements(self, parts: Iterable[tuple[int, str]]) -> pd.DataFrame:
    """Joins the parts into measurements.parquet.

    Args:
      parts: (seed, stage) of each, in the order of the table.

    Returns:
      The table.

    Raises:
      ExperimentError: a part is missing or damaged.
    """
    tables = [read_table(self.part_path(*part)) for part in parts]
    table = pd.concat(tables, ignore_index=True)
    write_table(self.path / "measurements.parquet", table)
    return table


def _read_lines(path: Path) -> list[dict[str, Any]]:
  """JSON objects, one a line; none if there is no such file."""
  if not path.exists():
    return []
  try:
    return [json.loads(line) for line in path.read_text().splitlines()]
  except ValueError as error:
    raise ExperimentError(f"{path} cannot be read: {error}") from error


def _flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
  flat = {}
  for section, fields in config.items():
    for name, value in fields.items():
      if name != "data_dir":
        flat[f"{section}.{name}"] = value
  return flat


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
    "processor": _processor(),
    "devices": [device.device_kind for device in jax.devices()],
    "cpu_count": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "NPROC": os.environ.get("NPROC"),
    "git_commit": _git_commit(),
    "data": dict(data),
  }


def _processor() -> str:
  with contextlib.suppress(OSError):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor()


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
