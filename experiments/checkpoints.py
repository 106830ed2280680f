"""Checkpoints: where training stands, so that a kill costs an epoch at most.

One file for the seeds that are trained together, in a run's `checkpoints/`:
everything that a step changes, the metrics so far and the number of epochs
done. It is an npz file followed by its own sha256, written whole or not at
all, and goes when the seeds are complete. What is resumed ends with the same
bits as what was never interrupted.

Epochs shorter than a second are not worth a file each: at most one epoch is
lost, or one second of training, or twenty times what writing takes here,
whichever is longest.
"""

import hashlib
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cli, store

FOLDER = "checkpoints"

_EVERY = 1.0  # seconds
_SHARE = 1 / 20  # of the time, for writing

_DIGEST = hashlib.sha256().digest_size
_ABOUT = "about"


class Checkpoint(NamedTuple):
  """Where the training of some seeds stands.

  Attributes:
    seeds: trained together, in the order of the state's leading axis.
    epochs: number of epochs done.
    state: the trainer's state; its leaves, on the host, before it is `placed`.
    metrics: a list a seed of what metrics.jsonl will say of each epoch.
    seconds: how long it took so far.
  """

  seeds: list[int]
  epochs: int
  state: Any
  metrics: list[list[dict[str, Any]]]
  seconds: float


class Checkpoints:
  """The checkpoints of a run."""

  def __init__(
    self,
    run: Path,
    identity: str,
    *,
    every: float = _EVERY,
    share: float = _SHARE,
  ):
    """Names the run's checkpoints.

    Args:
      run: the run folder.
      identity: flags and strategy; a checkpoint of others is not used.
      every: seconds of training from one to the next, at least.
      share: of the time that writing may take, at most.
    """
    self._folder = run / FOLDER
    self._identity = identity
    self._every = self._pause = every
    self._share = share
    self._saved = self._started = time.perf_counter()
    self._before = 0.0

  def groups(self, seeds: Sequence[int], at_once: int) -> list[list[int]]:
    """How to go on: the seeds that are trained together.

    Args:
      seeds: those that are missing.
      at_once: how many seeds without a checkpoint are trained together.

    Returns:
      Those of each checkpoint, which may include seeds that are not missing:
      the same seeds together give the same bits. Then the rest.
    """
    stored = map(self._about, sorted(self._folder.glob("*.npz")))
    groups = [a["seeds"] for a in stored if a and set(a["seeds"]) & set(seeds)]
    rest = [s for s in seeds if not any(s in group for group in groups)]
    starts = range(0, len(rest), at_once)
    groups += [rest[start : start + at_once] for start in starts]
    order = {seed: i for i, seed in enumerate(seeds)}
    return sorted(groups, key=lambda g: min(order[s] for s in g if s in order))

  def tidy(self, complete: Sequence[int]) -> None:
    """Removes checkpoints of complete seeds and those that are of no use."""
    for path in sorted(self._folder.glob("*.npz")):
      about = self._about(path)
      if about is None or set(about["seeds"]) <= set(complete):
        self._remove(path)

  def load(self, seeds: Sequence[int], like: Any) -> Checkpoint | None:
    """The checkpoint of some seeds, if there is one; starts the clock.

    Args:
      seeds: those that are trained together.
      like: a state of the same structure, on the device.

    Returns:
      The checkpoint with a state like that one, or None.
    """
    found = self.find(seeds, like)
    return None if found is None else placed(found, like)

  def find(self, seeds: Sequence[int], like: Any) -> Checkpoint | None:
    """As `load`, with the state's leaves on the host."""
    self._saved = self._started = time.perf_counter()
    self._before = 0.0
    path = self._path(seeds)
    arrays = self._read(path)
    if arrays is None:
      return None
    about = _parsed(arrays)
    leaves = jax.tree.leaves(like)
    if about["seeds"] != list(seeds) or about["state"] != _described(leaves):
      cli.warn(f"{path} is of another version; its seeds start again")
      return None
    self._before = about["seconds"]
    return Checkpoint(
      about["seeds"],
      about["epochs"],
      [arrays[f"leaf{i}"] for i in range(len(leaves))],
      about["metrics"],
      about["seconds"],
    )

  def due(self) -> bool:
    """Whether enough was done since the last one to write another."""
    return time.perf_counter() - self._saved >= self._pause

  def save(
    self,
    seeds: Sequence[int],
    epochs: int,
    state: Any,
    metrics: Sequence[Sequence[dict[str, Any]]],
  ) -> None:
    """Writes the checkpoint of some seeds in place of the one before.

    Args:
      seeds: those that are trained together.
      epochs: number of epochs done.
      state: the trainer's state, on the device or the host.
      metrics: a list a seed of what metrics.jsonl will say of each epoch.

    Raises:
      ExperimentError: it cannot be written.
    """
    start = time.perf_counter()
    leaves = [
      np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(state))
    ]
    about = {
      "identity": self._identity,
      "seeds": list(seeds),
      "epochs": epochs,
      "state": _described(leaves),
      "metrics": [list(m) for m in metrics],
      "seconds": self._before + start - self._started,
    }
    content = store.npz(
      {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
      | {_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    )
    digest = hashlib.sha256(content).digest()
    store.write_bytes(self._path(seeds), content + digest)
    self._saved = time.perf_counter()
    taken = self._saved - start
    self._pause = max(self._every, taken / self._share)

  def drop(self, seeds: Sequence[int]) -> None:
    """Removes the checkpoint of seeds that are complete, or have failed."""
    self._remove(self._path(seeds))

  def seconds_before(self) -> float:
    """How long the seeds were trained before they were resumed; once."""
    seconds, self._before = self._before, 0.0
    return seconds

  def _path(self, seeds: Sequence[int]) -> Path:
    last = f"_to_{seeds[-1]}" if len(seeds) > 1 else ""
    return self._folder / f"seed{seeds[0]}{last}.npz"

  def _remove(self, path: Path) -> None:
    store.remove(path)
    if self._folder.exists() and not any(self._folder.iterdir()):
      self._folder.rmdir()

  def _about(self, path: Path) -> dict[str, Any] | None:
    arrays = self._read(path)
    return None if arrays is None else _parsed(arrays)

  def _read(self, path: Path) -> dict[str, np.ndarray] | None:
    """A checkpoint's arrays; None, with a warning, if it cannot be used."""
    try:
      content = path.read_bytes()
      body, digest = content[:-_DIGEST], content[-_DIGEST:]
      if hashlib.sha256(body).digest() != digest:
        raise ValueError("it does not match its checksum")
      arrays = store.arrays_of(body)
      if _parsed(arrays)["identity"] != self._identity:
        raise ValueError("it is of other flags")
    except FileNotFoundError:
      return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
      cli.warn(f"{path} is not used: {error}; its seeds start again")
      return None
    return arrays


def _parsed(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  return json.loads(arrays[_ABOUT].tobytes())


def _described(leaves: Sequence[Any]) -> list[str]:
  return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]


def placed(found: Checkpoint, like: Any) -> Checkpoint:
  """A checkpoint with its state on the devices, where another lies."""
  leaves, structure = jax.tree.flatten(like)
  state = [
    _placed(a, leaf) for a, leaf in zip(found.state, leaves, strict=True)
  ]
  return found._replace(state=jax.tree.unflatten(structure, state))


def _placed(array: np.ndarray, like: jax.Array) -> jax.Array:
  """An array on the device, where another lies."""
  typed = array.view(like.dtype)  # npz knows no bfloat16
  if len(like.sharding.device_set) > 1:
    # Each process puts there what its own devices need.
    return jax.make_array_from_callback(
      typed.shape, like.sharding, lambda part: typed[part]
    )
  return jax.numpy.array(typed)  # uncommitted, as those of a first step
