"""One measure on given arrays, in padded batches as the pass cuts them."""

import jax
import jax.numpy as jnp
import numpy as np

from analysis.measures import Elements, OrbitBatch, Shapes, Statistics


def rows(
  measure, reference, transformed, size, *, labels=None, thresholds=None
):
  """The measure's rows; a ragged last batch is filled up with garbage.

  Args:
    measure: a `Measure` that needs no maps and no images.
    reference: (n, u).
    transformed: (t, n, u).
    size: images a batch.
    labels: (n,) classes.
    thresholds: (2, u) of `Statistics`.

  Returns:
    {(row's measure, element): row}.
  """
  elements, count, units = transformed.shape
  shapes = Shapes(elements, units, None, 0, count, size, None)
  known = Statistics(_f4(reference.mean(axis=0)), thresholds)
  nothing = jnp.zeros(elements)
  numbers = Elements(jnp.arange(1.0, elements + 1), *[nothing] * 2)
  labels = np.full(count, -1) if labels is None else np.asarray(labels)
  state, update = measure.init(shapes), jax.jit(measure.update)
  for start in range(0, count, size):
    index = np.arange(start, start + size, dtype=np.int32)
    real = index < count
    at = np.where(real, index, start)
    before = np.where(real[:, None], reference[at], 7)
    after = np.where(real[None, :, None], transformed[:, at], -9)
    batch = OrbitBatch(
      reference=_f4(before),
      transformed=_f4(after),
      aligned=None,
      action=None,
      images=None,
      tangents=None,
      aligned_tangents=None,
      elements=numbers,
      statistics=known,
      labels=jnp.asarray(labels[at], jnp.int32),
      weight=_f4(real),
      index=jnp.asarray(index),
    )
    state = update(state, batch)
  found = measure.finalize(jax.device_get(state))
  return {(row.measure, row.element): row for row in found}


def _f4(values):
  return jnp.asarray(values, jnp.float32)
