"""The sums of one layer over all steps of a pass, added to by native loops."""

import functools
import math
from typing import Any

import numpy as np

from analysis.kernels import columns, maps, spreads, units, vectors
from analysis.linear_sums import LinearSums
from analysis.measures import base, linear_map, reduced, reductions, sums

# Bytes of activations that a tile may have: within a core's second-level cache.
_TILE_BYTES = 300 * 1024
_MOST_UNITS = 512

# Gram matrices of a layer that are looked at together: NumPy takes as long for
# a step's alone.
_GRAM_BYTES = 1 << 20

_F4, _F8 = np.float32, np.float64

# Tiles that make a share of a step worth its call, and shares a thread: enough
# for threads to end together, few enough for sums by image of each.
_TILES, _SHARES = 8, 4

# What makes a tile of units be copied, and read a vector at a time.
_BY_COLUMNS = {"pairs", "hsic", "firing"}

# What is read of the maps alone, not of every unit.
_OF_MAPS = {"undone", "undone_over_orbit", "undone_over_images", "linear"}


class LayerSums:
  """Running sums of one layer.

  A step is added in shares of the units (`add`), several at once if there are
  threads for them, and then closed (`close`). Float32 within a tile, float64
  across tiles.

  Attributes:
    wanted: names of reductions.
    shares: in which every step is to be added.
  """

  def __init__(
    self,
    wanted: frozenset[str],
    shapes: base.Shapes,
    elements: base.Elements,
    statistics: base.Statistics | None,
    threads: int,
    *,
    rectified: bool = False,
  ) -> None:
    """Sums of nothing.

    Args:
      wanted: names of reductions.
      shapes: of the layer.
      elements: of the orbit.
      statistics: of the layer, if a wanted reduction needs them.
      threads: that there are.
      rectified: whether the layer is the ReLU of the transformed activations
        that steps give; those of the untransformed images are its own.
    """
    self._floor = _F4(0) if rectified else vectors.NO_FLOOR
    self.wanted = wanted
    self._shapes = shapes
    t, u, b = shapes.elements, shapes.units, shapes.batch
    v = vectors.padded(u)
    most = min(_MOST_UNITS, v)
    fitting = _TILE_BYTES // (4 * t * b) // vectors.LANES * vectors.LANES
    self._tile = int(np.clip(fitting, vectors.LANES, most))
    tiles = -(-u // self._tile)
    # Each share has Gram matrices of its own: of many images not too often.
    most = threads * (_SHARES if 8 * t * b * b <= _GRAM_BYTES else 1)
    wished = int(np.clip(tiles // _TILES, threads, most))
    # For one thread all is one share.
    self.shares = min(wished, tiles) if threads > 1 else 1
    self._seen = 0
    self._known = _known(wanted, elements, statistics)
    self._networks = _network(t), _network(b)
    spread = wanted & {"over_orbit", "over_images", "pairs"}
    # Moments that are read a vector of units at a time lie in that order: of
    # rows far apart, each in its own page, few would be in the cache in time.
    lanes = vectors.LANES
    w = lanes if wanted & _BY_COLUMNS else v
    self._by_unit = (
      _zeros("reference" in wanted, 3, u),
      _zeros(bool(spread), 2, v),
      _zeros(bool(spread), v // w, t, 3, w),
      _zeros("pairs" in wanted, 2, v, dtype=_F8),
      _zeros("firing" in wanted, 2, 2, u),
    )
    spread = bool(wanted & {"undone_over_orbit", "undone_over_images"})
    self._undone = (
      _zeros("undone" in wanted or spread, t, _positions(shapes), dtype=_F8),
      _zeros(spread, 2, v),
      _zeros(spread, v // lanes, t, 3, lanes),
    )
    self._action = shapes.action
    self._pair_count = 0.0
    self._moved = np.zeros((2, t))
    self._cosines = np.zeros((2, t))
    self._hsic = reduced.Hsic(0.0, np.zeros(t), np.zeros(t))
    self._grams: list[tuple[np.ndarray, np.ndarray]] = []
    self._images = 0  # that there is room for in sums by image
    self._by_image: list[tuple[np.ndarray, ...]] = []
    self._at = None
    self._linear = None
    if "linear" in wanted:
      assert statistics is not None
      self._at = linear_map.chosen_positions(shapes)
    if self._at is not None and self._at.size:
      assert statistics is not None
      self._linear = LinearSums(shapes, self._at, statistics)
    self._sampled = np.zeros((0, 0, 0, 0, 0), _F4)
    self._finite = np.zeros(t)

  def open(self, images: int) -> None:
    """Begins a step of so many images."""
    t = self._shapes.elements
    if self._linear is not None and self._action is not None:
      assert self._at is not None
      size = (2, t, images, len(self._at), self._shapes.channels)
      self._sampled = np.empty(size, _F4)
    if images != self._images:
      self._add_hsic()
      self._images = images
      self._by_image = [self._image_sums() for _ in range(self.shares)]
    for arrays in self._by_image:
      for array in arrays:
        array[...] = 0

  def _image_sums(self) -> tuple[np.ndarray, ...]:
    """What `units.add_units` calls `by_image`."""
    wanted, t, images = self.wanted, self._shapes.elements, self._images
    moved = bool(wanted & {"moved", "cosines"})
    return (
      _zeros(moved, t, images, dtype=_F8),
      _zeros("cosines" in wanted, 2, t, images, dtype=_F8),
      _zeros("cosines" in wanted, images, dtype=_F8),
      _zeros("hsic" in wanted, t, images, images, dtype=_F8),
      _zeros("hsic" in wanted, 1, images, images, dtype=_F8),
      _zeros(True, t, dtype=_F8),
    )

  def add(
    self,
    share: int,
    places: np.ndarray,
    r: np.ndarray,
    part: int = 0,
    parts: int = 1,
  ) -> None:
    """Adds a part of a share of a step.

    Args:
      share: which one.
      places: `blocks.addresses` of the transformed images' activations.
      r: (b, u) of the untransformed ones.
      part: which part of the units.
      parts: how many there are.
    """
    t, (b, u) = self._shapes.elements, r.shape
    tile = self._tile
    piece = share * parts + part, self.shares * parts
    width = tile + vectors.LANES
    # Rows some vectors longer do not lie a power of two apart.
    copies = vectors.scratch("copies", t, b, width)
    rows = vectors.scratch("rows", max(t, b), vectors.LANES)
    line = vectors.scratch("line", vectors.LANES)
    first, last = _tiles(u, tile, *piece)
    if first < last and self.wanted - _OF_MAPS:
      units.add_units(
        places,
        r,
        first,
        last,
        tile,
        self._floor,
        self._seen,
        self._known,
        self._networks,
        self._by_unit,
        self._by_image[share],
        (
          copies,
          rows,
          line,
          vectors.scratch("gram", b + 3, width),
          spreads.scratch(),
        ),
      )
    channels = self._shapes.channels
    if self._sampled.size and part == 0:
      maps.sample(
        places,
        (b, u // channels, channels),
        self._action.indices,
        self._action.weights,
        self._floor,
        self._at,
        t * share // self.shares,
        t * (share + 1) // self.shares,
        *self._sampled,
      )
    errors, spread, moments = self._undone
    if not errors.size:
      return
    # Blocks begin with a vector, whatever the number of channels.
    least = vectors.LANES // math.gcd(channels, vectors.LANES)
    block = max(least, tile // channels // least * least)
    if block * channels > tile:
      width = block * channels + vectors.LANES
      copies = vectors.scratch("copies", t, b, width)
    first, last = _tiles(errors.shape[1], block, *piece)
    if first < last:
      maps.add_undone(
        places,
        r,
        channels,
        self._action.indices,
        self._action.weights,
        self._floor,
        (first, last, block),
        self._seen,
        errors,
        spread,
        moments,
        copies,
        rows,
        line,
      )

  def close(self, x: Any, r: Any, index: Any) -> reduced.Reductions:
    """Ends a step.

    Args:
      x: activations of the transformed images, (k, b, u) of k elements each.
      r: (b, u).
      index: (b,) which image of the data set each is.

    Returns:
      What measures that see every step may read of this one.
    """
    images = len(index)
    if self._linear is not None:
      if self._sampled.size:
        moved, aligned = self._sampled
      else:
        whole = np.maximum(np.concatenate(x), self._floor)
        moved = aligned = whole[:, :, None]
      self._linear.add(r, moved, aligned, index)
    squares, products, own, grams, gram, finite = (
      functools.reduce(np.add, shares[1:], shares[0].copy())
      for shares in zip(*self._by_image, strict=True)
    )
    self._seen += images
    self._pair_count += images * (images - 1) / 2
    self._finite += finite
    moved = None
    if squares.size:
      step = np.stack([squares.sum(-1), np.sqrt(squares).sum(-1)])
      self._moved += step
      moved = reduced.Moved(*step.astype(_F4))
    if own.size:
      norms = np.sqrt(products[1]) * np.sqrt(own)
      known = norms > 0
      cosines = np.divide(products[0], norms, out=norms, where=known)
      self._cosines += [np.where(known, cosines, 0).sum(-1), known.sum(-1)]
    if grams.size:
      self._grams.append((gram, grams))
      if len(self._grams) * grams.nbytes >= _GRAM_BYTES:
        self._add_hsic()
    return reduced.Reductions(None, moved=moved)

  def _add_hsic(self) -> None:
    """Adds those of the Gram matrices that wait, of equally many images."""
    if not self._grams:
      return
    own, others = (
      _centred(np.stack(grams) if len(grams) > 1 else grams[0][None])
      for grams in zip(*self._grams, strict=True)
    )
    self._grams = []
    new = reductions.hsic_of(own, others, self._images)
    before, cross, after = (values.sum(0) for values in new)
    old = self._hsic
    self._hsic = reduced.Hsic(
      old.before + before[0], old.cross + cross, old.after + after
    )

  def total(self) -> reduced.Reductions:
    """The reductions of all images so far."""
    self._add_hsic()
    wanted, count, u = self.wanted, _F4(self._seen), self._shapes.units
    reference, *padded, firing = self._by_unit
    spread, moments, pairs = (_by_rows(a)[..., :u] for a in padded)
    errors, *padded = self._undone
    spread_undone, moments_undone = (_by_rows(a)[..., :u] for a in padded)
    return reduced.Reductions(
      images=count,
      reference=_moments(count, reference),
      over_orbit=reduced.Spread(*spread) if spread.size else None,
      over_images=_moments(count, moments),
      moved=_f4(reduced.Moved(*self._moved)),
      cosines=_f4(reduced.Cosines(*self._cosines)),
      hsic=_f4(self._hsic),
      pairs=_f4(reduced.Pairs(pairs[0], pairs[1], self._pair_count))
      if pairs.size
      else None,
      firing=reduced.Firing(*firing) if "firing" in wanted else None,
      finite=_f4(self._finite),
      linear=None if self._linear is None else self._linear.total(),
      undone=_f4(errors) if errors.size else None,
      undone_over_orbit=reduced.Spread(*spread_undone)
      if spread_undone.size
      else None,
      undone_over_images=_moments(count, moments_undone),
    )


def _zeros(wanted: bool, *shape: int, dtype: Any = _F4) -> np.ndarray:
  """Zeros, or an empty array of as many axes."""
  return vectors.zeros(*(shape if wanted else (0,) * len(shape)), dtype=dtype)


def _by_rows(values: np.ndarray) -> np.ndarray:
  """Moments (v / w, t, 3, w) as (t, 3, v); other sums, (2, v), as they are."""
  if values.ndim == 2 or not values.size:
    return values
  return np.moveaxis(values, 0, 2).reshape(*values.shape[1:3], -1)


def _positions(shapes: base.Shapes) -> int:
  return int(np.prod(shapes.positions)) if shapes.positions else 0


def _known(
  wanted: frozenset[str],
  elements: base.Elements,
  statistics: base.Statistics | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  mean, thresholds = np.zeros(0, _F4), np.zeros((0, 0), _F4)
  if "cosines" in wanted:
    assert statistics is not None
    mean = np.array(statistics.mean, _F4)
  if "firing" in wanted:
    assert statistics is not None
    thresholds = np.array(statistics.thresholds, _F4)
  return mean, thresholds, 1 - np.array(elements.identity, _F4)


def _network(rows: int) -> np.ndarray:
  """Comparators that sort rows; none for few, which are not sorted."""
  network = sums.comparators(rows) if rows > columns.FEW else []
  return np.array(network, np.int64).reshape(-1, 2)


def _tiles(size: int, tile: int, piece: int, pieces: int) -> tuple[int, int]:
  """First and last of a piece of whole tiles."""
  tiles = -(-size // tile)
  first, last = (tiles * k // pieces for k in (piece, piece + 1))
  return first * tile, min(last * tile, size)


def _centred(lower: np.ndarray) -> np.ndarray:
  """Gram matrices of rows less their mean, zero on the diagonal.

  Args:
    lower: (..., b, b) inner products, 0 above the diagonal.

  Returns:
    The matrices.
  """
  count = lower.shape[-1]
  above = np.swapaxes(np.tril(lower, -1), -1, -2)
  centring = np.eye(count) - 1 / count
  return centring @ (lower + above) @ centring * (1 - np.eye(count))


def _moments(count: Any, values: np.ndarray) -> sums.Moments | None:
  """From origin, sum and sum of squares: (..., 3, u)."""
  if not values.size:
    return None
  return sums.Moments(count, *np.moveaxis(values, -2, 0))


def _f4(tree: Any) -> Any:
  if isinstance(tree, tuple):
    return type(tree)(*(np.asarray(a, _F4) for a in tree))
  return np.asarray(tree, _F4)
