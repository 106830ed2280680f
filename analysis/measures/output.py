"""What the transformation does to the network's answer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis.measures import base, sums

_NAN = float("nan")


class _State(NamedTuple):
  """Counts of images, all and by whether the untransformed answer is right.

  Axis `3` is (all, right, wrong).
  """

  images: Any  # (3,)
  right: Any  # (t,) transformed images whose top-1 class is the label
  agreeing: Any  # (3, t) whose top-1 class is as without the transformation
  pairs: Any  # (3,) pairs of elements with the same top-1 class
  before: Any  # (k,) images by top-1 class
  after: Any  # (t, k)


def _init(shapes: base.Shapes) -> _State:
  t, k = shapes.elements, shapes.units
  zeros = sums.zeros
  return _State(
    zeros(3), zeros(t), zeros(3, t), zeros(3), zeros(k), zeros(t, k)
  )


def _update(state: _State, batch: base.OrbitBatch) -> _State:
  classes = batch.reference.shape[-1]
  before = jnp.argmax(batch.reference, axis=-1)
  after = jnp.argmax(batch.transformed, axis=-1)
  known = (batch.labels >= 0).astype(jnp.float32) * batch.weight
  correct = (before == batch.labels).astype(jnp.float32)
  groups = jnp.stack([batch.weight, known * correct, known * (1 - correct)])
  agrees = (after == before[None]).astype(jnp.float32)
  hits = (after == batch.labels[None]).astype(jnp.float32)
  one_hot = jax.nn.one_hot(after, classes)
  votes = one_hot.sum(0)
  pairs = (votes * (votes - 1)).sum(-1) / 2
  return _State(
    state.images + groups.sum(-1),
    state.right + hits @ batch.weight,
    state.agreeing + groups @ agrees.T,
    state.pairs + groups @ pairs,
    state.before + batch.weight @ jax.nn.one_hot(before, classes),
    state.after + jnp.einsum("b,tbk->tk", batch.weight, one_hot),
  )


def _finalize_accuracy(state: _State) -> list[base.Row]:
  known = float(state.images[1] + state.images[2])
  note = "" if known else "the images have no labels"
  shares = np.asarray(state.right, np.float64) / known if known else None
  return [
    base.Row(
      "accuracy", _NAN if shares is None else float(shares[i]), i, note=note
    )
    for i in range(len(state.right))
  ]


accuracy = base.Measure(
  _init,
  _update,
  _finalize_accuracy,
  name="accuracy",
  protocol="accuracy/top-1",
  needs=frozenset({"labels"}),
  scope="output",
)
"""Share of transformed images whose top-1 class is right, for each t.

0 to 1, of the images that have a label; NaN without any. Of equal logits the
first counts as the top. Accuracy is no measure of invariance: a network can be
consistently wrong.
"""


def _group_rows(
  name: str, shares: Any, state: _State, element: int | None
) -> list[base.Row]:
  """The share among all images, and among those answered right and wrong."""
  rows = []
  counts = np.asarray(state.images, np.float64)
  for group, share, count in zip(
    ("", "_correct", "_wrong"), shares, counts, strict=True
  ):
    note = ""
    if not count:
      known = counts[1] + counts[2] > 0
      note = "no such image" if known else "the images have no labels"
    value = float(share) if count else _NAN
    rows.append(base.Row(name + group, value, element, note=note))
  return rows


def _kappa(
  name: str, observed: float, chance: float, element: int | None
) -> base.Row:
  """Agreement beyond chance, as a share of what is possible."""
  if chance >= 1:
    note = "all answers are the same class"
    return base.Row(name, _NAN, element, note=note)
  return base.Row(name, float((observed - chance) / (1 - chance)), element)


def _shares(counts: Any, images: Any) -> np.ndarray:
  images = np.maximum(np.asarray(images, np.float64), 1)
  counts = np.asarray(counts, np.float64)
  return counts / images.reshape(-1, *[1] * (counts.ndim - 1))


def _finalize_consistency(state: _State) -> list[base.Row]:
  shares = _shares(state.agreeing, state.images)
  total = float(state.images[0])
  chance = np.asarray(state.after, np.float64) @ np.asarray(
    state.before, np.float64
  )
  rows = []
  for element, share in enumerate(shares.T):
    rows += _group_rows("consistency", share, state, element)
    expected = float(chance[element]) / total**2
    rows.append(_kappa("consistency_kappa", share[0], expected, element))
  return rows


consistency = base.Measure(
  _init,
  _update,
  _finalize_consistency,
  name="consistency",
  protocol="consistency/to-identity",
  scope="output",
)
"""Share of images whose top-1 class is the same with and without t.

Four rows for each t: `consistency` over all images, `consistency_correct` and
`consistency_wrong` over those whose untransformed answer is right or wrong, and
`consistency_kappa`, Cohen's kappa: (share - chance) / (1 - chance), chance
being that two independent answers with the same class frequencies agree.

0 to 1 (kappa from -1), 1 at perfect invariance of the decision. A perfect
classifier is consistent, and so is a constant one, whose kappa is NaN: read it
beside the accuracy. NaN where there is no such image or no label.

Source: R. Zhang, "Making convolutional networks shift-invariant again", ICML
2019 (there over random pairs of shifts); J. Cohen, "A coefficient of agreement
for nominal scales", 1960.
"""


def _finalize_pairwise(state: _State) -> list[base.Row]:
  elements = len(state.after)
  pairs = elements * (elements - 1) / 2
  shares = _shares(state.pairs, state.images) / pairs
  rates = np.asarray(state.after, np.float64) / float(state.images[0])
  twice = (rates.sum(axis=0) ** 2 - (rates**2).sum(axis=0)).sum()
  rows = _group_rows("pairwise_consistency", shares, state, None)
  kappa = _kappa(
    "pairwise_consistency_kappa", shares[0], twice / 2 / pairs, None
  )
  return [*rows, kappa]


pairwise_consistency = base.Measure(
  _init,
  _update,
  _finalize_pairwise,
  name="pairwise_consistency",
  protocol="consistency/all-pairs",
  scope="output",
  min_elements=2,
)
"""Share of pairs of different orbit elements that get the same top-1 class.

Over all pairs s != t, enumerated, and all images; the same four rows as
`consistency`, for the orbit as a whole. 0 to 1, 1 at perfect invariance of the
decision. An orbit of all shifts within n px gives the expectation of the
published code's random pairs, less pairs of a shift with itself.

Source: R. Zhang, 2019 (see `consistency`).
"""


class _Path(NamedTuple):
  images: Any
  changes: Any  # steps at which the top-1 class changes, mean over steps
  step: Any  # |change| of the probability of the class that was top
  centre: Any  # the same for the class of the untransformed image
  wobble: Any  # its largest less its smallest along the path


def _init_path(shapes: base.Shapes) -> _Path:
  return _Path(*[sums.zeros()] * 5)


def _update_path(state: _Path, batch: base.OrbitBatch) -> _Path:
  p = jax.nn.softmax(batch.transformed)
  top = jnp.argmax(batch.transformed, axis=-1)
  centre = jnp.argmax(batch.reference, axis=-1)

  def of(p: Any, classes: Any) -> Any:
    return jnp.take_along_axis(p, classes[..., None], axis=-1)[..., 0]

  step = jnp.abs(of(p[1:], top[:-1]) - of(p[:-1], top[:-1]))
  along = of(p, jnp.broadcast_to(centre, top.shape))
  values = (
    (top[1:] != top[:-1]).astype(jnp.float32).mean(0),
    step.mean(0),
    jnp.abs(along[1:] - along[:-1]).mean(0),
    along.max(0) - along.min(0),
  )
  sums = [batch.weight.sum(), *(v @ batch.weight for v in values)]
  return _Path(*(a + b for a, b in zip(state, sums, strict=True)))


def _finalize_path(state: _Path) -> list[base.Row]:
  names = (
    "jaggedness",
    "jaggedness_step",
    "jaggedness_centre",
    "jaggedness_wobble",
  )
  return [
    base.Row(name, float(total) / float(state.images))
    for name, total in zip(names, state[1:], strict=True)
  ]


def _not_a_path(orbit: Any) -> str:
  """The reason unless an orbit is a path of one-pixel translations."""
  if orbit is None:
    return ""  # activations are taken as a path in the order given
  if orbit.family.name != "translation":
    return "is defined along one-pixel translations"
  steps = np.abs(np.diff(np.asarray(orbit.thetas, np.float64), axis=0))
  if not (steps.max(axis=-1) == 1).all():
    return "the elements are no path of one-pixel steps"
  return ""


jaggedness = base.Measure(
  _init_path,
  _update_path,
  _finalize_path,
  name="jaggedness",
  protocol="jaggedness/one-pixel-steps",
  scope="output",
  refuses=_not_a_path,
  min_elements=2,
)
"""How often, and how much, the answer changes at one-pixel steps along a path.

For an orbit of translations whose consecutive elements are one pixel apart,
diagonally in the paper. Four rows for the orbit, means over images and steps:

* `jaggedness`: share of steps at which the top-1 class changes;
* `jaggedness_step`: |change| of the softmax probability of the class on top
  before the step;
* `jaggedness_centre`: that of the class on top for the untransformed image;
* `jaggedness_wobble`: largest less smallest probability of that class.

0 at perfect invariance, 1 at most. The output is taken as logits.

Source: A. Azulay and Y. Weiss, "Why do deep convolutional networks generalize
so poorly to small image transformations?", JMLR 20, 2019.
"""
