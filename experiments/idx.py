"""The IDX family: MNIST, Fashion-MNIST and KMNIST as four gzipped files each.

Format: http://yann.lecun.com/exdb/mnist (LeCun, Cortes and Burges, 1998).
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import archives
from experiments.errors import ExperimentError


class IdxFiles(NamedTuple):
  """The four files of one set of the IDX family: where from, what content."""

  url: str
  sha256: dict[str, str]
  size: dict[str, int]


# Every set of the family has so many images, so wide and high.
TRAIN_IMAGES, TEST_IMAGES, SIZE = 60_000, 10_000, 28

FILES = {
  ("train", "images"): "train-images-idx3-ubyte.gz",
  ("train", "labels"): "train-labels-idx1-ubyte.gz",
  ("test", "images"): "t10k-images-idx3-ubyte.gz",
  ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}


def _idx_files(url: str, *content: tuple[str, int]) -> IdxFiles:
  names = FILES.values()
  return IdxFiles(
    url,
    {n: sha256 for n, (sha256, _) in zip(names, content, strict=True)},
    {n: size for n, (_, size) in zip(names, content, strict=True)},
  )


# Addresses, sizes and checksums are those registered in TFDS 4.9.
FAMILY = {
  "mnist": _idx_files(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    (
      "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
      9912422,
    ),
    (
      "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
      28881,
    ),
    (
      "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
      1648877,
    ),
    (
      "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
      4542,
    ),
  ),
  "fashion_mnist": _idx_files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
      "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
      26421880,
    ),
    (
      "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
      29515,
    ),
    (
      "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
      4422102,
    ),
    (
      "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
      5148,
    ),
  ),
  "kmnist": _idx_files(
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    (
      "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
      18165135,
    ),
    (
      "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
      29497,
    ),
    (
      "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
      3041136,
    ),
    (
      "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
      5120,
    ),
  ),
}


def verify(name: str, path: Path) -> None:
  """Checks a file's sha256.

  Raises:
    ExperimentError: the file is missing or is not what it should be.
  """
  expected = FAMILY[name].size[path.name]
  try:
    archives.check_regular(path)
    with path.open("rb") as file:
      content = file.read(max(_largest(path.name), expected) + 1)
  except OSError as error:
    raise ExperimentError(
      f"{path} cannot be read ({error.strerror}); {ways_to_get(name)}"
    ) from error
  digest = hashlib.sha256(content).hexdigest()
  if digest == FAMILY[name].sha256[path.name]:
    return
  for other, files in FAMILY.items():
    if digest == files.sha256[path.name]:
      raise ExperimentError(
        f"{path} is {other}'s file, not {name}'s; use --dataset={other} or"
        f" another --data_dir; {ways_to_get(name)}"
      )
  size = len(content)
  what = (
    f"truncated ({size} of {expected} bytes)"
    if size < expected
    else f"corrupted (sha256 {digest[:12]}...)"
  )
  raise ExperimentError(f"{path} is {what}; {ways_to_get(name)}")


def _largest(file: str) -> int:
  """The size of the largest file of this name in the family."""
  return max(files.size[file] for files in FAMILY.values())


def ways_to_get(name: str) -> str:
  """The three ways to get a set of the IDX family, for error messages."""
  files = FAMILY[name]
  return (
    f"to get {name}: (1) put the four .gz files of {files.url} in --data_dir,"
    " (2) point --data_dir to a folder where TFDS prepared it, or (3) be online"
    " and give a writable --data_dir without any, to have it downloaded there"
  )


def read(path: Path, rank: int) -> np.ndarray:
  """Reads a gzipped IDX file of unsigned bytes.

  Args:
    path: the file.
    rank: expected number of axes.

  Returns:
    The array.

  Raises:
    ExperimentError: not such a file.
  """
  head = 4 * (rank + 1)
  try:
    archives.check_regular(path)
    with gzip.open(path) as file:
      magic, *shape = struct.unpack(f">{rank + 1}i", file.read(head))
      if magic != 0x0800 + rank or min(shape) < 0:
        raise ValueError(f"magic number {magic:#x}, shape {tuple(shape)}")
      size = math.prod(shape)
      archives.check_fits(size)
      content = file.read(size + 1)  # no more, whatever else it expands to
  except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
    raise ExperimentError(
      f"{path} is not a gzipped IDX file of rank {rank}: {error}"
    ) from error
  if len(content) != size:
    found = "more" if len(content) > size else f"{len(content):,}"
    raise ExperimentError(
      f"{path} is not an IDX file of rank {rank}: shape {tuple(shape)} is"
      f" {size:,} bytes, and it has {found}"
    )
  return np.frombuffer(content, np.uint8).reshape(shape)
