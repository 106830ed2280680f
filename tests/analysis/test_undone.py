"""Feature maps with the transformation undone, by loops over vectors."""

import ctypes
import mmap

import numpy as np
import pytest

from analysis.kernels import blocks, maps, vectors

ELEMENTS, IMAGES, POSITIONS = 3, 4, 6


def _ending_where_nothing_may_be_read(values):
  """A read-only copy, behind which reading a number ends the process."""
  pages = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
  memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
  copy = np.frombuffer(
    memory, np.float32, values.size, offset=pages - values.nbytes
  ).reshape(values.shape)
  copy[...] = values
  libc = ctypes.CDLL(None, use_errno=True)
  behind = ctypes.c_void_p(copy.ctypes.data + copy.nbytes)
  assert libc.mprotect(behind, mmap.PAGESIZE, 0) == 0
  copy.flags.writeable = False
  return copy


def _layer(channels):
  rng = np.random.default_rng(channels)
  size = ELEMENTS, IMAGES, POSITIONS, channels
  x = rng.normal(size=size).astype(np.float32)
  r = rng.normal(size=size[1:]).astype(np.float32)
  indices = rng.integers(0, POSITIONS, (ELEMENTS, 4, POSITIONS))
  indices[0, 2] = POSITIONS - 1
  weights = rng.uniform(size=indices.shape).astype(np.float32)
  return x, r, indices.astype(np.int32), weights


def _errors(x, r, indices, weights, floor=vectors.NO_FLOOR):
  """Squared errors by element and position, of blocks of as few as there are.

  Each element's activations lie by themselves.
  """
  channels = x.shape[-1]
  parts = [
    _ending_where_nothing_may_be_read(a.reshape(1, IMAGES, -1)) for a in x
  ]
  own = _ending_where_nothing_may_be_read(r.reshape(IMAGES, -1))
  errors = vectors.zeros(ELEMENTS, POSITIONS, dtype=np.float64)
  for first, last in ((0, 2), (2, POSITIONS)):
    maps.add_undone(
      blocks.addresses(parts),
      own,
      channels,
      indices,
      weights,
      floor,
      (first, last, 2),
      0,
      errors,
      vectors.zeros(0, 0),
      vectors.zeros(0, 0, 0, 0),
      vectors.empty(ELEMENTS, IMAGES, 2 * channels + vectors.LANES),
      vectors.empty(IMAGES, vectors.LANES),
      vectors.empty(vectors.LANES),
    )
  return errors


def _undone(x, indices, weights):
  """By NumPy, float64."""
  read = np.stack([a[:, at] for a, at in zip(x, indices, strict=True)])
  return np.einsum("tbkpc,tkp->tbpc", read.astype(np.float64), weights)


@pytest.mark.parametrize("floor", [vectors.NO_FLOOR, np.float32(0)])
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 21, 32])
def test_maps_of_any_number_of_channels_are_undone(channels, floor):
  x, r, indices, weights = _layer(channels)
  exact = _undone(np.maximum(x, floor), indices, weights)
  np.testing.assert_allclose(
    _errors(x, r, indices, weights, floor),
    np.square(exact - r).sum((1, 3)),
    rtol=1e-5,
  )


@pytest.mark.parametrize("channels", [1, 8, 21])
def test_a_position_is_undone_without_its_neighbours(channels):
  x, r, indices, weights = _layer(channels)
  indices[...] = np.arange(POSITIONS)
  x[1, 2, 3, 0] = np.inf
  found = np.isfinite(_errors(x, r, indices, weights))
  expected = np.ones((ELEMENTS, POSITIONS), bool)
  expected[1, 3] = False
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 8, 16, 21])
def test_samples_are_those_of_the_maps(channels):
  x, _, indices, weights = _layer(channels)
  parts = [
    _ending_where_nothing_may_be_read(a.reshape(1, IMAGES, -1)) for a in x
  ]
  at = np.array([0, 3, POSITIONS - 1])
  moved, aligned = np.full(
    (2, ELEMENTS, IMAGES, len(at), channels), np.nan, np.float32
  )
  maps.sample(
    blocks.addresses(parts),
    (IMAGES, POSITIONS, channels),
    indices,
    weights,
    vectors.NO_FLOOR,
    at,
    0,
    ELEMENTS,
    moved,
    aligned,
  )
  np.testing.assert_array_equal(moved, x[:, :, at])
  exact = _undone(x, indices, weights)[:, :, at]
  np.testing.assert_allclose(aligned, exact, rtol=1e-5, atol=1e-6)
