"""The one place that divides training among devices.

Seeds come first: they never talk to each other. The devices that are left when
every seed has one divide the images of each batch, and what is left then, which
a batch cannot be cut into, repeats the others' work. So 8 devices train

  8 or 16 seeds   1 or 2 a device
  4 seeds         each on 2 devices, half a batch on each
  3 seeds         in turn or side by side, an eighth of a batch on each

Global batches, their order, random numbers and the statistics of batch
normalisation are those of one device: the compiler divides the computation of a
whole batch, nobody rewrites it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_SEEDS, _BATCH, _COPIES = "seeds", "batch", "copies"


class Layout(NamedTuple):
  """How devices share the work; build with `lay_out`.

  Attributes:
    mesh: the devices along the axes seeds, batch and copies; None for jax's
      default device alone.
  """

  mesh: Mesh | None = None

  @property
  def seeds(self) -> int:
    """Among how many devices the seeds are divided."""
    return 1 if self.mesh is None else self.mesh.shape[_SEEDS]

  @property
  def batch(self) -> int:
    """Among how many devices the images of a batch are divided."""
    return 1 if self.mesh is None else self.mesh.shape[_BATCH]

  def spread(self, function: Callable, seeded: int) -> Callable:
    """Runs a function on every part of the seeds; to be compiled.

    Args:
      function: of arrays whose leading axis are some of the seeds, then of
        arrays that all seeds share; returns arrays with that leading axis.
      seeded: how many arguments are of the first kind.

    Returns:
      The function of all seeds.
    """
    assert self.mesh is not None

    def call(*args: Any) -> Any:
      kinds = [PartitionSpec(_SEEDS)] * seeded
      kinds += [PartitionSpec()] * (len(args) - seeded)
      return jax.shard_map(
        function,
        mesh=self.mesh,
        in_specs=tuple(kinds),
        out_specs=PartitionSpec(_SEEDS),
        axis_names={_SEEDS},  # the others are the compiler's
        check_vma=False,
      )(*args)

    return call

  def split(self, batch: Any) -> Any:
    """Divides images, inside `spread`; whole where they do not divide."""
    if self.batch == 1 or batch.shape[0] % self.batch:
      return batch
    return lax.with_sharding_constraint(batch, PartitionSpec(_BATCH))

  def seeded(self, array: np.ndarray) -> Any:
    """An array on the devices, its leading axis the seeds."""
    return self._placed(array, PartitionSpec(_SEEDS))

  def copied(self, array: np.ndarray) -> Any:
    """An array that every device holds."""
    return self._placed(array, PartitionSpec())

  def _placed(self, array: np.ndarray, spec: PartitionSpec) -> Any:
    if self.mesh is None:
      return jax.numpy.asarray(array)
    # Each process puts there what its own devices need: nothing is sent.
    return jax.make_array_from_callback(
      array.shape, NamedSharding(self.mesh, spec), lambda part: array[part]
    )

  def fetch(self, tree: Any) -> Any:
    """Arrays on the host, whole in every process; all must ask for them.

    Copies: the next step may reuse the memory on the device.
    """
    if self.mesh is not None and self.mesh.is_multi_process:
      tree = _gather(self.mesh)(tree)
    host = jax.device_get(tree)  # all leaves at once
    return jax.tree.map(lambda a: np.array(a, copy=True), host)


ALONE = Layout()


@functools.cache
def _gather(mesh: Mesh) -> Callable:
  """Compiled once: copies arrays to every device."""
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.jit(lambda tree: tree, out_shardings=whole)


def lay_out(
  devices: Sequence[Any] | None, seeds: int, batch_size: int
) -> Layout:
  """Divides devices among seeds, then among the images of a batch.

  Args:
    devices: all of them, neighbours near each other; None or one for jax's
      default device.
    seeds: number of seeds.
    batch_size: images a step.

  Returns:
    The layout. Seeds and batches divide evenly in it.
  """
  count = len(devices or ())
  if count < 2:
    return ALONE
  along_seeds = math.gcd(count, seeds)
  along_batch = math.gcd(count // along_seeds, batch_size)
  grid = np.asarray(devices).reshape(along_seeds, along_batch, -1)
  # Explicit axes, which some versions of jax make, would ask for the sharding
  # of every operation.
  return Layout(
    Mesh(grid, (_SEEDS, _BATCH, _COPIES), axis_types=(AxisType.Auto,) * 3)
  )
