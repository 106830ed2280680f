"""Images of the user's: an .npz or .npy file, or a folder of PNGs."""

import hashlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import archives, memory
from experiments.errors import ExperimentError, UsageError

_PNG = b"\x89PNG\r\n\x1a\n"

# Of one image: what a square of 8,192 has. A file of 100 kB can claim more.
_MOST_PIXELS = 2**26

_FORMS = "an .npz or .npy file, or a folder of PNGs"


class UserImages(NamedTuple):
  """Images and what is known of them.

  Attributes:
    images: (n, h, w, c) uint8, or floating point in [0, 1].
    labels: (n,) int32 classes, or None.
    classes: their names, for a folder with a subfolder a class; else empty.
    name: of the file or folder.
  """

  images: np.ndarray
  labels: np.ndarray | None
  classes: tuple[str, ...]
  name: str

  @property
  def provenance(self) -> dict[str, Any]:
    """What they are, without the path."""
    digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
    if self.labels is not None:
      digest.update(self.labels.astype("<i4").tobytes())
    return {
      "dataset": self.name,
      "source": "the user's images",
      "test_examples": len(self.images),
      "shape": list(self.images.shape[1:]),
      "dtype": str(self.images.dtype),
      "classes": list(self.classes),
      "test_sha256": digest.hexdigest(),
    }


def load(path: Path) -> UserImages:
  """Reads images, with labels where there are some.

  Args:
    path: an .npz file with `images` and, if known, `labels`; an .npy file with
      images; or a folder of PNGs, whose subfolders, if it has any, are the
      classes, in the order of their names. Images are (n, h, w) or
      (n, h, w, c), uint8 or floating point in [0, 1].

  Returns:
    The images.

  Raises:
    UsageError: no such file or folder, or one of another kind.
    ExperimentError: content that is no set of images: another shape, type or
      range, images of two sizes, pickled objects, a damaged file.
  """
  if not path.exists():
    raise UsageError(f"--images={path} does not exist: give {_FORMS}")
  if path.is_dir():
    images, labels, classes = _read_folder(path)
  elif path.suffix.lower() == ".npz":
    arrays = read_arrays(path)
    if "images" not in arrays:
      raise ExperimentError(
        f"{path} has no array 'images', only {', '.join(arrays) or 'nothing'}"
      )
    images, labels, classes = arrays["images"], arrays.get("labels"), ()
  elif path.suffix.lower() == ".npy":
    images, labels, classes = _only_images(path), None, ()
  else:
    raise UsageError(f"--images={path} is not {_FORMS}")
  images = _check_images(images, path)
  if labels is not None:
    labels = check_labels(labels, len(images), path)
  return UserImages(images, labels, classes, path.name)


def _only_images(path: Path) -> np.ndarray:
  arrays = archives.read(path)
  if set(arrays) != {""}:
    raise ExperimentError(f"{path} is an .npz file: name it so")
  return arrays[""]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file in their order, or of an .npy, as "images".

  Raises:
    ExperimentError: a damaged file, or pickled objects, which could run code.
  """
  arrays = archives.read(path)
  return {"images": arrays[""]} if set(arrays) == {""} else arrays


def check_labels(labels: np.ndarray, count: int, path: Path) -> np.ndarray:
  """Labels as int32.

  Args:
    labels: one an image.
    count: number of images.
    path: where they are from, for messages.

  Returns:
    (n,) int32.

  Raises:
    ExperimentError: of another shape or type, or negative.
  """
  if labels.shape != (count,):
    raise ExperimentError(
      f"{path}: labels have shape {labels.shape}, expected ({count},): one"
      " class an image"
    )
  if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
    raise ExperimentError(
      f"{path}: labels are {labels.dtype} from {labels.min()}; use whole"
      " numbers from 0"
    )
  if labels.max() > np.iinfo(np.int32).max:
    raise ExperimentError(
      f"{path}: a label is {labels.max()}; use whole numbers from 0 to"
      f" {np.iinfo(np.int32).max}"
    )
  return labels.astype(np.int32)


# --- arrays ------------------------------------------------------------------


def _check_images(images: np.ndarray, path: Path) -> np.ndarray:
  shape = images.shape
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in shape:
    raise ExperimentError(
      f"{path}: images have shape {shape}, expected (n, height, width) or (n,"
      " height, width, channels)"
    )
  if images.shape[1] in (1, 3) and images.shape[3] > 4:
    raise ExperimentError(
      f"{path}: images of shape {shape} seem to have their channels first; use"
      " np.moveaxis(images, 1, -1)"
    )
  if images.dtype == np.uint8:
    return images
  if not np.issubdtype(images.dtype, np.floating):
    raise ExperimentError(
      f"{path}: images are {images.dtype}; use uint8, or floating point in"
      " [0, 1]"
    )
  low, high = float(images.min()), float(images.max())
  if not (low >= 0 and high <= 1):  # NaN too
    raise ExperimentError(
      f"{path}: images run from {low:g} to {high:g}; floating point must lie in"
      " [0, 1]: normalise inside the network"
    )
  return images.astype(np.float32)


# --- folders -----------------------------------------------------------------


def _read_folder(
  folder: Path,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
  """Images, labels and class names of a folder of PNGs."""
  top = _pngs(folder)
  by_class = {
    sub.name: _pngs(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()
  }
  by_class = {name: files for name, files in by_class.items() if files}
  if top and by_class:
    raise ExperimentError(
      f"{folder} holds PNGs both itself ({top[0].name}) and in subfolders"
      f" ({next(iter(by_class))}): either all have a class, or none"
    )
  files = top or [file for files in by_class.values() for file in files]
  if not files:
    raise ExperimentError(f"{folder} holds no .png file")
  _check_inside(folder, files)
  images = _read_pngs(files)
  if top:
    return images, None, ()
  labels = np.repeat(
    np.arange(len(by_class)), [len(files) for files in by_class.values()]
  )
  return images, labels, tuple(by_class)


def _pngs(folder: Path) -> list[Path]:
  return sorted(
    file
    for file in folder.iterdir()
    if file.suffix.lower() == ".png" and not file.name.startswith(".")
  )


def _check_inside(folder: Path, files: list[Path]) -> None:
  """Refuses links that lead out: a folder of somebody's could name any file.

  Raises:
    ExperimentError: naming the link.
  """
  root = folder.resolve()
  for file in files:
    if not file.resolve().is_relative_to(root):
      raise ExperimentError(
        f"{file} is a link that leads out of {folder}: copy what it leads to"
      )


def _read_pngs(files: list[Path]) -> np.ndarray:
  first = _read_png(files[0])
  short = memory.shortage(len(files) * first.size)
  if short:
    raise ExperimentError(
      f"{len(files):,} images such as {files[0]}, {_describe(first)}: that"
      f" {short}; give fewer or smaller ones"
    )
  images = np.empty((len(files), *first.shape), np.uint8)
  for i, file in enumerate(files):
    image = _read_png(file)
    if image.shape != first.shape:
      raise ExperimentError(
        f"{files[0]} is {_describe(first)}, {file} is {_describe(image)}: all"
        " images must be alike"
      )
    images[i] = image
  return images


def _describe(image: np.ndarray) -> str:
  height, width, channels = image.shape
  return f"{width}x{height} px {'grey' if channels == 1 else 'colour'}"


def _check_header(file: Path) -> None:
  """Refuses what is no PNG, or claims to be of more pixels than are sensible.

  Raises:
    ExperimentError: naming file and size.
  """
  try:
    archives.check_regular(file)
    with file.open("rb") as opened:
      head = opened.read(24)
  except OSError as error:
    raise ExperimentError(f"{file} cannot be read: {error.strerror}") from error
  if len(head) < 24 or not head.startswith(_PNG) or head[12:16] != b"IHDR":
    raise ExperimentError(f"{file} cannot be read: it is no PNG file")
  width, height = struct.unpack(">II", head[16:])
  if width * height > _MOST_PIXELS:
    raise ExperimentError(
      f"{file} claims to be {width:,}x{height:,} px, more than"
      f" {_MOST_PIXELS:,} in all: give smaller images"
    )


def _read_png(file: Path) -> np.ndarray:
  """(h, w, 1) of a grey image, (h, w, 3) of one in colour."""
  from PIL import Image

  _check_header(file)
  try:
    with Image.open(file, formats=["PNG"]) as image:
      image.load()
      mode = image.mode
      if mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise ExperimentError(
          f"{file} is of mode {mode}: use 8 bits a channel, grey or RGB"
        )
      grey = mode in ("1", "L", "LA")
      pixels = np.asarray(image.convert("LA" if grey else "RGBA"))
  except (OSError, SyntaxError, ValueError, struct.error) as error:
    raise ExperimentError(f"{file} cannot be read: {error}") from error
  if (pixels[..., -1] != 255).any():
    raise ExperimentError(
      f"{file} is transparent in places: put it on a background first"
    )
  return pixels[..., :-1]
