"""Lie derivatives: how fast a layer changes as the image starts to move."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis.measures import base, reduced, reductions, sums


class _State(NamedTuple):
  tangents: reduced.Tangents  # (g,) each
  mask: Any  # (u,) m, empty for a layer without a map
  reference: sums.Moments


def _init(shapes: base.Shapes) -> _State:
  zeros = sums.zeros(shapes.generators)
  mapped = shapes.units if shapes.action is not None else 0
  return _State(
    reduced.Tangents(zeros, zeros),
    sums.zeros(mapped),
    sums.init_moments(shapes.units),
  )


def _update(gradient: str, state: _State, batch: base.OrbitBatch) -> _State:
  old, new = state.tangents, reductions.tangents(batch, gradient)
  reference = reductions.add_reference(state.reference, batch)
  old = old._replace(invariant=old.invariant + new.invariant)
  if not state.mask.size:
    return _State(old, state.mask, reference)
  channels = state.mask.size // len(batch.action.inside)
  mask = jnp.repeat(batch.action.inside, channels)
  old = old._replace(equivariant=old.equivariant + new.equivariant)
  return _State(old, mask, reference)


def _finalize(name: str, state: _State) -> list[base.Row]:
  variance = np.asarray(state.reference.variance, np.float64)
  count = float(state.reference.count)
  mask = np.asarray(state.mask, np.float64)
  rows = _rows(name, state.tangents.invariant, count, variance.sum(), "")
  name = f"{name}_equivariant"
  if not mask.size:
    note = "the layer has no positions, or none whose place is known"
    rows.append(base.Row(name, float("nan"), note=note))
  elif not mask.any():
    note = "no position's receptive field lies inside the canvas"
    rows.append(base.Row(name, float("nan"), note=note))
  else:
    yardstick = (mask * variance).sum()
    rows += _rows(
      name, state.tangents.equivariant, count, yardstick, " inside the mask"
    )
  return rows


def _rows(
  name: str, squares: Any, count: float, variance: float, where: str
) -> list[base.Row]:
  squares = np.asarray(squares, np.float64) / count
  note = "" if variance else f"no unit varies over the images{where}"
  values = squares / (2 * variance) if variance else squares * np.nan
  return [
    base.Row(name, float(v), note=note, generator=i)
    for i, v in enumerate(values)
  ]


def _refuses(orbit: Any) -> str:
  if orbit is None:
    return "needs the network: use measure()"
  if not orbit.family.generator:
    return f"{orbit.family.name} is discrete: it has no generator"
  return ""


def _lie(name: str, gradient: str) -> base.Measure:
  return base.Measure(
    _init,
    functools.partial(_update, gradient),
    functools.partial(_finalize, name),
    name=name,
    protocol=f"{name}/{gradient}",
    needs=frozenset({f"tangents:{gradient}"}),
    refuses=_refuses,
    reads=frozenset({"tangents", "reference"}),
    arrays=False,
  )


lie_derivative = _lie("lie_derivative", "spectral")
"""mean_i ||d/ds f(T_s x_i) at s = 0||^2 / 2V for each generator.

Exact forward-mode differentiation of the whole network, one `jax.jvp` a
generator for all layers at once, with the spectral gradient of the image (on a
periodic canvas). A row a generator, `theta` naming it: per px^2 for
translation, per radian^2, per (natural log of the scale)^2, so that translation
by a small s costs an invariance error of about s sqrt(value). Layers with
positions and known geometry also have `lie_derivative_equivariant`, of d/ds
[T_-s f(T_s x)], over positions whose receptive field lies inside the canvas and
with their variance as the yardstick.

0: invariant (equivariant); no upper bound: it is a rate. NaN if nothing varies
over the images, where the family is discrete, or for layers without positions
(the equivariant form). At kinks, such as a maximum of equal values on a
constant background, one of the one-sided derivatives is taken, as autodiff
does.

Source: N. Gruver, M. Finzi, M. Goldblum and A. Wilson, "The Lie derivative for
measuring learned equivariance", ICLR 2023, there unnormalised and of the class
probabilities; see `lie_derivative_reference`.
"""

lie_derivative_cubic = _lie("lie_derivative_cubic", "cubic")
"""`lie_derivative` with the gradient of the cubic B-spline, zeros outside.

A check on the gradient: where the two differ much, the images have content near
the Nyquist frequency or at the border of the canvas.
"""


class _Reference(NamedTuple):
  squares: Any  # (g,) sum over images and classes
  absolute: Any
  count: Any  # images times classes


def _init_reference(shapes: base.Shapes) -> _Reference:
  zeros = sums.zeros(shapes.generators)
  return _Reference(zeros, zeros, sums.zeros())


def _update_reference(state: _Reference, batch: base.OrbitBatch) -> _Reference:
  p = jax.nn.softmax(batch.reference)
  change = batch.tangents["published"]
  change = p[None] * (change - (p[None] * change).sum(-1, keepdims=True))
  return _Reference(
    state.squares + (change**2).sum(-1) @ batch.weight,
    state.absolute + jnp.abs(change).sum(-1) @ batch.weight,
    state.count + batch.weight.sum() * p.shape[-1],
  )


def _finalize_reference(state: _Reference) -> list[base.Row]:
  rows = []
  for name, total in (
    ("lie_derivative_reference", state.squares),
    ("lie_derivative_reference_abs", state.absolute),
  ):
    means = np.asarray(total, np.float64) / float(state.count)
    rows += [
      base.Row(name, float(v), generator=i, unit="published code's")
      for i, v in enumerate(means)
    ]
  return rows


lie_derivative_reference = base.Measure(
  _init_reference,
  _update_reference,
  _finalize_reference,
  name="lie_derivative_reference",
  protocol="lie_derivative/published-code",
  needs=frozenset({"tangents:published"}),
  scope="output",
  refuses=_refuses,
)
"""The Lie derivative of the class probabilities as the published code has it.

Mean over images and classes of the square (the paper's definition) and, in
`lie_derivative_reference_abs`, of the absolute value (what the code reports),
of d/ds softmax(f(T_s x)), with one-sided differences for the image gradient and
coordinates in which the outer pixel centres are -1 and 1: translation is per
half width, (W - 1) / 2 px. The published code computes this at widths 32 and
33; at others rounding turns some of its differences around. Not comparable
between networks of different confidence: it is not normalised. 0: invariant.

Source: package lie-deriv, of N. Gruver et al., ICLR 2023.
"""
