"""Where a layer's positions lie in the image, found by moving an impulse.

For a network that comes without its formula: a line of pixels is changed, row
by row and column by column, and the positions of each map that respond are
read off. The rows that a position responds to are its receptive field, their
centre is where it lies, and how the centre moves from one position to the next
is the stride. What cannot be read off is left out with the reason; a wrong
geometry would be worse than none.

A response is looked for in two ways, and either counts:

* the derivative along the impulse (forward mode): exactly zero outside the
  receptive field and, however faint, not lost in rounding inside it;
* the change under an impulse of full size, for what has no derivative.

Several random images are used, because a ReLU or a maximum hides some of the
pixels of each.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.network import Network, Units, as_partial, unit_shapes
from models.geometry import LayerGeometry

# Images to try: at least so many, and until so many in a row show nothing new.
_FEWEST, _MOST, _QUIET = 3, 12, 2

# A change below this share of the layer's largest is taken for rounding.
_ROUNDING = 1e-6

# Bytes of activations a call, at most, and images a call, at most.
_STEP_BYTES, _STEP_IMAGES = 2**28, 64

NOT_SPATIAL = "the layer has no positions"


class _Responses(NamedTuple):
  """Which positions of a map respond to which line of the image.

  Attributes:
    rows: (H, h) whether map row j responds to image row i.
    columns: (W, w) the same for columns.
  """

  rows: np.ndarray
  columns: np.ndarray


class _Axis(NamedTuple):
  """Geometry along one axis, as in `LayerGeometry`."""

  stride: int
  offset: float
  receptive_field: int


def find_geometry(
  fn: Network,
  image_shape: tuple[int, int, int],
  layers: Collection[str] | None = None,
  *,
  seed: int = 0,
) -> tuple[dict[str, LayerGeometry], dict[str, str]]:
  """Stride, offset and receptive field of a network's maps.

  A map needs two neighbouring positions that see no border of the canvas; for
  a map whose receptive field is nearly as wide as the canvas use a larger one.

  Args:
    fn: from images (n, h, w, c) in [0, 1] to (output, {layer: activation}).
    image_shape: (h, w, c).
    layers: the layers to locate; all if None.
    seed: of the random images.

  Returns:
    The geometry by layer, and the reason by layer for all others, both in the
    order that the network returns its layers. `receptive_field` is the width
    that is seen to respond: weights that are exactly zero do not count.

  Raises:
    ValueError: a layer that is not there, or a function that is not a network:
      see `analysis.network.unit_shapes`.
  """
  fn = as_partial(fn)
  units = unit_shapes(fn, image_shape)
  for name in layers or ():
    if name not in units:
      raise ValueError(f"layer {name!r} is not one of {', '.join(units)}")
  wanted = [name for name in units if layers is None or name in layers]
  maps = {name: units[name] for name in wanted if len(units[name]) == 3}
  responses = _respond(fn, image_shape, units, maps, seed) if maps else {}
  found, reasons = {}, {}
  for name in wanted:
    if name not in maps:
      reasons[name] = NOT_SPATIAL
      continue
    rows = _locate(responses[name].rows)
    columns = _locate(responses[name].columns)
    reason = _differ(rows, columns)
    if reason:
      reasons[name] = reason
    elif isinstance(rows, _Axis):
      height, width, _ = maps[name]
      found[name] = LayerGeometry(*rows, (height, width))
  return found, reasons


# --- responses ---------------------------------------------------------------


def _respond(
  fn: jax.tree_util.Partial,
  image_shape: tuple[int, int, int],
  units: Units,
  maps: Units,
  seed: int,
) -> dict[str, _Responses]:
  """Which positions respond to which line, over several images."""
  height, width = image_shape[:2]
  result = {
    name: _Responses(
      np.zeros((height, shape[0]), bool), np.zeros((width, shape[1]), bool)
    )
    for name, shape in maps.items()
  }
  step = _step_size(units, height + width)
  differentiable, quiet = True, 0
  for count in range(1, _MOST + 1):
    base, other = _pair(image_shape, seed, count)
    marks = _changes(fn, tuple(maps), base, other, step)
    new = _merge(result, marks, height)
    if differentiable:
      try:
        marks = _derivatives(fn, tuple(maps), base, other, step)
        new = _merge(result, marks, height) or new
      except Exception:
        # A rule for reverse mode only, a callback: the changes remain.
        differentiable = False
    quiet = 0 if new else quiet + 1
    if count >= _FEWEST and quiet >= _QUIET:
      break
  return result


def _step_size(units: Units, lines: int) -> int:
  image = 4 * sum(int(np.prod(shape)) for shape in units.values())
  # Four at once: before and after, or values and derivatives, and their like.
  return int(np.clip(_STEP_BYTES // (4 * image), 1, min(_STEP_IMAGES, lines)))


def _pair(
  image_shape: tuple[int, int, int], seed: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """An image, and what its pixels are changed to; every second one is sparse.

  Sparse as drawings are: a network that was trained on them may be saturated
  by noise all over.
  """
  rng = np.random.default_rng((seed, count))
  base, other = rng.uniform(size=(2, *image_shape)).astype(np.float32)
  if count % 2 == 0:
    base *= rng.uniform(size=image_shape) < 0.2
  return base, other


def _impulses(
  base: np.ndarray, other: np.ndarray, step: int
) -> Iterator[tuple[int, np.ndarray]]:
  """What to add to `step` images: one line each, rows first, then columns."""
  height, width = base.shape[:2]
  difference = other - base
  for start in range(0, height + width, step):
    impulses = np.zeros((step, *base.shape), np.float32)
    for slot, line in enumerate(
      range(start, min(start + step, height + width))
    ):
      if line < height:
        impulses[slot, line] = difference[line]
      else:
        impulses[slot, :, line - height] = difference[:, line - height]
    yield start, impulses


# By layer, images by map rows, and by map columns.
Marks = dict[str, tuple[Any, Any]]


def _changes(
  fn: Any,
  names: tuple[str, ...],
  base: np.ndarray,
  other: np.ndarray,
  step: int,
) -> Iterator[tuple[int, Marks]]:
  """Positions that change, line by line.

  Before and after are the same program on batches of the same size, slot by
  slot, so that what does not depend on the line is equal to the last bit.
  """
  images = np.broadcast_to(base, (step, *base.shape))
  before = _activations(fn, images, names=names)
  for start, impulses in _impulses(base, other, step):
    after = _activations(fn, images + impulses, names=names)
    yield start, jax.device_get(_changed(before, after))


def _derivatives(
  fn: Any,
  names: tuple[str, ...],
  base: np.ndarray,
  other: np.ndarray,
  step: int,
) -> Iterator[tuple[int, Marks]]:
  """Positions with a derivative, line by line."""
  images = np.broadcast_to(base, (step, *base.shape))
  for start, impulses in _impulses(base, other, step):
    marks = _differentiated(fn, images, impulses, names=names)
    yield start, jax.device_get(marks)


def _run(fn: Any, images: Any, *, names: tuple[str, ...]) -> dict[str, Any]:
  layers = fn(images)[1]
  return {name: layers[name].astype(jnp.float32) for name in names}


def _compare(before: dict[str, Any], after: dict[str, Any]) -> Marks:
  marks = {}
  for name, values in before.items():
    change = jnp.abs(after[name] - values)
    largest = change.max(axis=(1, 2, 3), keepdims=True)
    marks[name] = _lines(change > np.float32(_ROUNDING) * largest)
  return marks


def _differentiate(
  fn: Any, images: Any, impulses: Any, *, names: tuple[str, ...]
) -> Marks:
  _, tangents = jax.jvp(
    lambda x: _run(fn, x, names=names), (images,), (impulses,)
  )
  return {
    # 0 times the infinite slope of a square root at 0 says nothing.
    name: _lines((tangent != 0) & jnp.isfinite(tangent))
    for name, tangent in tangents.items()
  }


def _lines(marked: Any) -> tuple[Any, Any]:
  """The rows and the columns with a marked unit, (b, h) and (b, w)."""
  return marked.any(axis=(2, 3)), marked.any(axis=(1, 3))


_activations = jax.jit(_run, static_argnames="names")
_changed = jax.jit(_compare)
_differentiated = jax.jit(_differentiate, static_argnames="names")


def _merge(
  responses: dict[str, _Responses],
  steps: Iterator[tuple[int, Marks]],
  height: int,
) -> bool:
  """Adds responses in place; whether there was a new one."""
  new = False
  for start, marks in steps:
    for name, (rows, columns) in marks.items():
      # Lines of this step that are rows; what is left over is columns.
      split = int(np.clip(height - start, 0, len(rows)))
      first = max(start - height, 0)
      for known, seen in (
        (responses[name].rows[start:], rows[:split]),
        (responses[name].columns[first:], columns[split:]),
      ):
        known = known[: len(seen)]
        seen = seen[: len(known)]
        new |= bool((seen & ~known).any())
        known |= seen
  return new


# --- geometry ----------------------------------------------------------------


def _locate(responses: Bool[np.ndarray, "n p"]) -> _Axis | str:
  """Geometry along an axis, or the reason why there is none.

  Args:
    responses: whether each position responds to each line of the image.

  Returns:
    The geometry or the reason.
  """
  size, positions = responses.shape
  answers = responses.any(axis=0)
  if not answers.any():
    return "the layer does not respond to the image"
  low = responses.argmax(axis=0)
  high = size - 1 - responses[::-1].argmax(axis=0)
  width = high - low + 1
  if (width[answers] == size).all():
    return f"its receptive field covers the canvas of {size} px"
  # What touches the border may be cut off there.
  inside = answers & (low > 0) & (high < size - 1)
  if inside.sum() < 2:
    return (
      f"only {inside.sum()} of {positions} positions see no border of the"
      " canvas, and 2 are needed: use larger images"
    )
  widest = int(width[inside].max())
  whole = np.flatnonzero(inside & (width == widest))
  differ = (
    "receptive fields differ from position to position, from"
    f" {width[inside].min()} to {widest} px"
  )
  if len(whole) < 2 or (np.diff(whole) != 1).any():
    return differ
  axis = _fit(whole, (low + high)[whole] / 2, widest)
  if isinstance(axis, str):
    return axis
  # The padding of layers below cuts receptive fields too, but those that come
  # before the whole ones only at their low end, and those after at their high.
  first = _first_line(axis, np.arange(positions))
  before, after = np.split(inside, [whole[0]])
  if (high != first + widest - 1)[: whole[0]][before].any():
    return differ
  if (low != first)[whole[0] :][after].any():
    return differ
  return (
    axis
    if _explains(axis, responses)
    else (
      f"a stride of {axis.stride} px, an offset of {axis.offset:g} px and a"
      f" receptive field of {widest} px do not explain every response"
    )
  )


def _fit(
  positions: Int[np.ndarray, " k"], centres: Float[np.ndarray, " k"], width: int
) -> _Axis | str:
  """The line through the centres of neighbouring positions, or why not."""
  steps = np.diff(centres)
  if (steps == 0).any():
    still = positions[steps.argmin()]
    return (
      f"the response does not move with the impulse: positions {still} and"
      f" {still + 1} see the same pixels"
    )
  if (steps != steps[0]).any() or steps[0] < 0:
    return (
      "positions do not follow each other at even steps: they are centred on"
      f" {', '.join(f'{c:g}' for c in centres[:8])} px"
    )
  stride = int(steps[0])
  return _Axis(stride, float(centres[0] - stride * positions[0]), width)


def _first_line(axis: _Axis, positions: np.ndarray) -> np.ndarray:
  """The first line of each position's receptive field; may be negative."""
  reach = (axis.receptive_field - 1) / 2
  return np.round(axis.offset + axis.stride * positions - reach).astype(int)


def _explains(axis: _Axis, responses: Bool[np.ndarray, "n p"]) -> bool:
  """Whether no position responds to a line outside its receptive field.

  Lines are counted around the canvas, so that circular padding is explained.
  """
  size, positions = responses.shape
  allowed = np.zeros_like(responses)
  for j, first in enumerate(_first_line(axis, np.arange(positions))):
    allowed[np.arange(first, first + axis.receptive_field) % size, j] = True
  return not (responses & ~allowed).any()


def _differ(rows: _Axis | str, columns: _Axis | str) -> str:
  """The reason why two axes make no geometry; empty if they do."""
  for axis in (rows, columns):
    if isinstance(axis, str):
      return axis
  if rows == columns:
    return ""
  names = zip(_Axis._fields, rows, columns, strict=True)
  parts = [f"{n} {r:g} and {c:g} px" for n, r, c in names if r != c]
  return f"rows and columns differ: {', '.join(parts)}".replace("_", " ")
