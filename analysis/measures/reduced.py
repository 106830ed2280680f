"""Containers of what `analysis.measures.reductions` computes."""

from typing import Any, NamedTuple


class Spread(NamedTuple):
  """Spread over the orbit.

  Attributes:
    deviations: (u,) sum over images of the standard deviation over the orbit.
    within: (u,) the same of the variance.
  """

  deviations: Any
  within: Any


class Moved(NamedTuple):
  """Distances of f(t x) from f(x).

  Attributes:
    squares: (t,) sum over images of the squared distance.
    distances: (t,) sum over images of the distance.
  """

  squares: Any
  distances: Any


class Cosines(NamedTuple):
  """Cosines between f(x) and f(t x), less the mean over the data set.

  Attributes:
    total: (t,) sum over the images that have one.
    images: (t,) how many do.
  """

  total: Any
  images: Any


class Hsic(NamedTuple):
  """Unbiased HSIC between the images of a block, times their number.

  Attributes:
    before: () of f(x) with itself.
    cross: (t,) of f(x) with f(t x).
    after: (t,) of f(t x) with itself.
  """

  before: Any
  cross: Any
  after: Any


class Pairs(NamedTuple):
  """Absolute differences.

  Attributes:
    over_orbit: (u,) sum over images and pairs of elements.
    over_images: (u,) sum over elements and pairs of images of a block.
    count: () pairs of images.
  """

  over_orbit: Any
  over_images: Any
  count: Any


class Firing(NamedTuple):
  """Firing of s f above its threshold, for s = 1 and -1.

  Attributes:
    fires: (2, u) images on which a unit fires.
    local: (2, u) elements other than the identity under which it fires too.
  """

  fires: Any
  local: Any


class Reductions(NamedTuple):
  """Reductions of some images; None for what nobody asked for.

  Attributes:
    images: () how many.
    reference: `Moments` of f(x), (u,).
    finite: (t,) finite if all f(t x) are.
    over_orbit: `Spread` of f(t x).
    over_images: `Moments` of f(t x), (t, u).
    moved: `Moved`.
    cosines: `Cosines`.
    hsic: `Hsic`.
    pairs: `Pairs`.
    firing: `Firing`.
    undone: (t, p) sum over images and channels of (t^-1 f(t x) - f(x))^2.
    undone_over_orbit: `Spread` of t^-1 f(t x).
    undone_over_images: `Moments` of t^-1 f(t x), (t, u).
    ideal: `Ideal`.
    tangents: {kind: `Tangents`}.
    linear: second moments that `analysis.measures.linear_map` fits to.
  """

  images: Any
  reference: Any = None
  finite: Any = None
  over_orbit: Any = None
  over_images: Any = None
  moved: Any = None
  cosines: Any = None
  hsic: Any = None
  pairs: Any = None
  firing: Any = None
  undone: Any = None
  undone_over_orbit: Any = None
  undone_over_images: Any = None
  ideal: Any = None
  tangents: Any = None
  linear: Any = None


class Ideal(NamedTuple):
  """The ideal layer: the image brought to the map's resolution.

  Attributes:
    errors: (t, p) as `undone`, of the ideal layer.
    reference: `Moments` of its map, (p,).
  """

  errors: Any
  reference: Any


class Tangents(NamedTuple):
  """Derivatives along the generators.

  Attributes:
    invariant: (g,) sum over images of ||d/ds f(T_s x)||^2.
    equivariant: (g,) of ||m d/ds T_-s f(T_s x)||^2, m = 1 where the receptive
      field lies inside the canvas; None for a layer without a map.
  """

  invariant: Any
  equivariant: Any
