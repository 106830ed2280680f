"""The remaining measures in float64, pair by pair and image by image.

Arrays are (n, u) without and (t, n, u) with the transformation, maps (n, h, w,
c) and (t, n, h, w, c). Nothing is shared with analysis/.
"""

import itertools

import numpy as np
from scipy import ndimage, stats

# --- distances ---------------------------------------------------------------


def mean_pair_difference(values):
  """Mean |a - b| over all pairs along the leading axis, pair by pair."""
  pairs = itertools.combinations(np.asarray(values, np.float64), 2)
  return np.mean([np.abs(a - b) for a, b in pairs], axis=0)


def normalized_distance(transformed):
  """Transformation and sample distance of every unit."""
  td = mean_pair_difference(transformed).mean(axis=0)
  sd = mean_pair_difference(np.swapaxes(transformed, 0, 1)).mean(axis=0)
  return td, sd


# --- Goodfellow --------------------------------------------------------------


def goodfellow(reference, transformed, identity=()):
  """Score of every unit, NaN for one that is silent, and of the layer."""
  count, units = reference.shape
  copies = [t for i, t in enumerate(transformed) if i not in identity]
  firing = max(1, round(0.01 * count))
  scores = np.full(units, np.nan)
  for unit in range(units):
    for sign in (1, -1):
      before = sign * reference[:, unit]
      threshold = np.sort(before)[-1 - firing]
      on = [i for i in range(count) if before[i] > threshold]
      if not on:
        continue
      local = np.mean(
        [sign * copy[i, unit] > threshold for i in on for copy in copies]
      )
      scores[unit] = np.fmax(scores[unit], local / (len(on) / count))
  alive = np.sort(scores[~np.isnan(scores)])[::-1]
  top = max(1, round(0.2 * len(alive)))
  return scores, alive[:top].mean() if len(alive) else np.nan


# --- analysis of variance ----------------------------------------------------


def anova(transformed):
  """F and p of the transformation in a two-way layout without replication."""
  values = np.asarray(transformed, np.float64)
  t, n = values.shape[:2]
  grand = values.mean(axis=(0, 1))
  of_element, of_image = values.mean(axis=1), values.mean(axis=0)
  between = n * ((of_element - grand) ** 2).sum(axis=0)
  rest = values - of_element[:, None] - of_image[None] + grand
  error = (rest**2).sum(axis=(0, 1)) / ((t - 1) * (n - 1))
  with np.errstate(divide="ignore"):
    f = between / (t - 1) / error
  return f, stats.f.sf(f, t - 1, (t - 1) * (n - 1))


def holm(p, level):
  """Rejections, the smallest p first, until the first that is not."""
  rejected = [False] * len(p)
  for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
    if p[i] > level / (len(p) - rank):
      break
    rejected[i] = True
  return rejected


# --- similarity --------------------------------------------------------------


def cosine(reference, transformed):
  """Mean over images, one value for each orbit element."""
  mean = reference.mean(axis=0)
  result = []
  for moved in transformed:
    cosines = []
    for x, y in zip(reference - mean, moved - mean, strict=True):
      length = np.linalg.norm(x) * np.linalg.norm(y)
      if length > 0:
        cosines.append(x @ y / length)
    result.append(np.mean(cosines) if cosines else np.nan)
  return np.array(result)


def hsic(one, other):
  """Song et al. (2012), equation 5: unbiased, of linear kernels."""
  n = len(one)
  k, l_ = one @ one.T, other @ other.T  # as in the paper: K and L
  np.fill_diagonal(k, 0)
  np.fill_diagonal(l_, 0)
  ones = np.ones(n)
  trace = np.trace(k @ l_)
  product = (ones @ k @ ones) * (ones @ l_ @ ones) / ((n - 1) * (n - 2))
  return (trace + product - 2 / (n - 2) * (ones @ k @ l_ @ ones)) / (
    n * (n - 3)
  )


def cka(reference, transformed, blocks=1):
  """Debiased linear CKA; HSIC averaged over blocks of consecutive images."""
  parts = np.array_split(np.arange(len(reference)), blocks)
  weight = [len(p) / len(reference) for p in parts]

  def mean(one, other):
    return sum(
      w * hsic(one[p], other[p]) for w, p in zip(weight, parts, strict=True)
    )

  own = mean(reference, reference)
  return np.array(
    [mean(reference, y) / np.sqrt(own * mean(y, y)) for y in transformed]
  )


# --- linear maps -------------------------------------------------------------


def _neighbourhood(image, j, i, size):
  """The size x size neighbourhood of a position, zeros outside."""
  reach = size // 2
  padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
  return padded[j : j + size, i : i + size].reshape(-1)


def equivariant_map(maps, aligned, positions, size):
  """R^2 on odd images of a size x size convolution fitted on even ones.

  The mean of each channel over images and positions is taken off, and lies
  outside the map. Ridge regression on an explicit design matrix, whose extra
  rows are the penalty; the constant has none.
  """

  mean = maps.mean(axis=(0, 1, 2))
  maps, aligned = maps - mean, aligned - mean

  def samples(start):
    design, targets = [], []
    for x, y in zip(maps[start::2], aligned[start::2], strict=True):
      for j, i in positions:
        design.append([*_neighbourhood(x, j, i, size), 1.0])
        targets.append(y[j, i])
    return np.array(design), np.array(targets)

  design, targets = samples(0)
  free = design.shape[1] - 1
  penalty = 1e-3 * (design[:, :-1] ** 2).sum(axis=0).mean()
  extra = np.sqrt(penalty) * np.eye(free, free + 1)
  solution = np.linalg.lstsq(
    np.vstack([design, extra]),
    np.vstack([targets, np.zeros((free, targets.shape[1]))]),
    rcond=None,
  )[0]
  design, targets = samples(1)
  return r_squared(design @ solution, targets)


def r_squared(predicted, targets):
  """1 less the squared error over the variation about each channel's mean."""
  error = ((predicted - targets) ** 2).sum()
  return 1 - error / ((targets - targets.mean(axis=0)) ** 2).sum()


# --- sensitivity -------------------------------------------------------------


def class_median(reference, labels):
  """Median distance between two images of different known classes."""
  distances = [
    np.linalg.norm(reference[i] - reference[j])
    for i, j in itertools.combinations(range(len(labels)), 2)
    if labels[i] != labels[j] and min(labels[i], labels[j]) >= 0
  ]
  return np.median(distances) if distances else np.nan


# --- output ------------------------------------------------------------------


def cohens_kappa(one, other, classes):
  """Of two answers to the same images."""
  observed = np.mean([a == b for a, b in zip(one, other, strict=True)])
  chance = sum(np.mean(one == k) * np.mean(other == k) for k in range(classes))
  return (observed - chance) / (1 - chance)


def pairwise_consistency(answers):
  """Share of pairs of elements with equal answers (t, n), and chance."""
  pairs = list(itertools.combinations(answers, 2))
  observed = np.mean([a == b for a, b in pairs])
  classes = range(answers.max() + 1)
  chance = np.mean(
    [sum(np.mean(a == k) * np.mean(b == k) for k in classes) for a, b in pairs]
  )
  return observed, chance


def softmax(logits):
  shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return shifted / shifted.sum(axis=-1, keepdims=True)


def jaggedness(reference, transformed):
  """(changes, step, centre, wobble) along a path of logits (t, n, k)."""
  p = softmax(transformed)
  changes, step, centre, wobble = [], [], [], []
  for i in range(len(reference)):
    top = [int(np.argmax(x[i])) for x in transformed]
    fixed = int(np.argmax(reference[i]))
    wobble.append(max(q[i, fixed] for q in p) - min(q[i, fixed] for q in p))
    for k in range(len(p) - 1):
      changes.append(top[k] != top[k + 1])
      step.append(abs(p[k][i, top[k]] - p[k + 1][i, top[k]]))
      centre.append(abs(p[k][i, fixed] - p[k + 1][i, fixed]))
  return tuple(map(np.mean, (changes, step, centre, wobble)))


# --- derivatives -------------------------------------------------------------


def fourier_shift(maps, dx, dy):
  """Maps (n, h, w, c) moved right and down on a periodic canvas, exactly.

  The Nyquist coefficient of an even axis is left alone.
  """
  for axis, shift in ((2, dx), (1, dy)):
    size = maps.shape[axis]
    frequency = np.fft.fftfreq(size)
    if size % 2 == 0:
      frequency[size // 2] = 0
    shape = [1] * 4
    shape[axis] = size
    phase = np.exp(-2j * np.pi * frequency * shift).reshape(shape)
    maps = np.fft.ifft(np.fft.fft(maps, axis=axis) * phase, axis=axis).real
  return maps


def circular_convolution(images, kernel):
  """Odd kernel (k, k, c, d), cross-correlation, stride 1."""
  result = np.zeros(())
  reach = len(kernel) // 2
  for j in range(len(kernel)):
    for i in range(len(kernel)):
      moved = np.roll(images, (reach - j, reach - i), axis=(1, 2))
      result = result + moved @ kernel[j, i]
  return result


def smooth_images(count, size, seed, sigma=2.0):
  """Random images without content near the Nyquist frequency."""
  noise = np.random.default_rng(seed).normal(size=(count, size, size, 1))
  smooth = ndimage.gaussian_filter(noise, (0, sigma, sigma, 0), mode="wrap")
  return smooth / np.abs(smooth).max()
