"""Run folders: what a run leaves on disk.

  config.json           every flag, resolved
  provenance.json       versions, devices, threads, git commit, data sha256
  metrics.jsonl         one object a seed and epoch
  failures.jsonl        one object a seed whose loss was not finite, if any
  params/               seed0_init.npz, seed0_trained.npz, ...
  measurements.parquet  one row a value, joined from measurements/
  seconds.json          how long training and measuring took
  SHA256SUMS            checksums of all these; see `experiments.checksums`
  checkpoints/          of seeds in training; see `experiments.checkpoints`

Whoever writes holds the folder's lock (`experiments.locks`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import checksums, cli, store
from experiments.checksums import Sums
from experiments.diverging import Divergence
from experiments.errors import ExperimentError, cannot_write

STAGES = ("init", "trained")

_REMEDY = "use another --workdir or remove it"


class RunFolder:
  """One architecture trained with several seeds, on disk."""

  def __init__(self, path: Path) -> None:
    """Names a run folder; nothing is created yet."""
    self.path = path
    self.sums = Sums(path)

  # --- whose it is -----------------------------------------------------------

  def claim(
    self, config: Mapping[str, Any], provenance: Mapping[str, Any]
  ) -> None:
    """Makes the folder this run's own, or checks that it is.

    Files that are damaged are put aside as NAME.damaged, with a warning, so
    that they are made again.

    Args:
      config: data, model and training flags. `data_dir` may differ: it is the
        data's sha256 that must be the same.
      provenance: as of `store.provenance`.

    Raises:
      ExperimentError: the folder holds seeds trained with other flags or data,
        or is of an older format.
    """
    self.check_format()
    ours = _described(config, provenance)
    # Where all seeds failed, those of other flags may succeed.
    if self.holds_work() or self.sums.flags == _digest(ours):
      self._check_flags(ours, config, provenance)
      self._put_damaged_aside()
      return
    store.make_folder(self.path)
    store.remove(self.path / "failures.jsonl")
    self._write_flags(config, provenance)
    self.sums.set_flags(_digest(ours))

  def _write_flags(
    self, config: Mapping[str, Any], provenance: Mapping[str, Any]
  ) -> None:
    record = self.sums.record
    store.write_json(self.path / "provenance.json", provenance, record=record)
    store.write_json(self.path / "config.json", config, record=record)

  def holds_work(self) -> bool:
    """Whether any seed was trained here, or was being trained."""
    names = ("metrics.jsonl", "params/*.npz", "checkpoints/*.npz")
    return any(any(self.path.glob(name)) for name in names)

  def check_format(self) -> None:
    """Refuses a folder that an older version has written.

    Raises:
      ExperimentError: seeds without checksums.
    """
    if self.holds_work() and not self.sums.exist():
      raise ExperimentError(
        f"{self.path} is of an older format: nothing in it has a checksum;"
        f" {_REMEDY} (docs/faults.md says how to keep its results)"
      )

  def _check_flags(
    self,
    ours: Mapping[str, Any],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
  ) -> None:
    theirs, recorded = self._stored_flags(), self.sums.flags
    if recorded == _digest(ours):
      if theirs != ours:
        cli.warn(
          f"{self.path}: config.json or provenance.json is damaged; both are"
          " written again, with the versions of now"
        )
        self._write_flags(config, provenance)
      return
    if theirs is None:
      raise ExperimentError(
        f"{self.path} holds a run of {'other' if recorded else 'unknown'} flags"
        f" and its config.json or provenance.json is damaged: {_REMEDY}"
      )
    for name in sorted(set(ours) | set(theirs)):
      if ours.get(name) != theirs.get(name):
        raise ExperimentError(
          f"{self.path} holds a run with {name}={theirs.get(name)}, not"
          f" {ours.get(name)}: {_REMEDY}"
        )
    if recorded is not None:
      raise ExperimentError(
        f"{self.path} holds a run of other flags than its config.json says,"
        f" which was changed after the training: {_REMEDY}"
      )

  def _stored_flags(self) -> dict[str, Any] | None:
    """What is compared of the stored flags and data; None if damaged."""
    provenance = self.path / "provenance.json"
    try:
      # Not by its checksum: a user may have mended data_dir.
      config = store.read_json(self.path / "config.json")
      source = store.read_json(provenance, read=self.sums.read)
      return _described(config, source)
    except (ExperimentError, AttributeError, TypeError, KeyError):
      return None

  # --- damage ----------------------------------------------------------------

  def damaged(self) -> list[Path]:
    """Files that are there but not what was written.

    Raises:
      ExperimentError: the folder cannot be read.
    """
    if not self.sums.exist():
      return []
    flags = {self.path / "config.json", self.path / "provenance.json"}
    files = {path for path in self.sums.listed() if path.is_file()}
    for pattern in ("params/*.npz", "measurements/*.parquet", "metrics.jsonl"):
      files |= set(self.path.glob(pattern))
    return sorted(p for p in files - flags if not self.sums.whole(p))

  def _put_damaged_aside(self) -> None:
    for path in self.damaged():
      aside = path.with_name(f"{path.name}.damaged")
      try:
        path.replace(aside)
      except OSError as error:
        raise cannot_write(aside, error) from error
      cli.warn(
        f"{path} is damaged: it does not match its checksum; kept as"
        f" {aside.name}, and made again"
      )

  # --- training --------------------------------------------------------------

  def params_path(self, seed: int, stage: str) -> Path:
    """Where the parameters of a seed and stage are."""
    return self.path / "params" / f"seed{seed}_{stage}.npz"

  def load_params(self, seed: int, stage: str) -> dict[str, Any]:
    """The parameters of a seed and stage.

    Raises:
      ExperimentError: the file is missing or damaged.
    """
    return store.load_params(self.params_path(seed, stage), read=self.sums.read)

  def trained_seeds(self) -> list[int]:
    """The seeds whose training is complete, with no file damaged."""
    if not self.sums.whole(self.path / "metrics.jsonl"):
      return []
    metrics = {int(m["seed"]) for m in self.metrics()}
    return sorted(
      seed
      for seed in metrics
      if all(self.sums.whole(self.params_path(seed, s)) for s in STAGES)
    )

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl.

    Raises:
      ExperimentError: a line is damaged.
    """
    return self._lines(self.path / "metrics.jsonl")

  def _lines(self, path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; none if there is no such file."""
    if not path.exists():
      return []
    try:
      lines = self.sums.read(path).decode().splitlines()
      return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
      raise ExperimentError(f"{path} cannot be read: {error}") from error

  def failures(self) -> list[Divergence]:
    """The seeds whose training failed, in order: they are not tried again.

    Raises:
      ExperimentError: failures.jsonl is damaged.
    """
    path = self.path / "failures.jsonl"
    try:
      found = [Divergence(**line) for line in self._lines(path)]
    except TypeError as error:
      raise ExperimentError(f"{path} cannot be read: {error}") from error
    return sorted(found, key=lambda failure: failure.seed)

  def failed_seeds(self) -> set[int]:
    """The seeds whose training failed with these flags."""
    return {failure.seed for failure in self.failures()}

  def add_failure(self, failure: Divergence) -> None:
    """Stores that a seed's training failed."""
    others = [f for f in self.failures() if f.seed != failure.seed]
    text = "".join(json.dumps(f._asdict()) + "\n" for f in (*others, failure))
    path = self.path / "failures.jsonl"
    store.write_text(path, text, record=self.sums.record)

  def add_seed(
    self,
    seed: int,
    initial: Mapping[str, Any],
    trained: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]],
  ) -> None:
    """Stores a trained seed; its metrics last: they mark it complete."""
    record = self.sums.record
    store.save_params(self.params_path(seed, "init"), initial, record=record)
    store.save_params(self.params_path(seed, "trained"), trained, record=record)
    lines = [m for m in self.metrics() if m["seed"] != seed] + list(metrics)
    lines.sort(key=lambda m: (m["seed"], m["epoch"]))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    store.write_text(self.path / "metrics.jsonl", text, record=record)

  def seconds(self) -> dict[str, float]:
    """How long training and measuring took, in all."""
    path = self.path / "seconds.json"
    return store.read_json(path) if self.sums.whole(path) else {}

  def add_seconds(self, kind: str, seconds: float) -> None:
    """Adds to the time that training or measuring took."""
    total = self.seconds()
    total[kind] = round(total.get(kind, 0.0) + seconds, 1)
    store.write_json(self.path / "seconds.json", total, record=self.sums.record)

  # --- measuring -------------------------------------------------------------

  def measured_with(self, config: Mapping[str, Any]) -> bool:
    """Whether the measurements there are were made with these flags."""
    path = self.path / "measurements" / "config.json"
    return self.sums.whole(path) and store.read_json(path) == config

  def claim_measurements(self, config: Mapping[str, Any]) -> None:
    """Drops measurements made with other flags: they can be made again.

    Raises:
      ExperimentError: the folder cannot be written.
    """
    path = self.path / "measurements" / "config.json"
    if self.measured_with(config):
      return
    for part in path.parent.glob("*.parquet"):
      store.remove(part)
    store.remove(self.path / "measurements.parquet")
    store.write_json(path, config, record=self.sums.record)

  def part_path(self, seed: int, stage: str) -> Path:
    """Where one seed's and stage's measurements wait to be joined."""
    return self.path / "measurements" / f"seed{seed}_{stage}.parquet"

  def has_part(self, seed: int, stage: str) -> bool:
    """Whether a seed's and stage's measurements are there and whole."""
    return self.sums.whole(self.part_path(seed, stage))

  def add_part(self, seed: int, stage: str, table: pd.DataFrame) -> None:
    """Stores one seed's and stage's measurements."""
    store.write_table(
      self.part_path(seed, stage), table, record=self.sums.record
    )

  def join_measurements(self, parts: Iterable[tuple[int, str]]) -> pd.DataFrame:
    """Joins the parts into measurements.parquet.

    Args:
      parts: (seed, stage) of each, in the order of the table.

    Returns:
      The table.

    Raises:
      ExperimentError: a part is missing or damaged.
    """
    tables = [
      store.read_table(self.part_path(*part), read=self.sums.read)
      for part in parts
    ]
    table = pd.concat(tables, ignore_index=True)
    store.write_table(
      self.path / "measurements.parquet", table, record=self.sums.record
    )
    return table


def _described(
  config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> dict[str, Any]:
  """The flags and data that seeds of one run have in common."""
  flat = {}
  for section, fields in config.items():
    for name, value in fields.items():
      if name != "data_dir":
        flat[f"{section}.{name}"] = value
  for name in ("train_sha256", "test_sha256"):
    flat[name] = provenance["data"].get(name)
  return flat


def _digest(described: Mapping[str, Any]) -> str:
  return checksums.digest(json.dumps(described, sort_keys=True).encode())
