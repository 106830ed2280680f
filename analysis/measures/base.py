"""What a measure is, what it is given and what it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple


class MapAction(NamedTuple):
  """How an orbit acts on the positions of one feature map.

  Attributes:
    indices: (t, k, p) positions that t^-1 reads, for each of the p positions.
    weights: (t, k, p) their interpolation weights.
    inside: (p,) 1 where the position's receptive field lies inside the canvas.
    mask: (t, p) 1 where the position's receptive field, before and after,
      lies inside the canvas.
    defined: (t, p) 1 wherever t^-1 reads inside the map.
    rows: (h, H) matrix that averages image rows over each map row.
    columns: (w, W) the same for columns.
  """

  indices: Any
  weights: Any
  inside: Any
  mask: Any
  defined: Any
  rows: Any
  columns: Any


class Elements(NamedTuple):
  """The elements of an orbit, as numbers; NaN where they are not known.

  Attributes:
    magnitude: (t,) size in the family's unit.
    displacement: (t,) root mean square pixels that content moves.
    identity: (t,) 1 for an element that moves nothing, else 0.
  """

  magnitude: Any
  displacement: Any
  identity: Any


class Statistics(NamedTuple):
  """What is known of a layer's untransformed activations before the pass.

  Attributes:
    mean: (u,) over all images.
    thresholds: (2, u) that 1 % of the images exceed, of f and of -f.
  """

  mean: Any
  thresholds: Any


class Images(NamedTuple):
  """The images behind a batch.

  Attributes:
    reference: (b, H, W, c) untransformed.
    transformed: (t, b, H, W, c).
  """

  reference: Any
  transformed: Any


class OrbitBatch(NamedTuple):
  """One layer's activations for a batch of images under a whole orbit.

  The output of the network is a layer too, for the measures of the output.
  What no measure needs, or nobody knows, is None.

  Attributes:
    reference: (b, u) activations of the untransformed images.
    transformed: (t, b, u) activations of the transformed images.
    aligned: (t, b, p, c) the transformed maps with the transformation undone,
      t^-1 f(t x), positions in reading order; 0 where t^-1 reads outside.
    action: how the orbit acts on the map.
    images: the images themselves.
    tangents: {kind: (g, b, u)} derivative of f(T_s x) along each generator of
      the family, with the image gradient of that kind; see
      `analysis.gradients`.
    aligned_tangents: {kind: (g, b, p, c)} that of T_-s f(T_s x).
    elements: the orbit's.
    statistics: of all untransformed activations.
    labels: (b,) class of each image, -1 where unknown.
    weight: (b,) 1 for an image, 0 for the padding of a ragged last batch. The
      first image of a batch is never padding.
    index: (b,) which image of the data set each is.
    reductions: what `analysis.measures.reductions` would compute of the batch,
      where it is known already.
  """

  reference: Any
  transformed: Any
  aligned: Any
  action: Any
  images: Any
  tangents: Any
  aligned_tangents: Any
  elements: Elements
  statistics: Any
  labels: Any
  weight: Any
  index: Any
  reductions: Any = None


class Shapes(NamedTuple):
  """What a measure may know before the first batch.

  Attributes:
    elements: number of orbit elements.
    units: number of units of the layer.
    positions: (height, width) of the layer's map, or None.
    generators: number of generators of the family.
    images: number of images in the whole pass.
    batch: images a batch.
    action: the layer's, or None.
  """

  elements: int
  units: int
  positions: tuple[int, int] | None
  generators: int
  images: int
  batch: int
  action: Any

  @property
  def channels(self) -> int:
    """Units of one position; all of them for a layer without positions."""
    if self.positions is None:
      return self.units
    return self.units // (self.positions[0] * self.positions[1])


class Row(NamedTuple):
  """One value of a measure for one layer.

  Attributes:
    measure: the measure's name.
    value: the value; NaN where it is undefined, with the reason in `note`.
    element: index of the orbit element, or None for the orbit as a whole.
    floor: the same measure for an ideal layer, or NaN.
    dead_fraction: fraction of the layer's units that never vary, where the
      measure counts them in a way of its own, or NaN.
    note: why a value is missing, or empty.
    units: (u,) the value of every unit, where the measure has one.
    generator: index of the family's generator, for a derivative.
    radius: magnitude of a mean over all elements of one magnitude.
    unit: replaces the family's unit.
  """

  measure: str
  value: float
  element: int | None = None
  floor: float = float("nan")
  dead_fraction: float = float("nan")
  note: str = ""
  units: Any = None
  generator: int | None = None
  radius: float | None = None
  unit: str = ""


class Measure(NamedTuple):
  """Three pure functions that turn a stream of batches into rows.

  Each layer has a state of its own. Measures with the same `init` and `update`
  share it, so that what they read is summed once.

  Attributes:
    init: from `Shapes` to the empty state, a pytree of arrays.
    update: (state, `OrbitBatch`) -> state; jittable. The result of a stream
      does not depend on how it is cut into batches, beyond rounding; for a
      measure of "pairs" beyond what its protocol says.
    finalize: from the state, on the host, to the rows.
    name: of the measure, and of its main row.
    protocol: what is done, in a word or two; with the orbit's extent and the
      version it identifies a value in tables.
    version: raised whenever values change.
    needs: what the batches must carry: any of "labels", "aligned" (a layer
      without it is left out, with the reason), "images",
      "statistics", "pairs" (all images that are compared with each other are
      in one batch) and "tangents:KIND".
    scope: "layer" for every layer, "output" for the network's output.
    refuses: from the `Orbit`, None if it is not known, to the reason why the
      measure does not apply to it; empty if it does.
    min_elements: smallest orbit that the measure is defined for.
    reads: the reductions that `update` reads, by their names in
      `analysis.measures.reductions`.
    arrays: whether `update` reads activations too. Without, it may be called
      once for all images, with their reductions and no activations.
  """

  init: Callable[[Shapes], Any]
  update: Callable[[Any, OrbitBatch], Any]
  finalize: Callable[[Any], list[Row]]
  name: str
  protocol: str
  version: int = 1
  needs: frozenset[str] = frozenset()
  scope: str = "layer"
  refuses: Callable[[Any], str] = lambda orbit: ""
  min_elements: int = 1
  reads: frozenset[str] = frozenset()
  arrays: bool = True
