"""Image sets as uint8 arrays on a square canvas, in one canonical order.

  digits          scikit-learn's 1,797 handwritten digits; no download
  mnist, fashion_mnist, kmnist
                  the four IDX .gz files if --data_dir holds them (checked by
                  sha256), else data prepared by TensorFlow Datasets (TFDS) and
                  read without TensorFlow, else downloaded and prepared
  tfds:NAME       any image set already prepared by TFDS in array_record format

The canonical order of the IDX family is that of the files; of the digits, that
of scikit-learn. Nothing falls back from one set to another.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import idx, memory
from experiments.config import DataConfig
from experiments.errors import ExperimentError, UsageError

# scikit-learn's digits come form by form: 14 filled-in forms, each with the
# same sequence of digits, by 13 writers. The first ten forms train, so that no
# form (and at most one writer) is on both sides.
DIGITS_TRAIN = 1287

_BOX = 20  # MNIST scales digits to a 20x20 box


class Split(NamedTuple):
  """Images (n, h, w, c) uint8 and labels (n,) int32."""

  images: np.ndarray
  labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A train and a test split on the same canvas.

  Attributes:
    name: as given to --dataset.
    train: the training split.
    test: the test split.
    num_classes: number of classes.
    provenance: source, order, sizes and sha256 of the arrays.
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  provenance: dict[str, Any]


def load(config: DataConfig) -> Dataset:
  """Loads a data set and puts it on the canvas.

  Args:
    config: which set, from where, how many examples, which canvas.

  Returns:
    The data set; images in canonical order.

  Raises:
    UsageError: an unknown name, or a canvas smaller than the images.
    ExperimentError: files that are missing, truncated, corrupted or of another
      set. The message names the file and the ways to get it.
  """
  name = config.dataset
  if name == "digits":
    train, test, origin = _digits(config.canvas)
  elif name in idx.FAMILY:
    train, test, origin = _idx_family(name, config.data_dir)
  elif name.startswith("tfds:"):
    train, test, origin = _prepared(name.removeprefix("tfds:"), config.data_dir)
  else:
    known = ", ".join(["digits", *idx.FAMILY, "tfds:NAME"])
    raise UsageError(f"--dataset={name} is unknown; known are {known}")
  train = _on_canvas(_first(train, config.train_examples, "train"), config)
  test = _on_canvas(_first(test, config.test_examples, "test"), config)
  classes = int(max(train.labels.max(), test.labels.max())) + 1
  return Dataset(
    name,
    train,
    test,
    max(classes, 10),
    {
      "dataset": name,
      **origin,
      "canvas": config.canvas,
      "train_examples": len(train.labels),
      "test_examples": len(test.labels),
      "train_sha256": _sha256(train),
      "test_sha256": _sha256(test),
    },
  )


def outline(config: DataConfig) -> Dataset:
  """A data set for planning: of the right sizes, and black where not at hand.

  Nothing is downloaded or prepared, so that what a study would take can be
  known before the images are there.

  Args:
    config: as for `load`.

  Returns:
    What `load` does where that takes no download: the digits, the IDX files in
    --data_dir, a set that TFDS prepared. Else, for the IDX family, black images
    without provenance.

  Raises:
    UsageError, ExperimentError: as `load`.
  """
  if config.dataset not in idx.FAMILY or _has_files(config.data_dir):
    return load(config)
  _on_canvas(_black(1, idx.SIZE), config)  # refuses a smaller one
  train = _black(idx.TRAIN_IMAGES, config.canvas)
  test = _black(idx.TEST_IMAGES, config.canvas)
  return Dataset(
    config.dataset,
    _first(train, config.train_examples, "train"),
    _first(test, config.test_examples, "test"),
    10,
    {"dataset": config.dataset},
  )


def _black(count: int, size: int) -> Split:
  """So many images in the memory of one pixel."""
  shape = (count, size, size, 1)
  return Split(np.broadcast_to(np.uint8(0), shape), np.zeros(count, np.int32))


def _has_files(data_dir: str) -> bool:
  """Whether a folder holds any of the IDX files."""
  files = idx.FILES.values()
  return bool(data_dir) and any((Path(data_dir) / f).exists() for f in files)


def _first(split: Split, count: int, which: str) -> Split:
  available = len(split.labels)
  if not 0 <= count <= available:
    raise UsageError(
      f"--{which}_examples={count} is not between 0 (all) and the {available}"
      " there are"
    )
  count = count or available
  return Split(split.images[:count], split.labels[:count].astype(np.int32))


def _on_canvas(split: Split, config: DataConfig) -> Split:
  """Pads with zeros to the canvas, the image in the middle."""
  height, width = split.images.shape[1:3]
  if height > config.canvas or width > config.canvas:
    raise UsageError(
      f"--canvas={config.canvas} is smaller than the {height}x{width} images of"
      f" {config.dataset}"
    )
  _check_fits(len(split.images), config.canvas, split.images.shape[3])
  pads = [
    ((config.canvas - n) // 2, config.canvas - n - (config.canvas - n) // 2)
    for n in (height, width)
  ]
  images = np.pad(split.images, ((0, 0), *pads, (0, 0)))
  return split._replace(images=images)


def _check_fits(count: int, canvas: int, channels: int = 1) -> None:
  short = memory.shortage(count * canvas * canvas * channels)
  if short:
    raise UsageError(
      f"--canvas={canvas}: {count:,} images of that size: that {short}; give a"
      " smaller one"
    )


def _sha256(split: Split) -> str:
  digest = hashlib.sha256(split.images.tobytes())
  digest.update(split.labels.astype("<i4").tobytes())
  return digest.hexdigest()


# --- digits ------------------------------------------------------------------


def _digits(canvas: int) -> tuple[Split, Split, dict[str, Any]]:
  """scikit-learn's digits, brought to MNIST's format.

  Raises:
    UsageError: a canvas below the 20-pixel box.
  """
  import sklearn
  from sklearn.datasets import load_digits

  if canvas < _BOX:
    raise UsageError(f"--canvas={canvas} is smaller than the {_BOX} px box")
  raw, labels = load_digits(return_X_y=True)
  _check_fits(len(labels), canvas)
  small = np.asarray(raw, np.int64).reshape(-1, 8, 8)
  images = _centre(_enlarge(small), canvas)[..., None]
  labels = np.asarray(labels, np.int32)
  origin = {
    "source": f"scikit-learn {sklearn.__version__} load_digits",
    "order": "scikit-learn's; forms 1-10 train, forms 11-14 test",
  }
  return (
    Split(images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN]),
    Split(images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:]),
    origin,
  )


def _enlarge(small: np.ndarray) -> np.ndarray:
  """8x8 values 0..16 to 20x20 bytes, bilinear, in exact integer arithmetic.

  Integers, so that every machine gets the same bytes.
  """
  size = small.shape[1]
  tenths = np.zeros((_BOX, size), np.int64)  # weights are multiples of 1/10
  for j in range(_BOX):
    position = min(max(4 * j - 3, 0), 10 * (size - 1))
    low, rest = divmod(position, 10)
    tenths[j, low] += 10 - rest
    if rest:
      tenths[j, low + 1] += rest
  enlarged = tenths @ small @ tenths.T  # 1600 is white
  return ((enlarged * 255 + 800) // 1600).astype(np.uint8)


def _centre(boxes: np.ndarray, canvas: int) -> np.ndarray:
  """Puts boxes on a canvas, centre of mass at its centre to within a pixel.

  As MNIST was made. Where that would push the box over the edge it stays at
  the edge.
  """
  images = np.zeros((len(boxes), canvas, canvas), np.uint8)
  weights = boxes.astype(np.int64)
  total = weights.sum(axis=(1, 2))
  place = np.arange(_BOX)
  rows = (weights.sum(axis=2) * place).sum(axis=1) / total
  columns = (weights.sum(axis=1) * place).sum(axis=1) / total
  for image, box, row, column in zip(images, boxes, rows, columns, strict=True):
    top, left = (
      int(np.clip(round((canvas - 1) / 2 - mass), 0, canvas - _BOX))
      for mass in (row, column)
    )
    image[top : top + _BOX, left : left + _BOX] = box
  return images


# --- the IDX family ----------------------------------------------------------


def _idx_family(
  name: str, data_dir: str
) -> tuple[Split, Split, dict[str, Any]]:
  folder = Path(data_dir) if data_dir else None
  if folder and _has_files(data_dir):
    return _idx_folder(name, folder)
  if folder and folder.exists() and not folder.is_dir():
    raise ExperimentError(f"--data_dir={folder} is not a folder")
  from experiments import tfds_data

  return tfds_data.idx_family(name, folder)


def _idx_folder(name: str, folder: Path) -> tuple[Split, Split, dict[str, Any]]:
  files = {key: folder / file for key, file in idx.FILES.items()}
  for path in files.values():
    idx.verify(name, path)
  splits = [
    Split(
      idx.read(files[split, "images"], 3)[..., None],
      idx.read(files[split, "labels"], 1),
    )
    for split in ("train", "test")
  ]
  for split, which in zip(splits, ("train", "test"), strict=True):
    _check_counts(split, files[which, "images"], files[which, "labels"])
  origin = {
    "source": "IDX files",
    "order": "IDX",
    "file_sha256": idx.FAMILY[name].sha256,
  }
  return splits[0], splits[1], origin


def _check_counts(split: Split, images: Path, labels: Path) -> None:
  if len(split.images) != len(split.labels):
    raise ExperimentError(
      f"{images} has {len(split.images):,} images and {labels}"
      f" {len(split.labels):,} labels: they are not of one set"
    )


# --- other sets --------------------------------------------------------------


def _prepared(name: str, data_dir: str) -> tuple[Split, Split, dict[str, Any]]:
  if not name:
    raise UsageError("--dataset=tfds: lacks a name, as in tfds:emnist")
  from experiments import tfds_data

  return tfds_data.prepared(name, Path(data_dir) if data_dir else None)
