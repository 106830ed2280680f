"""Second moments of one layer for linear maps, added up on the host."""

from typing import Any

import numpy as np

from analysis.kernels import linear
from analysis.measures import base, linear_map

# Samples of a half before they are multiplied: few at a time waste the time
# that the matrices take to go through memory.
_ENOUGH = 512


class LinearSums:
  """What `analysis.measures.linear_map` fits to, summed over a pass."""

  def __init__(
    self, shapes: base.Shapes, at: np.ndarray, statistics: base.Statistics
  ) -> None:
    """Sums of nothing.

    Args:
      shapes: of the layer.
      at: (s,) positions that samples are taken at.
      statistics: of the layer.
    """
    mean = np.asarray(statistics.mean, np.float64)
    mean = mean.reshape(-1, shapes.channels).mean(0)
    # In float32, which a constant layer's mean is without rounding.
    self._mean = mean.astype(np.float32).astype(np.float64)
    self._channels = shapes.channels
    self._at, self._map = at, shapes.action is not None
    self._sums = [np.zeros(size) for size in linear_map.sizes(shapes)]
    self._waiting: list[list[tuple[np.ndarray, ...]]] = [[], []]
    # Which positions are neighbours, in the order of `neighbourhoods`.
    height, width = shapes.positions or (1, 1)
    numbers = np.arange(1, height * width + 1, dtype=np.int64)
    near = linear_map.neighbourhoods(numbers.reshape(1, height, width, 1), at)
    self._near, self._inside = np.maximum(near[0] - 1, 0), near[0] > 0

  def add(self, r: Any, moved: Any, aligned: Any, index: Any) -> None:
    """Adds a step.

    Args:
      r: (b, u) activations of the untransformed images.
      moved: (t, b, s, c) f(t x) at the positions.
      aligned: (t, b, s, c) t^-1 f(t x).
      index: (b,) which image of the data set each is.
    """
    own = regressors = r[:, None]
    if self._map:
      maps = r.reshape(len(r), -1, self._channels)
      own, regressors = maps[:, self._at], maps[:, self._near]
    for half in (0, 1):
      of = index % 2 == half
      if not of.any():
        continue
      self._waiting[half].append(
        (regressors[of], own[of], moved[:, of], aligned[:, of])
      )
      waiting = sum(len(part[0]) for part in self._waiting[half])
      if waiting * len(self._at) >= _ENOUGH:
        self._multiply(half)

  def _multiply(self, half: int) -> None:
    if not self._waiting[half]:
      return
    regressors, own, moved, aligned = zip(*self._waiting[half], strict=True)
    self._waiting[half] = []
    phi = self._regressors(np.concatenate(regressors))
    elements, samples = len(moved[0]), len(phi)
    shape = (elements, samples, self._channels)
    targets = np.empty((samples, elements, self._channels))
    powers = np.zeros((4, elements))
    totals = np.zeros((2, elements, self._channels))
    linear.add_targets(
      np.concatenate(moved, 1).reshape(shape),
      np.concatenate(aligned, 1).reshape(shape),
      np.concatenate(own).reshape(shape[1:]),
      self._mean,
      targets,
      powers,
      totals,
    )
    new = [
      phi.T @ phi,
      phi.T @ targets.reshape(samples, -1),
      powers[0],
      totals[0],
      *powers[1:],
      totals[1],
      samples,
    ]
    for total, part in zip(self._sums, new, strict=True):
      total[half] += part

  def _regressors(self, values: np.ndarray) -> np.ndarray:
    """(n, k) of all samples: less the mean, 0 outside the map, and a 1."""
    if self._map:
      centred = (values - self._mean) * self._inside[..., None]
    else:
      centred = values - self._mean
    samples = centred.shape[0] * centred.shape[1]
    phi = np.ones((samples, centred[0, 0].size + 1))
    phi[:, :-1] = centred.reshape(samples, -1)
    return phi

  def total(self) -> list[np.ndarray]:
    """The sums of all images so far, in the order of the measure's state."""
    for half in (0, 1):
      self._multiply(half)
    return self._sums
