"""Second moments of one layer for linear maps, added up on the host."""

from typing import Any

import numpy as np

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
    self._shapes = shapes
    self._at = at
    self._sums = [np.zeros(size) for size in linear_map.sizes(shapes)]
    self._waiting: list[list[tuple[np.ndarray, ...]]] = [[], []]

  def add(self, r: Any, moved: Any, aligned: Any, index: Any) -> None:
    """Adds a step.

    Args:
      r: (b, u) activations of the untransformed images.
      moved: (t, b, s, c) f(t x) at the positions.
      aligned: (t, b, s, c) t^-1 f(t x).
      index: (b,) which image of the data set each is.
    """
    channels = self._shapes.channels
    if self._shapes.action is None:
      own = regressors = r[:, None] - self._mean
    else:
      height, width = self._shapes.positions or (1, 1)
      maps = r.reshape(-1, height, width, channels) - self._mean
      own = maps.reshape(len(maps), -1, channels)[:, self._at]
      regressors = linear_map.neighbourhoods(maps, self._at)
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

    def joined(parts: Any, axis: int) -> np.ndarray:
      return np.concatenate(parts, axis, dtype=np.float64)

    phi = joined(regressors, 0)
    new = linear_map.moments(
      phi,
      joined(own, 0),
      joined(moved, 1) - self._mean,
      joined(aligned, 1) - self._mean,
      np.ones(len(phi)),
    )
    for total, part in zip(self._sums, new, strict=True):
      total[half] += part

  def total(self) -> list[np.ndarray]:
    """The sums of all images so far, in the order of the measure's state."""
    for half in (0, 1):
      self._multiply(half)
    return self._sums
