"""Assertions that a function of images is invariant or equivariant.

For tests of networks whose symmetry is known exactly, where `measure` says how
far from it others are:

  shift = (translation, (1, 0))
  assert_invariant(fn, shift, images, border="circular", layers=["logits"])
  assert_equivariant(fn, shift, images, border="circular")
  assert_equivariant(fn, (rotation, 90), images, geometry=geometry)
  assert_invariant(fn, lambda x: x[:, :, ::-1], images)  # any function

`fn` takes images and returns an array, here the layer "output", or
(output, {layer: array}), the images being the leading axis of each. It may be
plain NumPy, jax or jitted: it gets NumPy images if it is given NumPy images. A
layer that is the same for all images passes, since it is invariant.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis import sampling
from analysis.actions import Geometry, Orbit, map_action, orbit

ApplyFn = Callable[[Any], Any]
Act = Callable[[Any], Any]


def assert_invariant(
  fn: ApplyFn,
  transform: Any,
  images: Any,
  *,
  layers: str | Iterable[str] | None = None,
  order: int = 1,
  border: str = "zero",
  rtol: float = 1e-5,
  atol: float = 0.0,
) -> None:
  """Asserts that every unit stays the same when the images are transformed.

  For each layer: max |f(t x) - f(x)| <= atol + rtol * rms, the maximum over
  images and units, rms the root mean square of f(x) over images and units. It
  is stricter than a small `invariance_error`, which averages over both.

  Args:
    fn: images -> array or (output, {layer: array}).
    transform: a (family, theta) pair of `analysis.transforms`, the family or
      its name and one transformation's parameters in its unit; or any
      function from images to images.
    images: (n, h, w, c) floating point; whatever `fn` and `transform` take
      where `transform` is a function.
    layers: which to compare; by default all that `fn` names, or its output if
      it names none. "output" is the output.
    order: interpolation of a family's images, 1 or 3.
    border: what lies outside a family's images: "zero" (content that leaves
      the canvas is lost), "circular" or "reflect".
    rtol: tolerance relative to the rms; 1e-5 is a few roundings of float32.
    atol: tolerance in the layer's own unit.

  Raises:
    AssertionError: one line that names the layer, the worst image and unit,
      the difference, the tolerance and the transformation.
    ValueError: wrong images, transformation, option or layer; a function that
      returns something else, or values that are not finite.
  """
  t = _transformation(transform, order, border)
  before, after, names = _run(fn, t, images)
  compared = []
  for name in _chosen(layers, names, before):
    reference = _values(before[name], name, len(images))
    moved = _values(after[name], name, len(images))
    compared.append(_Compared(name, "f(t x) - f(x)", reference, moved))
  _compare(compared, f"invariant to {t.text}", rtol, atol)


def assert_equivariant(
  fn: ApplyFn,
  transform: Any,
  images: Any,
  *,
  act: Act | Mapping[str, Act] | None = None,
  geometry: Mapping[str, Geometry] | None = None,
  layers: str | Iterable[str] | None = None,
  order: int = 1,
  border: str = "zero",
  rtol: float = 1e-5,
  atol: float = 0.0,
) -> None:
  """Asserts that every map moves along when the images are transformed.

  For each layer: max |t^-1 f(t x) - f(x)| <= atol + rtol * rms, the maximum
  over images, positions and channels, rms the root mean square of f(x) over
  all of them. As in `equivariance_error`, t^-1 acts on the map in image
  coordinates, with bilinear interpolation, so that only whole positions and
  quarter turns are exact, and only positions count whose receptive field lies
  inside the canvas before and after; under a circular border all count.

  A map as large as the image may come without geometry: it has stride 1 and
  offset 0 then, and all positions count where t^-1 reads inside the map, those
  that see the border included. A smaller map needs its geometry, or `act`.

  With `act`, max |f(t x) - act(f(x))| is compared instead, at all positions.

  Args:
    fn: as in `assert_invariant`, and so are options not listed here.
    transform: the same; one that is a function needs `act`.
    images: the same.
    act: what the transformation does to a layer: a function from the array
      that `fn` returns for it to one of the same shape, or {layer: function}.
      For layers with more axes than (n, h, w, c), such as orientations.
    geometry: {layer: `LayerGeometry` or the like}: where each layer's
      positions lie in the image.
    layers: which to compare; by default all that have an action: those in
      `act`, and under a family all maps (n, h, w, c). "output" is the output.
    order: interpolation of a family's images, 1 or 3.
    border: what lies outside them.
    rtol: tolerance relative to the rms.
    atol: tolerance in the layer's own unit.

  Raises:
    AssertionError: one line that names the layer, the worst image, position
      and channel, the difference, the tolerance and the transformation.
    ValueError: as `assert_invariant`; a layer without positions, geometry or
      action; no position whose receptive field lies inside the canvas.
  """
  t = _transformation(transform, order, border)
  if t.orbit is None and act is None:
    raise ValueError(
      f"{t.text} is a function: give act=, what it does to a layer's array"
    )
  before, after, names = _run(fn, t, images)
  acts = _acts(act, names, layers, before)
  geometry = geometry or {}
  if set(names) <= set(geometry):  # a jitted function returns them sorted
    names = [name for name in geometry if name in names]
  default = [
    name
    for name in names
    if name in acts or (t.orbit and _is_map(before[name], geometry.get(name)))
  ]
  compared = []
  for name in _chosen(layers, default, before):
    reference = _values(before[name], name, len(images))
    moved = _values(after[name], name, len(images))
    if name in acts:
      expected = _values(acts[name](before[name]), name, len(images))
      pair = _Compared(name, "f(t x) - act(f(x))", expected, moved)
    elif t.orbit is None:
      raise ValueError(f"layer {name!r} is missing in act=: {', '.join(acts)}")
    else:
      where = geometry.get(name)
      pair = _brought_back(
        t.orbit, name, reference, moved, where, np.shape(images)
      )
    compared.append(pair)
  _compare(compared, f"equivariant to {t.text}", rtol, atol)


# --- the transformation ------------------------------------------------------


class _Transformation(NamedTuple):
  apply: Callable[[Any], Any]
  text: str
  orbit: Orbit | None


def _transformation(transform: Any, order: int, border: str) -> _Transformation:
  if isinstance(transform, tuple | list) and len(transform) == 2:
    family, theta = transform
    return _of_family(family, theta, order, border)
  if not callable(transform):
    raise ValueError(
      f"transform={transform!r} is neither a (family, theta) pair nor a"
      " function from images to images"
    )
  if (order, border) != (1, "zero"):
    raise ValueError(
      f"order={order} and border={border!r} are for (family, theta) pairs: a"
      " function has its own"
    )
  named = getattr(transform, "func", transform)  # what a partial wraps
  name = getattr(named, "__name__", type(named).__name__)
  return _Transformation(transform, name, None)


def _of_family(
  family: Any, theta: Any, order: int, border: str
) -> _Transformation:
  o = orbit(family, [theta], order=order, border=border)
  if np.shape(o.family.matrix(o.thetas[0])) != (3, 3):
    raise ValueError(
      f"theta of shape {np.shape(theta)} is several transformations: assert one"
      " at a time, in a loop"
    )
  text = ", ".join(f"{value:g}" for value in np.ravel(o.thetas[0]))
  text = f"({text})" if np.ndim(theta) else text
  text = f"{o.family.name} {text} {o.family.unit}"

  def apply(images: Any) -> Any:
    return o.family.warp(images, o.thetas[0], order=order, border=border)

  return _Transformation(apply, f"{text} ({border} border)", o)


# --- the function ------------------------------------------------------------


def _run(
  fn: ApplyFn, t: _Transformation, images: Any
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
  """Layers before and after, and the names of those to compare by default."""
  if np.ndim(images) < 1 or len(images) < 1:
    raise ValueError(f"images of shape {np.shape(images)}: none to compare")
  given = images
  if t.orbit is not None:
    # In the precision of the transformed ones, or float64 would differ.
    images = jnp.asarray(images)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        "images must be floating point (n, height, width, channels), got"
        f" {images.dtype} {images.shape}"
      )
    images = _like(given, images)
  moved = _like(given, t.apply(images))
  # On an accelerator the default is of lower precision than the tolerance.
  with jax.default_matmul_precision("highest"):
    before, names = _named(fn(images))
    after, _ = _named(fn(moved))
  if set(before) != set(after):
    raise ValueError(
      f"the function returned {', '.join(before)} for the images and"
      f" {', '.join(after)} for the transformed ones"
    )
  return before, after, names


def _like(images: Any, moved: Any) -> Any:
  """NumPy for NumPy: a function in plain NumPy may write to what it gets."""
  return np.array(moved) if isinstance(images, np.ndarray) else moved


def _named(result: Any) -> tuple[dict[str, Any], list[str]]:
  """Layers by name, and the names of those to compare by default."""
  if hasattr(result, "shape"):
    return {"output": result}, ["output"]
  if (
    isinstance(result, tuple)
    and len(result) == 2
    and isinstance(result[1], Mapping)
  ):
    return {"output": result[0], **result[1]}, list(result[1])
  raise ValueError(
    "the function must return an array or (output, {layer: array}), got"
    f" {type(result).__name__}"
  )


def _chosen(
  layers: str | Iterable[str] | None, default: list[str], known: Iterable[str]
) -> list[str]:
  chosen = [layers] if isinstance(layers, str) else list(layers or [])
  chosen = default if layers is None else chosen
  for name in chosen:
    if name not in known:
      raise ValueError(f"no layer {name!r}: there are {', '.join(known)}")
  if not chosen:
    raise ValueError(f"no layer to compare among {', '.join(known)}")
  return chosen


def _values(array: Any, name: str, count: int) -> np.ndarray:
  """A layer as float64, (n, ...), checked."""
  shape = np.shape(array)
  if not shape or shape[0] != count or 0 in shape:
    raise ValueError(
      f"layer {name!r} has shape {shape} for {count} images: the images must"
      " be the leading axis"
    )
  values = np.asarray(array).astype(np.float64)
  if not np.isfinite(values).all():
    where = _place(np.argmin(np.isfinite(values)), shape)
    raise ValueError(f"layer {name!r} is not finite at {where}")
  return values


# --- the maps ----------------------------------------------------------------


class _Where(NamedTuple):
  """The geometry of a map as large as the image, one pixel a position."""

  stride: int = 1
  offset: float = 0.0
  receptive_field: int = 1
  spatial: bool = True


def _acts(
  act: Act | Mapping[str, Act] | None,
  names: list[str],
  layers: str | Iterable[str] | None,
  known: Iterable[str],
) -> dict[str, Act]:
  """The given action by layer."""
  if act is None:
    return {}
  if isinstance(act, Mapping):
    return {name: act[name] for name in _chosen(list(act), [], known)}
  return dict.fromkeys(_chosen(layers, names, known), act)


def _is_map(array: Any, where: Geometry | None) -> bool:
  return np.ndim(array) == 4 and (where is None or bool(where.spatial))


class _Compared(NamedTuple):
  """Two (n, ...) arrays, compared where the mask (h, w) is not 0."""

  name: str
  formula: str
  reference: np.ndarray
  moved: np.ndarray
  mask: np.ndarray | None = None
  note: str = ""


def _brought_back(
  o: Orbit,
  name: str,
  reference: np.ndarray,
  moved: np.ndarray,
  where: Geometry | None,
  image_shape: tuple[int, ...],
) -> _Compared:
  """f(x), t^-1 f(t x), and where both are defined."""
  _, height, width, _ = image_shape
  if moved.shape != reference.shape or not _is_map(reference, where):
    raise ValueError(
      f"layer {name!r} has shape {reference.shape}, transformed {moved.shape},"
      " and no positions (n, h, w, c) to move: leave it out or give act="
    )
  _, rows, columns, _ = reference.shape
  known = _checked(name, where, (rows, columns), (height, width))
  extent = (known.stride * rows, known.stride * columns)
  if o.border == "circular" and extent != (height, width):
    raise ValueError(
      f"layer {name!r}: a {rows}x{columns} map of stride {known.stride} does"
      f" not tile the circular {height}x{width} canvas"
    )
  action = map_action(o, known, (rows, columns), (height, width))
  mask = action.mask[0].reshape(rows, columns)
  if not mask.any():
    raise ValueError(
      f"layer {name!r}: no position's receptive field of"
      f" {known.receptive_field} px lies inside the {height}x{width} canvas"
      " before and after; a receptive_field of 1 compares the border too"
    )
  taps = sampling.Taps(action.indices[0], action.weights[0])
  back = sampling.resample(jnp.asarray(moved, jnp.float32), taps)
  back = np.asarray(back, np.float64).reshape(reference.shape)
  # Both are rounded to float32, or a float64 layer would not equal its copy.
  rounded = reference.astype(np.float32).astype(np.float64)
  border_counts = where is None and o.border != "circular"
  note = "no geometry given, so the border counts" if border_counts else ""
  return _Compared(name, "t^-1 f(t x) - f(x)", rounded, back, mask, note)


def _checked(
  name: str,
  where: Geometry | None,
  shape: tuple[int, int],
  canvas: tuple[int, int],
) -> Geometry:
  """The layer's geometry, or the one of a map as large as the image."""
  a_map = f"layer {name!r} has a {shape[0]}x{shape[1]} map"
  if where is None and shape != canvas:
    raise ValueError(
      f"{a_map} of {canvas[0]}x{canvas[1]} images: say where it lies, geometry="
      f"{{{name!r}: LayerGeometry(stride, offset, receptive_field, spatial)}}"
    )
  if where is None:
    return _Where()
  if where.spatial is not True and tuple(where.spatial) != shape:
    raise ValueError(f"{a_map}, its geometry says {where.spatial}")
  return where


# --- the comparison ----------------------------------------------------------


def _compare(
  layers: list[_Compared], claim: str, rtol: float, atol: float
) -> None:
  """Raises for the first layer that fails, naming the others that do."""
  messages = {}
  for name, formula, reference, moved, mask, note in layers:
    if moved.shape != reference.shape:
      raise ValueError(
        f"layer {name!r} has shape {reference.shape}, but {moved.shape} for"
        " the transformed images"
      )
    difference = np.abs(moved - reference)
    if mask is not None:
      difference *= mask[None, :, :, None]
    rms = np.sqrt(np.mean(reference**2))
    tolerance = atol + rtol * rms
    worst = np.argmax(difference)
    value = difference.flat[worst]
    if not value <= tolerance:  # so that a tolerance of NaN fails
      messages[name] = (
        f"layer {name!r} is not {claim}: |{formula}| = {value:.3g} at"
        f" {_place(worst, reference.shape)}, tolerance {tolerance:.3g} (atol"
        f" {atol:g} + rtol {rtol:g} x rms {rms:.3g})"
      ) + (f"; {note}" if note else "")
  if messages:
    first, *others = messages
    nor = f"; nor are {', '.join(others)}" if others else ""
    raise AssertionError(messages[first] + nor)


def _place(flat: Any, shape: tuple[int, ...]) -> str:
  """The image and unit of a flat index, for messages."""
  image, *unit = map(int, np.unravel_index(flat, shape))
  match unit:
    case []:
      return f"image {image}"
    case [only]:
      return f"image {image}, unit {only}"
    case [row, column, channel]:
      return f"image {image}, position ({row}, {column}), channel {channel}"
    case _:
      return f"image {image}, unit {tuple(unit)}"
