"""Sums over samples that linear maps are judged by."""

import numba
import numpy as np

from analysis.kernels import FAST


@numba.njit(**FAST)
def _add_sample(moved, aligned, own, mean, target, totals):
  """Fills the target of a sample; gives four sums of squares."""
  one, two, three, four = 0.0, 0.0, 0.0, 0.0
  for k in range(mean.size):
    centre, f = mean[k], np.float64(own[k])
    a, m = np.float64(aligned[k]), np.float64(moved[k])
    target[k] = a - centre
    totals[0, k] += a - centre
    totals[1, k] += m - centre
    one += (a - centre) * (a - centre)
    two += (m - f) * (m - f)
    three += (a - f) * (a - f)
    four += (m - centre) * (m - centre)
  return one, two, three, four


@numba.njit(**FAST)
def add_targets(moved, aligned, own, mean, targets, powers, totals):
  """What regressors are multiplied by, and sums over samples, in float64.

  Args:
    moved: (t, n, c) f(t x) of n samples.
    aligned: (t, n, c) t^-1 f(t x).
    own: (n, c) f(x).
    mean: (c,) of f(x).
    targets: (n, t, c) to fill with t^-1 f(t x) less the mean.
    powers: (4, t) sums of squares: of the targets, of f(t x) - f(x), of
      t^-1 f(t x) - f(x), and of f(t x) less the mean.
    totals: (2, t, c) sums of the targets and of f(t x) less the mean.
  """
  for t in range(moved.shape[0]):
    for i in range(moved.shape[1]):
      squares = _add_sample(
        moved[t, i], aligned[t, i], own[i], mean, targets[i, t], totals[:, t]
      )
      for s in range(4):
        powers[s, t] += squares[s]
