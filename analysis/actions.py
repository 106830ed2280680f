"""Orbits of transformations, and what each does to images and feature maps."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from analysis import affine, sampling, transforms
from analysis.measures import Elements, MapAction


class Orbit(NamedTuple):
  """A finite set of transformations of one family.

  Attributes:
    family: of the transformations.
    thetas: their parameters.
    name: of the orbit in tables.
    order: interpolation of the images, 1 or 3.
    border: what lies outside the images: "zero", "circular" or "reflect".
  """

  family: transforms.Family
  thetas: tuple[Any, ...]
  name: str
  order: int = 1
  border: str = "zero"


@runtime_checkable
class Geometry(Protocol):
  """What equivariance needs to know of a layer: see `LayerGeometry`.

  `spatial` is the map's (height, width); True takes the activation's own, and
  False or None says that the layer has no positions.
  """

  @property
  def stride(self) -> int:
    """Image pixels between positions."""
    ...

  @property
  def offset(self) -> float:
    """Image coordinate of position 0."""
    ...

  @property
  def receptive_field(self) -> int:
    """Image pixels that one position sees."""
    ...

  @property
  def spatial(self) -> Any:
    """The map's size, or whether there is a map."""
    ...


def orbit(
  family: transforms.Family | str,
  thetas: Iterable[Any],
  *,
  name: str | None = None,
  order: int = 1,
  border: str = "zero",
) -> Orbit:
  """An orbit with its parameters checked.

  Args:
    family: the family or its name.
    thetas: parameters of each element; a matrix may be given as 2x3.
    name: the orbit's name; the family's by default.
    order: interpolation of the images, 1 or 3.
    border: what lies outside the images: "zero", "circular" or "reflect".

  Returns:
    The orbit.

  Raises:
    ValueError: an unknown family, order or border, no element, or a wrong
      parameter.
  """
  if isinstance(family, str):
    if family not in transforms.FAMILIES:
      known = ", ".join(transforms.FAMILIES)
      raise ValueError(f"unknown transformation {family!r}; known are {known}")
    family = transforms.FAMILIES[family]
  sampling.check_kind(order, border)
  values = tuple(
    tuple(map(float, np.ravel(t))) if np.ndim(t) else float(t) for t in thetas
  )
  if not values:
    raise ValueError(f"the {family.name} orbit has no element")
  for i, theta in enumerate(values, start=1):
    try:
      family.matrix(theta)
    except ValueError as error:
      raise ValueError(f"element {i} of {family.name}: {error}") from error
  return Orbit(family, values, name or family.name, order, border)


def as_orbits(transformations: Any) -> tuple[Orbit, ...]:
  """Orbits from orbits, (family, thetas) pairs or a {name: thetas} mapping.

  Raises:
    ValueError: none given, or two of the same name.
  """
  if isinstance(transformations, Mapping):
    transformations = list(transformations.items())
  if isinstance(transformations, Orbit):
    transformations = [transformations]
  result = tuple(
    t if isinstance(t, Orbit) else orbit(*t) for t in transformations
  )
  if not result:
    raise ValueError("no transformation given")
  names = [o.name for o in result]
  if len(set(names)) < len(names):
    raise ValueError(f"orbit names repeat: {', '.join(names)}")
  return result


def elements_of(
  o: Orbit, intensity: Float[np.ndarray, "h w"] | None
) -> Elements:
  """The elements of an orbit as numbers.

  Args:
    o: the orbit.
    intensity: summed intensity of the images at each pixel; None if it is not
      known, and then no displacement is.

  Returns:
    The numbers, float32.
  """
  family = o.family
  moved = [float("nan")] * len(o.thetas)
  if intensity is not None:
    moved = [family.displacement(theta, intensity) for theta in o.thetas]
  columns = (
    [family.magnitude(theta) for theta in o.thetas],
    moved,
    [family.is_identity(theta) for theta in o.thetas],
  )
  return Elements(*(np.asarray(c, np.float32) for c in columns))


class ImageTaps(NamedTuple):
  """How an orbit acts on images.

  Attributes:
    linear: taps of shape (t, k, height * width), bilinear.
    cubic: the same for the cubic spline's coefficients; None for order 1.
    on_grid: (t,) whether an element copies pixels, so that no spline is
      needed; None for order 1.
  """

  linear: sampling.Taps
  cubic: sampling.Taps | None = None
  on_grid: Any = None


def image_taps(o: Orbit, shape: tuple[int, int]) -> ImageTaps:
  """The sparse matrices that transform images, computed in float64.

  Args:
    o: the orbit of t elements.
    shape: (height, width) of the images.

  Returns:
    The taps of its order.
  """
  pull = affine.invert(o.family.matrix(np.asarray(o.thetas)))
  y, x = affine.source_coordinates(pull, shape)
  linear = sampling.taps(y, x, shape, order=1, border=o.border)
  if o.order == 1:
    return ImageTaps(linear)
  cubic = sampling.taps(y, x, shape, order=o.order, border=o.border)
  on_grid = ((y == np.round(y)) & (x == np.round(x))).all(axis=-1)
  return ImageTaps(linear, cubic, on_grid)


def map_actions(
  o: Orbit,
  layers: Mapping[str, tuple[int, ...]],
  geometry: Mapping[str, Geometry],
  image_shape: tuple[int, int],
) -> tuple[dict[str, MapAction], dict[str, str]]:
  """The orbit's action on every layer, or the reason why a layer has none.

  Args:
    o: the orbit.
    layers: unit shape of each layer.
    geometry: where each layer's positions lie in the image.
    image_shape: (height, width) of the images.

  Returns:
    The actions by layer, and the reasons by layer for all others.

  Raises:
    ValueError: a geometry that contradicts the layer's shape.
  """
  actions, reasons = {}, {}
  for name, shape in layers.items():
    where = geometry.get(name)
    reason = _no_action(o, shape, where, image_shape)
    if reason or where is None:
      reasons[name] = reason
      continue
    height, width = shape[:2]
    if where.spatial is not True and tuple(where.spatial) != (height, width):
      raise ValueError(
        f"layer {name!r} has a {height}x{width} map, its geometry says"
        f" {where.spatial}"
      )
    actions[name] = map_action(o, where, (height, width), image_shape)
  return actions, reasons


def _no_action(
  o: Orbit,
  shape: tuple[int, ...],
  where: Geometry | None,
  image_shape: tuple[int, int],
) -> str:
  if len(shape) != 3 or (where is not None and not where.spatial):
    return "the layer has no positions"
  if where is None:
    return "no geometry given for the layer"
  if not np.isfinite(where.offset):
    return "where its positions lie depends on the image"
  extent = tuple(n * where.stride for n in shape[:2])
  if o.border == "circular" and extent != tuple(image_shape):
    return (
      f"a {shape[0]}x{shape[1]} map of stride {where.stride} does not tile the"
      " circular canvas"
    )
  return ""


def map_action(
  o: Orbit,
  where: Geometry,
  shape: tuple[int, int],
  image_shape: tuple[int, int],
) -> MapAction:
  """How t^-1 acts on a map, for every element t of an orbit.

  Args:
    o: the orbit.
    where: the map's geometry.
    shape: (height, width) of the map.
    image_shape: (height, width) of the image.

  Returns:
    Positions, weights and masks, computed in float64.
  """
  # t^-1 brings back what t moved away: position p reads at t(p).
  matrices = o.family.matrix(np.asarray(o.thetas))
  y, x = affine.source_coordinates(
    matrices,
    shape,
    stride=where.stride,
    offset=where.offset,
    image_shape=image_shape,
  )
  indices, weights = sampling.taps(y, x, shape, order=1, border=o.border)
  mask = defined = np.ones(y.shape, bool)
  inside = np.ones(y.shape[-1], bool)
  j, i = np.mgrid[: shape[0], : shape[1]].reshape(2, 1, -1).astype(float)
  for own, read, size, canvas in (
    (j, y, shape[0], image_shape[0]),
    (i, x, shape[1], image_shape[1]),
  ):
    low, high = _positions_inside(where, size, canvas)
    inside = inside & _within(own[0], low, high)
    mask = mask & inside & _within(read, low, high)
    defined = defined & _within(read, 0, size - 1)
  if o.border == "circular":  # a canvas mapped onto itself has no edge
    edgeless = affine.wraps(matrices, image_shape)[:, None]
    mask, defined = mask | edgeless, defined | edgeless
    inside = inside | edgeless.all()
  rows, columns = (
    sampling.area_average(
      canvas,
      size,
      where.stride,
      where.offset,
      circular=o.border == "circular",
    ).astype(np.float32)
    for canvas, size in zip(image_shape, shape, strict=True)
  )
  return MapAction(
    indices,
    weights,
    inside.astype(np.float32),
    mask.astype(np.float32),
    defined.astype(np.float32),
    rows,
    columns,
  )


def _positions_inside(
  where: Geometry, size: int, canvas: int
) -> tuple[int, int]:
  """First and last position whose receptive field lies inside the canvas."""
  reach = (where.receptive_field - 1) / 2
  low = np.ceil((reach - where.offset) / where.stride)
  high = np.floor((canvas - 1 - reach - where.offset) / where.stride)
  return max(int(low), 0), min(int(high), size - 1)


def _within(
  position: Float[np.ndarray, "..."], low: int, high: int
) -> np.ndarray:
  """Whether all positions that interpolation reads lie in [low, high]."""
  tolerance = 1e-9  # for coordinates that are whole but for float64 rounding
  return (np.floor(position + tolerance) >= low) & (
    np.ceil(position - tolerance) <= high
  )
