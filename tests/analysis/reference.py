"""The measures written out in float64 NumPy and SciPy, one image at a time.

Slow and literal: what the fast code is compared with. It shares nothing with
analysis/ but the transformation's matrix.
"""

import numpy as np
from scipy import ndimage


def warp_image(image, matrix):
  """Bilinear, zeros outside; (h, w, c) and a matrix on centred (x, y, 1)."""
  height, width, channels = image.shape
  centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
  pull = np.linalg.inv(matrix)
  y, x = np.mgrid[:height, :width]
  source = np.einsum(
    "ij,jhw->ihw", pull, np.stack([x - centre_x, y - centre_y, np.ones_like(x)])
  )
  coordinates = [source[1] + centre_y, source[0] + centre_x]
  return np.stack(
    [
      ndimage.map_coordinates(
        image[..., c], coordinates, order=1, mode="grid-constant"
      )
      for c in range(channels)
    ],
    axis=-1,
  )


def yardstick(reference):
  """V: the sum over units of the unbiased variance over images."""
  return reference.reshape(len(reference), -1).var(axis=0, ddof=1).sum()


def invariance_error(reference, transformed):
  """One value for each orbit element."""
  squares = (transformed - reference[None]) ** 2
  distances = squares.reshape(*squares.shape[:2], -1).sum(axis=-1)
  return np.sqrt(distances.mean(axis=1) / (2 * yardstick(reference)))


def normalized_variance(transformed):
  """Transformation and sample deviations of every unit."""
  tv = transformed.std(axis=0, ddof=1).mean(axis=0)
  sv = transformed.std(axis=1, ddof=1).mean(axis=0)
  return tv, sv


def sources(matrix, geometry, shape, canvas):
  """Where t^-1 reads for each position of a map: (y, x) in positions."""
  centre = (canvas - 1) / 2
  result = np.empty((*shape, 2))
  for j in range(shape[0]):
    for i in range(shape[1]):
      x = geometry.offset + geometry.stride * i - centre
      y = geometry.offset + geometry.stride * j - centre
      moved = matrix @ np.array([x, y, 1])
      result[j, i, 0] = (moved[1] + centre - geometry.offset) / geometry.stride
      result[j, i, 1] = (moved[0] + centre - geometry.offset) / geometry.stride
  # Coordinates that are whole but for rounding are whole.
  return np.where(
    np.abs(result - np.round(result)) < 1e-9, np.round(result), result
  )


def masks(matrix, geometry, shape, canvas):
  """(receptive fields inside before and after, t^-1 defined), 0 or 1."""
  reads = sources(matrix, geometry, shape, canvas)
  reach = (geometry.receptive_field - 1) / 2

  def sees_inside(position):
    centre = geometry.offset + geometry.stride * position
    return centre - reach >= 0 and centre + reach <= canvas - 1

  inside, defined = np.zeros(shape), np.zeros(shape)
  for j in range(shape[0]):
    for i in range(shape[1]):
      y, x = reads[j, i]
      corners = [np.floor(y), np.ceil(y), np.floor(x), np.ceil(x)]
      exists = (
        min(corners) >= 0
        and max(corners[:2]) < shape[0]
        and max(corners[2:]) < shape[1]
      )
      defined[j, i] = exists
      inside[j, i] = exists and all(map(sees_inside, [j, i, *corners]))
  return inside, defined


def equivariance_error(reference, transformed, matrices, geometry, canvas):
  """(inside the mask, wherever defined) for each orbit element."""
  shape = reference.shape[1:3]
  variance = reference.var(axis=0, ddof=1).sum(axis=-1)
  result = []
  for maps, matrix in zip(transformed, matrices, strict=True):
    reads = np.moveaxis(sources(matrix, geometry, shape, canvas), -1, 0)
    back = np.stack(
      [
        np.stack(
          [
            ndimage.map_coordinates(
              one[..., c], reads, order=1, mode="grid-constant"
            )
            for c in range(one.shape[-1])
          ],
          axis=-1,
        )
        for one in maps
      ]
    )
    squares = ((back - reference) ** 2).sum(axis=-1).mean(axis=0)
    result.append(
      [
        np.sqrt((mask * squares).sum() / (2 * (mask * variance).sum()))
        if mask.any()
        else np.nan
        for mask in masks(matrix, geometry, shape, canvas)
      ]
    )
  return np.array(result)


def area_average(images, geometry, shape):
  """Images at a map's resolution: the mean over each position's own square."""
  fine = np.repeat(np.repeat(images, 4, axis=1), 4, axis=2)  # quarter pixels
  result = np.zeros((len(images), *shape, images.shape[-1]))
  reach = 2 * geometry.stride  # half a stride, in quarter pixels
  for j in range(shape[0]):
    for i in range(shape[1]):
      y, x = (
        int(4 * (geometry.offset + geometry.stride * k) + 2) for k in (j, i)
      )
      window = fine[
        :, max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach
      ]
      result[:, j, i] = window.sum(axis=(1, 2)) / (2 * reach) ** 2
  return result
