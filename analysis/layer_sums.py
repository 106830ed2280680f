"""The sums of one layer over all steps of a pass, added to by native loops."""

import functools
from typing import Any

import numpy as np

from analysis.kernels import maps, units
from analysis.linear_sums import LinearSums
from analysis.measures import base, linear_map, reduced, reductions, sums

# Bytes of activations that a tile may have: within a core's second-level cache.
_TILE_BYTES = 800 * 1024

# Bytes of rows that are sorted together: within the first-level cache.
_SORT_BYTES = 24 * 1024

# Positions of a map at a time: each reads positions beyond its own, so fewer
# read more twice.
_POSITIONS = 256

# So few images are compared each with each, not sorted.
_FEW = 16

_F4, _F8 = np.float32, np.float64


class LayerSums:
  """Running sums of one layer.

  A step is added by several threads, each its share of the units (`add`), and
  closed by one (`close`). Float32 within a tile, float64 across tiles.
  """

  def __init__(
    self,
    wanted: frozenset[str],
    shapes: base.Shapes,
    elements: base.Elements,
    statistics: base.Statistics | None,
    threads: int,
  ) -> None:
    """Sums of nothing.

    Args:
      wanted: names of reductions.
      shapes: of the layer.
      elements: of the orbit.
      statistics: of the layer, if a wanted reduction needs them.
      threads: that share each step.
    """
    self.wanted = wanted
    self._threads = threads
    self._shapes = shapes
    t, u, b = shapes.elements, shapes.units, shapes.batch
    self._tile = int(np.clip(_TILE_BYTES // (4 * t * b) // 16 * 16, 64, 1024))
    self._seen = 0
    self._known = _known(wanted, elements, statistics)
    few = "pairs" not in wanted or b <= _FEW
    self._networks = (
      _network(t if "pairs" in wanted else 0),
      _network(0 if few else b),
    )
    self._by_unit = (
      _zeros("reference" in wanted, 3, u),
      _zeros("over_orbit" in wanted or "over_images" in wanted, 2, u),
      _zeros("over_orbit" in wanted or "over_images" in wanted, t, 3, u),
      _zeros("pairs" in wanted, 2, u, dtype=_F8),
      _zeros("firing" in wanted, 2, 2, u),
    )
    spread = "undone_over_orbit" in wanted or "undone_over_images" in wanted
    self._undone = (
      _zeros("undone" in wanted or spread, t, _positions(shapes), dtype=_F8),
      _zeros(spread, 2, u),
      _zeros(spread, t, 3, u),
    )
    self._action = shapes.action
    self._pair_count = 0.0
    self._moved = np.zeros((2, t))
    self._cosines = np.zeros((2, t))
    self._hsic = reduced.Hsic(0.0, np.zeros(t), np.zeros(t))
    self._by_image: list[tuple[Any, ...]] = []
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
    wanted = self.wanted
    moved = bool(wanted & {"moved", "cosines"})
    self._by_image = [
      (
        _zeros(moved, t, images, dtype=_F8),
        _zeros("cosines" in wanted, 2, t, images, dtype=_F8),
        _zeros("cosines" in wanted, images, dtype=_F8),
        _zeros("hsic" in wanted, t, images, images, dtype=_F8),
        _zeros("hsic" in wanted, 1, images, images, dtype=_F8),
        _zeros("finite" in wanted, t, dtype=_F8),
      )
      for _ in range(self._threads)
    ]

  def add(self, thread: int, x: Any, r: Any) -> None:
    """Adds a thread's share of a step.

    Args:
      thread: which one.
      x: (t, b, u) activations of the transformed images.
      r: (b, u) of the untransformed ones.
    """
    t, b, u = x.shape
    tile = self._tile
    first, last = _share(u, tile, thread, self._threads)
    if first < last:
      lanes = int(np.clip(_SORT_BYTES // (4 * max(t, b)) // 16 * 16, 64, 512))
      scratch = (
        np.empty((2, b, tile), _F4),
        np.empty((max(t, b), lanes), _F4),
        np.empty(max(tile, lanes), _F4),
        np.empty((b, tile), _F4),
      )
      units.add_units(
        x,
        r,
        first,
        last,
        tile,
        self._seen,
        self._known,
        self._networks,
        self._by_unit,
        self._by_image[thread],
        scratch,
      )
    channels = self._shapes.channels
    own_maps = x.reshape(t, b, u // channels, channels)
    if self._sampled.size:
      maps.sample(
        own_maps,
        self._action.indices,
        self._action.weights,
        self._at,
        t * thread // self._threads,
        t * (thread + 1) // self._threads,
        *self._sampled,
      )
    errors, spread, moments = self._undone
    if not errors.size:
      return
    positions = errors.shape[1]
    block = max(1, min(_POSITIONS, 8192 // channels))
    first, last = _share(positions, block, thread, self._threads)
    if first < last:
      maps.add_undone(
        own_maps,
        r,
        self._action.indices,
        self._action.weights,
        (first, last, block),
        self._seen,
        errors,
        spread,
        moments,
        np.empty((3, b + 1, block * channels), _F4),
        np.empty((block, channels), _F4),
      )

  def close(self, x: Any, r: Any, index: Any) -> reduced.Reductions:
    """Ends a step.

    Args:
      x: (t, b, u) as in `add`.
      r: (b, u).
      index: (b,) which image of the data set each is.

    Returns:
      What measures that see every step may read of this one.
    """
    images = len(index)
    if self._linear is not None:
      moved = aligned = x[:, :, None]
      if self._sampled.size:
        moved, aligned = self._sampled
      self._linear.add(r, moved, aligned, index)
    squares, products, own, grams, gram, finite = (
      functools.reduce(np.add, parts)
      for parts in zip(*self._by_image, strict=True)
    )
    self._by_image = []
    self._seen += images
    self._pair_count += images * (images - 1) / 2
    if finite.size:
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
      new = reductions.hsic_of(_centred(gram)[0], _centred(grams), images)
      self._hsic = reduced.Hsic(
        *(a + b for a, b in zip(self._hsic, new, strict=True))
      )
    return reduced.Reductions(None, moved=moved)

  def total(self) -> reduced.Reductions:
    """The reductions of all images so far."""
    wanted, count = self.wanted, _F4(self._seen)
    reference, spread, moments, pairs, firing = self._by_unit
    errors, spread_undone, moments_undone = self._undone
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
  return np.zeros(shape if wanted else (0,) * len(shape), dtype)


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
  return np.array(sums.comparators(rows), np.int64).reshape(-1, 2)


def _share(size: int, tile: int, thread: int, threads: int) -> tuple[int, int]:
  """First and last of a thread's whole tiles."""
  tiles = -(-size // tile)
  first, last = (tiles * k // threads for k in (thread, thread + 1))
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
