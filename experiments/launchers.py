"""Where the cells of a study are done: here, or by the workers of a cluster.

A launcher is a function of what is left to do, the images and the bar. Cells
are independent, so that it may do them in any order and place; what it leaves
in the run folders is the same, as each is done by `experiments.cells.do`.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence

from experiments import cells
from experiments.cells import Task, Work
from experiments.config import LaunchConfig
from experiments.datasets import Dataset
from experiments.errors import ExperimentError, UsageError
from experiments.progress import Progress

Launcher = Callable[[Sequence[Work], Dataset, Progress], None]


def local(works: Sequence[Work], dataset: Dataset, bar: Progress) -> None:
  """Does one cell after another in this process."""
  for work in works:
    cells.do(work, dataset, bar)


def choose(config: LaunchConfig) -> Launcher:
  """The launcher that the flags ask for.

  Raises:
    UsageError: an unknown one, or flags that do not fit it.
    ExperimentError: what it needs is not installed.
  """
  if config.launcher == "local":
    return local
  if config.launcher != "ray":
    raise UsageError(
      f"--launcher={config.launcher} is unknown; known are local, ray"
    )
  if config.task_count or config.task_index >= 0:
    raise UsageError(
      "--launcher=ray and --task_index exclude each other: one shares the cells"
      " among a cluster's workers, the other among processes of their own; give"
      " one"
    )
  _check_ray(config)
  from experiments import ray_cluster

  return functools.partial(ray_cluster.launch, config=config)


def _check_ray(config: LaunchConfig) -> None:
  for name in ("cell_cpus", "max_retries"):
    value = getattr(config, name)
    if value < 0:
      raise UsageError(f"--{name}={value} is negative")
  if config.ray_address.startswith("ray://"):
    raise UsageError(
      f"--ray_address={config.ray_address} is a Ray Client's: run the command"
      " on a node of the cluster and give HOST:PORT or auto"
    )
  if importlib.util.find_spec("ray") is None:
    raise ExperimentError(
      "--launcher=ray needs Ray, which is not installed: pip install -r"
      " requirements-ray.txt"
    )


def task(config: LaunchConfig) -> Task | None:
  """The share of the cells that the flags ask for; None for all.

  Raises:
    UsageError: one of the two flags without the other, or out of range.
  """
  index, count = config.task_index, config.task_count
  if index == -1 and count == 0:
    return None
  if count == 0:
    raise UsageError(
      f"--task_index={index} needs --task_count, the number of tasks"
    )
  if count < 0:
    raise UsageError(f"--task_count={count} is not 1 or more")
  if index == -1:
    raise UsageError(
      f"--task_count={count} needs --task_index, 0 to {count - 1}; leave both"
      " out to do what is left and write the tables"
    )
  if not 0 <= index < count:
    raise UsageError(
      f"--task_index={index} is not one of the {count} tasks, 0 to"
      f" {count - 1}: number them from 0, as sbatch --array=0-{count - 1} does"
    )
  return Task(index, count)
