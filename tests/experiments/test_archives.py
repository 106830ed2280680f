"""Files out to do harm are refused by what they say of themselves."""

import ast
import contextlib
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy

import experiments
from experiments import archives, idx, memory, store, user_images
from experiments.errors import ExperimentError

ROOT = Path(experiments.__file__).parents[1]
FOLDERS = ("models", "analysis", "experiments")
IMAGES = np.arange(90, dtype=np.uint8).reshape(3, 6, 5)


class Bomb:
  """Unpickled, it leaves a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, "w")


def npy_bytes(shape, content=b"", dtype="|u1", version=(1, 0)):
  """An .npy file that says it is of a shape and type."""
  stream = io.BytesIO()
  head = {"descr": dtype, "fortran_order": False, "shape": shape}
  write = {
    (1, 0): npy.write_array_header_1_0,
    (2, 0): npy.write_array_header_2_0,
  }
  write[version](stream, head)
  return stream.getvalue() + content


def zip_of(path, members, **more):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members:
      archive.writestr(name, content, **more)


def refusal(path):
  """The message, which comes at once and without much memory."""
  tracemalloc.start()
  started = time.perf_counter()
  with pytest.raises(ExperimentError) as caught:
    archives.read(path)
  assert time.perf_counter() - started < 2
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()
  message = str(caught.value)
  assert message.startswith(f"{path} cannot be read: ")
  assert "\n" not in message
  return message


# --- what is read ------------------------------------------------------------


@given(
  hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.uint8, np.int32, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
  )
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path_factory, array):
  folder = tmp_path_factory.mktemp("arrays")
  for name, save in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
    save(folder / name, **{"deep/x": array, "y": array.T})
    read = archives.read(folder / name)
    assert list(read) == ["deep/x", "y"]
    for found, expected in zip(read.values(), (array, array.T), strict=True):
      np.testing.assert_array_equal(found, expected)
      assert found.dtype == expected.dtype
      assert found.flags.writeable
  np.save(folder / "c.npy", np.asfortranarray(array))
  np.testing.assert_array_equal(archives.read(folder / "c.npy")[""], array)


# --- code --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "torch"])
def test_nothing_is_unpickled(tmp_path, kind):
  left = tmp_path / "left"
  path = tmp_path / ("x.npz" if kind == "npz" else "x.npy")
  bomb = Bomb(left)
  if kind == "npz":
    np.savez(path, images=np.array([bomb], dtype=object))
  elif kind == "npy":
    np.save(path, np.array([bomb], dtype=object))
  elif kind == "pickle":
    path.write_bytes(pickle.dumps(bomb))
  else:  # as torch.save writes
    zip_of(path, [("archive/data.pkl", pickle.dumps(bomb))])
  assert any(w in refusal(path) for w in ("pickled", "no array's name"))
  with pytest.raises(ExperimentError, match="cannot be read"):
    store.load_params(path)
  with pytest.raises(ExperimentError, match="cannot be read"):
    user_images.load(path)
  assert not left.exists()


def test_no_module_knows_how_to_unpickle():
  """Neither by import nor by an option; and arrays are read in one place."""
  barred = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal"}
  barred |= {"shelve"}
  for path in [p for f in FOLDERS for p in (ROOT / f).rglob("*.py")]:
    # The peers that the benchmark times are in processes of their own.
    if path.stem.startswith("workloads"):
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      found = {name.partition(".")[0] for name in names} & barred
      assert not found, f"{path.name} imports {found}"
      if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        assert ast.unparse(node.value) == "False", path.name
      if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        loads = called in ("np.load", "torch.load", "eval", "exec")
        assert not loads, f"{path.name} calls {called}"


# --- claims and bombs --------------------------------------------------------


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
  ("shape", "dtype"),
  [
    ((2**62,), "|u1"),
    ((2**40, 2**40), "<f8"),
    ((4,), "|u1"),
    ((-1,), "|u1"),
    ((), f"|V{2**31 - 1}"),
  ],
)
def test_a_header_that_claims_more_than_there_is_is_refused(
  tmp_path, shape, dtype, version
):
  content = npy_bytes(shape, b"abc", dtype, version)
  path = tmp_path / "x.npy"
  path.write_bytes(content)
  assert "is said to be" in refusal(path)
  zip_of(tmp_path / "x.npz", [("images.npy", content)])
  assert "'images' is said to be" in refusal(tmp_path / "x.npz")


def test_an_archive_that_expands_beyond_memory_is_refused(
  tmp_path, monkeypatch
):
  """64 MiB of zeros in 64 kB, where 16 MiB are free."""
  monkeypatch.setattr(memory, "available", lambda: 2**24)
  path = tmp_path / "bomb.npz"
  size = 2**26
  zip_of(path, [("images.npy", npy_bytes((size,)) + b"\0" * size)])
  assert path.stat().st_size < 2**17
  assert "it needs 0.1 GiB of memory, of which 0.0 GiB are free" in refusal(
    path
  )


def test_an_archive_that_expands_beyond_its_claim_is_refused(tmp_path):
  """The directory says 200 bytes, the stream goes on for 64 MiB."""
  path = tmp_path / "bomb.npz"
  content = npy_bytes((72,)) + b"\0" * 72
  zip_of(path, [("images.npy", content + b"\0" * 2**26)])
  raw = bytearray(path.read_bytes())
  at = raw.rindex(b"PK\x01\x02")
  raw[at + 24 : at + 28] = struct.pack("<I", len(content))
  path.write_bytes(raw)
  assert "CRC" in refusal(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
  path = tmp_path / "quine.npz"
  content = npy_bytes((100_000,)) + bytes(range(250)) * 400
  zip_of(path, [("a.npy", content), ("b.npy", content)])
  raw = bytearray(path.read_bytes())
  at = raw.rindex(b"PK\x01\x02")
  raw[at + 20 : at + 24] = struct.pack("<I", 2**24)  # the compressed size
  path.write_bytes(raw)
  assert "overlap" in refusal(path)


@pytest.mark.parametrize(
  ("members", "message"),
  [
    ([("../../etc/x.npy", npy_bytes((0,)))], "'../../etc/x.npy' in it is no"),
    ([("/etc/x.npy", npy_bytes((0,)))], "'/etc/x.npy' in it is no array's"),
    ([("..\\x.npy", npy_bytes((0,)))], "in it is no array's name"),
    ([("readme.txt", b"hello")], "'readme.txt' in it is no array's name"),
    ([("x.npy", b"")], "EOF"),
    ([("x.npy", b"\x93NUMPY\x03\x00")], "is of format (3, 0)"),
    ([("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': [((((")], "header"),
  ],
)
def test_other_members_are_refused(tmp_path, members, message):
  path = tmp_path / "x.npz"
  zip_of(path, members)
  assert message.lower() in refusal(path).lower()
  assert list(tmp_path.iterdir()) == [path]


def test_two_members_of_one_name_are_refused(tmp_path):
  path = tmp_path / "x.npz"
  with pytest.warns(UserWarning, match="Duplicate name"):
    zip_of(path, [("x.npy", npy_bytes((0,)))] * 2)
  assert "two arrays of one name" in refusal(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
  path = tmp_path / "x.npz"
  os.mkfifo(path)
  assert "it is no ordinary file" in refusal(path)
  with pytest.raises(ExperimentError, match="no ordinary file"):
    user_images.load(path)
  with pytest.raises(ExperimentError, match="no ordinary file"):
    idx.read(path, 1)


def test_any_damage_is_refused_in_one_line(tmp_path):
  """Every byte of a small archive changed, and every length cut to."""
  whole = tmp_path / "whole.npz"
  np.savez(whole, images=IMAGES[:1], labels=np.arange(1))
  content = whole.read_bytes()
  path = tmp_path / "x.npz"
  for i in range(0, len(content), 7):
    for damaged in (
      content[:i],
      content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :],
    ):
      path.write_bytes(damaged)
      # A byte of a date may change; anything but this error fails the test.
      with contextlib.suppress(ExperimentError):
        archives.read(path)


# --- IDX and PNG -------------------------------------------------------------


def test_an_idx_file_is_read_no_further_than_its_header_says(tmp_path):
  """64 MiB behind a header of ten bytes; and a header of 8 EiB."""
  path = tmp_path / "labels.gz"
  compress = zlib.compressobj(wbits=31)
  head = struct.pack(">ii", 0x0801, 10)
  path.write_bytes(compress.compress(head + b"\0" * 2**26) + compress.flush())
  tracemalloc.start()
  with pytest.raises(ExperimentError, match="is 10 bytes, and it has more"):
    idx.read(path, 1)
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()
  compress = zlib.compressobj(wbits=31)
  head = struct.pack(">iiii", 0x0803, *[2**21] * 3)
  path.write_bytes(compress.compress(head) + compress.flush())
  with pytest.raises(
    ExperimentError, match=r"needs 8,589,934,592.0 GiB of mem"
  ):
    idx.read(path, 3)


def png(width, height, content=b""):
  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    )

  head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", head)
    + chunk(b"IDAT", zlib.compress(content))
    + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize("side", [10_000, 100_000, 2**31 - 1])
def test_a_png_that_claims_to_be_huge_is_refused(tmp_path, side):
  (tmp_path / "a.png").write_bytes(png(side, side, b"\0" * 2**20))
  with pytest.raises(ExperimentError, match=r"a\.png claims to be .*x"):
    user_images.load(tmp_path)


def test_more_pngs_than_memory_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, "available", lambda: 100)
  for name in "abc":
    (tmp_path / f"{name}.png").write_bytes(png(6, 6, b"\0" * 42))
  with pytest.raises(ExperimentError, match=r"3 images such as .* 6x6 px grey"):
    user_images.load(tmp_path)


@pytest.mark.parametrize("whole", [False, True])
def test_links_out_of_a_folder_of_pngs_are_refused(tmp_path, whole):
  secret, folder = tmp_path / "secret", tmp_path / "mine"
  secret.mkdir()
  folder.mkdir()
  (secret / "a.png").write_bytes(png(6, 6, b"\0" * 42))
  if whole:
    (folder / "class").symlink_to(secret)
  else:
    (folder / "a.png").symlink_to("../secret/a.png")
  with pytest.raises(ExperimentError, match=r"is a link that leads out of"):
    user_images.load(folder)
  (folder / ("class" if whole else "a.png")).unlink()
  (folder / "b.png").write_bytes(png(6, 6, b"\0" * 42))
  (folder / "a.png").symlink_to("b.png")
  assert len(user_images.load(folder).images) == 2
