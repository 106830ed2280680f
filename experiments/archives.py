"""Arrays from .npy and .npz files that may be damaged or out to do harm.

Nothing is unpickled and nothing is extracted. What a file says of its own size
is compared with what it has, and with the memory there is, before any array is
made: a few kilobytes can claim to be terabytes, and some expand to them.
"""

import errno
import math
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from experiments import memory
from experiments.errors import ExperimentError

# More arrays than any file of ours or of a user's has.
_MOST_MEMBERS = 10_000

_CHUNK = 2**20

_KINDS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

# What the libraries raise on files that are not what they seem.
_DAMAGE = (
  *(OSError, ValueError, EOFError, KeyError, TypeError, OverflowError),
  *(SyntaxError, RecursionError, NotImplementedError, RuntimeError),
  *(struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile),
)


def read(path: Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file in their order, or of an .npy, as "".

  Args:
    path: the file.

  Returns:
    By name, as numpy.savez was given them.

  Raises:
    ExperimentError: no such file, or one that is damaged, holds pickled
      objects, or does not fit into memory. The message names file and array.
  """
  try:
    check_regular(path)
    with path.open("rb") as file:
      return parse(file, path.stat().st_size)
  except (OSError, ValueError) as error:
    why = getattr(error, "strerror", None) or error
    raise ExperimentError(f"{path} cannot be read: {why}") from error


def parse(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
  """What `read` reads.

  Args:
    file: at its start, and seekable.
    size: of all of it, in bytes.

  Returns:
    The arrays by name.

  Raises:
    ValueError: damaged, hostile or too large, in one line.
  """
  try:
    if not zipfile.is_zipfile(file):
      file.seek(0)
      if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise ValueError(
          "it is no .npy or .npz file; pickled objects are refused"
        )
      file.seek(0)
      check_fits(size)
      return {"": _read_array(file, size, "the array")}
    with zipfile.ZipFile(file) as archive:
      return dict(_members(archive, size))
  except _DAMAGE as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(reason) from error


def check_regular(path: Path) -> None:
  """Refuses what is no ordinary file: reading a pipe or device has no end.

  Raises:
    OSError: something else, or nothing, is there.
  """
  if not stat.S_ISREG(path.stat().st_mode):
    raise OSError(errno.EINVAL, "it is no ordinary file")


def check_fits(needed: int) -> None:
  """Refuses more bytes than there is memory.

  Raises:
    ValueError: naming both.
  """
  short = memory.shortage(needed)
  if short:
    raise ValueError(f"it {short}")


def _members(
  archive: zipfile.ZipFile, size: int
) -> Iterator[tuple[str, np.ndarray]]:
  members = archive.infolist()
  if len(members) > _MOST_MEMBERS:
    raise ValueError(f"it claims {len(members):,} arrays")
  for info in members:
    _check_member(info)
  if len({info.filename for info in members}) < len(members):
    raise ValueError("it has two arrays of one name")
  # Members that overlap share their bytes: a bomb that needs no compression.
  if sum(i.compress_size for i in members) > size:
    raise ValueError("its arrays overlap")
  check_fits(sum(info.file_size for info in members))
  for info in members:
    with archive.open(info) as stream:
      name = info.filename.removesuffix(".npy")
      yield name, _read_array(stream, info.file_size, repr(name))


def names_array(name: str) -> bool:
  """Whether a member of an archive may be called that: it leads nowhere."""
  parts = name.replace("\\", "/").split("/")
  return name.endswith(".npy") and ".." not in parts and "" not in parts


def _check_member(info: zipfile.ZipInfo) -> None:
  name = info.filename
  if not names_array(name):
    raise ValueError(f"{name!r} in it is no array's name")
  if info.flag_bits & 1 or info.compress_type not in _KINDS:
    raise ValueError(f"{name!r} in it is encrypted or compressed otherwise")


def _read_array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
  """One array, whose header must describe exactly the bytes there are."""
  version = npy.read_magic(stream)
  if version == (1, 0):
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
  elif version == (2, 0):
    shape, fortran, dtype = npy.read_array_header_2_0(stream)
  else:
    raise ValueError(f"{name} is of format {version}; use numpy.save")
  if dtype.hasobject:
    raise ValueError(
      f"{name} holds pickled objects, which are refused; save plain arrays"
    )
  needed = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or size - stream.tell() != needed:
    raise ValueError(
      f"{name} is said to be {shape} {dtype}, {needed:,} bytes, and has"
      f" {size - stream.tell():,}"
    )
  flat, done = np.empty(needed, np.uint8), 0
  while part := stream.read(min(_CHUNK, needed - done)):
    flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
    done += len(part)
  if done != needed:
    raise ValueError(f"{name} ends after {done:,} of {needed:,} bytes")
  stream.read(1)  # at its end a member's checksum is compared
  return flat.view(dtype).reshape(shape, order="F" if fortran else "C")
