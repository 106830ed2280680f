"""The launcher that gives a study's cells to the workers of a Ray cluster.

A cell is a task of Ray's. Images go to each node once, through Ray's object
store; what a worker writes comes back as bytes while it works, and is written
here, so that nodes need no file system in common. A cell whose worker or node
is lost is begun again with what is not yet here. Its own errors end the study,
as they do in one process.
"""

import contextlib
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import cells, locks, mirror, ray_worker, runs
from experiments.cells import Work
from experiments.config import LaunchConfig
from experiments.datasets import Dataset
from experiments.errors import ExperimentError, UsageError
from experiments.progress import Progress
from experiments.ray_worker import Report

_SOURCE = ("models", "analysis", "experiments")
_POLL = 2.0  # seconds
# Seconds without a node that could do what is left, before giving up.
_PATIENCE = 60.0
_KNOCK = 10.0  # seconds for a cluster to take a connection

# Ray reads these when it is imported or started.
_QUIET = {
  "RAY_USAGE_STATS_ENABLED": "0",
  "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# The default on macOS and Windows: listen to this machine alone. Elsewhere Ray
# would open ports to the network, on which anyone could run code.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Node(NamedTuple):
  """What a machine of the cluster has to give."""

  cpus: float
  gpus: float
  memory: float


class Needs(NamedTuple):
  """What a cell takes of a machine."""

  cpus: int
  gpus: int
  memory: int

  def fit(self, node: Node) -> bool:
    """Whether a machine has as much."""
    return all(need <= has for need, has in zip(self, node, strict=True))


class _Cell:
  """A cell that is being done, or waits for a worker."""

  def __init__(self, work: Work, needs: Needs) -> None:
    self.needs = needs
    self.reports: Any = None  # Ray's generator of references to reports
    self.losses = 0
    self.begin(work)

  def begin(self, work: Work) -> None:
    """Sets the counts of what the bar was told to nothing."""
    self.work = work
    self.advanced = 0.0
    self.started = 0


def launch(
  works: Sequence[Work], dataset: Dataset, bar: Progress, config: LaunchConfig
) -> None:
  """Does the cells on a Ray cluster.

  Args:
    works: what is left to do of each.
    dataset: the images.
    bar: what shows how far it is.
    config: which cluster, and how much of it a cell takes.

  Raises:
    UsageError: no node has what a cell is to take.
    ExperimentError: no cluster at the address, a cell that failed, or whose
      workers were lost too often.
  """
  with contextlib.ExitStack() as stack:
    for work in works:
      stack.enter_context(locks.holding(work.cell.run.folder.path))
    ray = stack.enter_context(_connected(config, dataset))
    _Study(ray, dataset, bar, config).do(works)


@contextlib.contextmanager
def _connected(config: LaunchConfig, dataset: Dataset) -> Iterator[Any]:
  """The module ray, connected; disconnected at the end, with all tasks ended.

  Raises:
    ExperimentError: no cluster at the address.
  """
  address = config.ray_address or os.environ.get("RAY_ADDRESS") or "local"
  alone = address == "local"
  _check_open(address)
  for name, value in (_QUIET | (_ALONE if alone else {})).items():
    os.environ.setdefault(name, value)
  import ray

  images = sum(s.images.nbytes for s in (dataset.train, dataset.test))
  own: dict[str, Any] = {
    "include_dashboard": False,
    "object_store_memory": 2 * images + (256 << 20),
  }
  root = Path(__file__).parent.parent
  try:
    with warnings.catch_warnings():
      # Ray forks to start programs, which jax warns of in general.
      warnings.filterwarnings("ignore", r"os\.fork\(\)", RuntimeWarning)
      ray.init(
        address=address,
        runtime_env={
          "py_modules": [str(root / name) for name in _SOURCE],
          "excludes": ["__pycache__"],
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
        **(own if alone else {}),
      )
  except (ConnectionError, RuntimeError, ValueError) as error:
    raise _no_cluster(address, str(error).splitlines()[0]) from error
  try:
    yield ray
  finally:
    ray.shutdown()


def _check_open(address: str) -> None:
  """Knocks at an address HOST:PORT, where Ray would try for minutes.

  Raises:
    ExperimentError: nothing listens there.
  """
  found = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
  if not found:  # "local", "auto", or of another protocol
    return
  host, port = found.groups()
  try:
    socket.create_connection((host, int(port)), timeout=_KNOCK).close()
  except (OSError, OverflowError) as error:
    raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ExperimentError:
  return ExperimentError(
    f"--ray_address={address}: {reason}; start a cluster with ray start"
    " --head, or leave the flag out to use this machine alone"
  )


class _Study:
  """The cells of a study on a cluster."""

  def __init__(
    self, ray: Any, dataset: Dataset, bar: Progress, config: LaunchConfig
  ) -> None:
    self._ray = ray
    self._dataset = dataset
    self._bar = bar
    self._config = config
    self._images = ray.put(dataset)
    self._serve = ray.remote(ray_worker.serve)
    self._active: list[_Cell] = []
    self._idle_since = time.monotonic()

  def do(self, works: Sequence[Work]) -> None:
    """Does all, the longest first."""
    nodes = _nodes(self._ray)
    for work in sorted(works, key=self._cost, reverse=True):
      memory = runs.expected_bytes(work.cell.run, self._dataset)
      self._submit(_Cell(work, fitted(nodes, self._config, memory)))
    while self._active:
      ready, _ = self._ray.wait(
        [cell.reports for cell in self._active], timeout=_POLL
      )
      if not ready:
        self._check_nodes()
      for cell in [c for c in self._active if c.reports in ready]:
        self._listen(cell)

  def _cost(self, work: Work) -> float:
    return cells.cost(work, self._dataset)

  def _submit(self, cell: _Cell) -> None:
    needs = cell.needs
    serve = self._serve.options(
      name=cell.work.cell.name,
      num_cpus=needs.cpus,
      num_gpus=needs.gpus,
      memory=needs.memory,
      max_retries=0,  # Ray would begin with what was missing at first
      num_returns="streaming",
      runtime_env={"env_vars": {"NPROC": str(_threads(needs))}},
    )
    cell.reports = serve.remote(ray_worker.order(cell.work), self._images)
    self._active.append(cell)

  def _listen(self, cell: _Cell) -> None:
    """Takes one report of a cell.

    Raises:
      ExperimentError: the cell failed.
    """
    self._idle_since = time.monotonic()
    errors = self._ray.exceptions
    try:
      report = self._ray.get(next(cell.reports))
    except StopIteration:
      self._active.remove(cell)
    except (
      errors.WorkerCrashedError,
      errors.NodeDiedError,
      errors.LocalRayletDiedError,
      errors.ObjectLostError,
      errors.OutOfMemoryError,
    ) as error:
      self._active.remove(cell)
      self._again(cell, error)
    except errors.RayError as error:
      raise ExperimentError(
        f"cell {cell.work.cell.name!r}: its worker failed:"
        f" {str(error).splitlines()[-1]}"
      ) from error
    else:
      self._take(cell, report)

  def _take(self, cell: _Cell, report: Report) -> None:
    match report:
      case Report("changed", changes):
        folder = cell.work.cell.run.folder
        mirror.apply(folder.path, changes, folder.sums)
      case Report("failed", error):
        raise error
      case Report("start", what):
        cell.started += 1
        self._bar.start(what)
      case Report("compiling", cost):
        cell.advanced += cost
        self._bar.compiling(cost)
      case Report("advance", cost):
        cell.advanced += cost
        self._bar.advance(cost)

  def _again(self, cell: _Cell, error: Exception) -> None:
    """Begins a cell again, with what is not here yet.

    Raises:
      ExperimentError: it was lost too often.
    """
    cell.losses += 1
    if cell.losses > self._config.max_retries:
      raise ExperimentError(
        f"cell {cell.work.cell.name!r}: its worker was lost {cell.losses}"
        f" times, at last: {str(error).splitlines()[0]} The same command"
        " continues; give it other nodes, more memory or --max_retries"
      ) from error
    with contextlib.suppress(Exception):  # of a worker that is half lost
      self._ray.cancel(cell.reports, force=True)
    self._bar.say(
      f"cell {cell.work.cell.name!r}: its worker was lost; it is begun again"
    )
    left = cells.still_missing(cell.work)
    kept = self._cost(cell.work) - self._cost(left)
    finished = cells.jobs(cell.work) - cells.jobs(left)
    self._bar.undo(
      max(cell.advanced - kept, 0.0), max(cell.started - finished, 0)
    )
    if cells.jobs(left):
      # The cluster has to notice that a node is gone.
      time.sleep(_POLL * cell.losses)
      cell.begin(left)
      self._submit(cell)

  def _check_nodes(self) -> None:
    """Gives up where nothing is left that could do the cells.

    Raises:
      ExperimentError: for a minute no node had what one takes.
    """
    now = time.monotonic()
    nodes = _nodes(self._ray)
    if all(any(map(c.needs.fit, nodes)) for c in self._active):
      self._idle_since = now
    elif now - self._idle_since > _PATIENCE:
      raise ExperimentError(
        "no node of the Ray cluster is left that could do what is left to do:"
        " start one, and the same command continues"
      )


def _nodes(ray: Any) -> list[Node]:
  return [
    Node(
      node["Resources"].get("CPU", 0.0),
      node["Resources"].get("GPU", 0.0),
      node["Resources"].get("memory", 0.0),
    )
    for node in ray.nodes()
    if node["Alive"]
  ]


def fitted(nodes: Sequence[Node], config: LaunchConfig, memory: int) -> Needs:
  """What a cell takes, so that some node has it.

  Args:
    nodes: of the cluster, those alive.
    config: the flags.
    memory: about what the cell needs, in bytes; all of the largest node's if
      none has as much.

  Returns:
    Cores, GPUs (one, where the cluster has any) and bytes.

  Raises:
    UsageError: no node has --cell_cpus.
    ExperimentError: no node has a core.
  """
  gpus = int(any(node.gpus >= 1 for node in nodes))
  able = [node for node in nodes if node.cpus >= 1 and node.gpus >= gpus]
  if not able:
    raise ExperimentError(
      "no node of the Ray cluster has a CPU core to give: add one with ray"
      " start --address=HOST:PORT"
    )
  most = int(max(node.cpus for node in able))
  if config.cell_cpus > most:
    raise UsageError(
      f"--cell_cpus={config.cell_cpus}: the largest node of the Ray cluster has"
      f" {most}"
    )
  cpus = config.cell_cpus or min(_wanted_threads() or 2, most)
  largest = max(node.memory for node in able if node.cpus >= cpus)
  return Needs(cpus, gpus, int(min(memory, largest)))


def _wanted_threads() -> int:
  """NPROC, or 0 if it is not set."""
  wanted = os.environ.get("NPROC", "")
  return int(wanted) if wanted.isdigit() else 0


def _threads(needs: Needs) -> int:
  """A worker's: as many as here, for the same bits, or as it has cores."""
  return _wanted_threads() or needs.cpus
