"""What the transformation does to the network's answer."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from analysis.measures import base


class _State(NamedTuple):
  hits: Any  # (t,)
  images: Any


def _init(shapes: base.OrbitBatch) -> _State:
  return _State(jnp.zeros(base.orbit_size(shapes)), jnp.zeros(()))


def _count(state: _State, hits: Any, weight: Any) -> _State:
  return _State(
    state.hits + hits.astype(jnp.float32) @ weight,
    state.images + weight.sum(),
  )


def _update_accuracy(state: _State, batch: base.OrbitBatch) -> _State:
  top1 = jnp.argmax(batch.transformed_output, axis=-1)
  return _count(state, top1 == batch.labels[None], batch.weight)


def _update_consistency(state: _State, batch: base.OrbitBatch) -> _State:
  top1 = jnp.argmax(batch.transformed_output, axis=-1)
  unmoved = jnp.argmax(batch.output, axis=-1)
  return _count(state, top1 == unmoved[None], batch.weight)


def _rows(measure: str, state: _State) -> list[base.Row]:
  shares = np.asarray(state.hits, np.float64) / float(state.images)
  return [
    base.Row("output", measure, float(share), element)
    for element, share in enumerate(shares)
  ]


accuracy = base.Measure(
  _init,
  _update_accuracy,
  lambda state: _rows("accuracy", state),
  name="accuracy",
  needs=frozenset({"output", "labels"}),
)
"""Share of transformed images whose top-1 class is right, for each t.

0 to 1. Of equal logits the first counts as the top. Accuracy is no measure of
invariance: a network can be consistently wrong.
"""

consistency = base.Measure(
  _init,
  _update_consistency,
  lambda state: _rows("consistency", state),
  name="consistency",
  needs=frozenset({"output"}),
)
"""Share of images whose top-1 class is the same with and without t.

0 to 1, 1 at perfect invariance of the decision. A perfect classifier is
consistent, and so is a constant one: read it beside the accuracy.

Source: R. Zhang, "Making convolutional networks shift-invariant again", ICML
2019 (there over random pairs of shifts).
"""
