import gzip
import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments import datasets, idx
from experiments.config import DataConfig
from experiments.errors import ExperimentError
from tests.experiments.conftest import idx_bytes, register

LABELS = "t10k-labels-idx1-ubyte.gz"


def load(fake, **changes):
  return datasets.load(DataConfig("mnist", str(fake.folder), **changes))


def refused(fake):
  """The message, after a check that it is one line with all ways out."""
  with pytest.raises(ExperimentError) as caught:
    load(fake)
  message = str(caught.value)
  assert "\n" not in message
  for way in ("(1)", "(2)", "(3)", "--data_dir", "TFDS", "online"):
    assert way in message
  return message


def test_a_set_is_loaded_in_the_order_of_its_files(fake_mnist):
  loaded = load(fake_mnist, canvas=28)
  for name in ("train", "test"):
    split = getattr(loaded, name)
    images = fake_mnist.arrays[name, "images"]
    np.testing.assert_array_equal(split.images[..., 0], images)
    labels = fake_mnist.arrays[name, "labels"]
    np.testing.assert_array_equal(split.labels, labels)
  assert loaded.provenance["order"] == "IDX"
  assert loaded.provenance["file_sha256"] == fake_mnist.files.sha256


def test_a_missing_file_is_named(fake_mnist):
  (fake_mnist.folder / LABELS).unlink()
  message = refused(fake_mnist)
  assert f"{fake_mnist.folder / LABELS} cannot be read (No such" in message


@pytest.mark.parametrize("name", idx.FILES.values())
def test_a_truncated_file_is_named_with_its_size(fake_mnist, name):
  path = fake_mnist.folder / name
  content = path.read_bytes()
  path.write_bytes(content[:-5])
  size = len(content)
  message = refused(fake_mnist)
  assert f"{path} is truncated ({size - 5} of {size} bytes)" in message


def test_a_single_wrong_bit_is_found(fake_mnist):
  path = fake_mnist.folder / LABELS
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  digest = hashlib.sha256(content).hexdigest()[:12]
  message = refused(fake_mnist)
  assert f"{path} is corrupted (sha256 {digest}...)" in message


def test_another_sets_file_is_recognized(fake_mnist):
  other = fake_mnist.folder.parent / "fashion"
  shutil.copy(other / LABELS, fake_mnist.folder / LABELS)
  message = refused(fake_mnist)
  assert f"{LABELS} is fashion_mnist's file, not mnist's" in message
  assert "--dataset=fashion_mnist" in message


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"not gzip", "is not a gzipped IDX file of rank 1: Not a gzipped file"),
    (
      gzip.compress(b"", mtime=0),
      "is not a gzipped IDX file of rank 1: unpack requires",
    ),
    # Right in size, but of signed bytes.
    (
      gzip.compress(bytes([0, 0, 9, 1, 0, 0, 0, 2, 1, 2]), mtime=0),
      "IDX file of rank 1: magic number 0x901, shape (2,)",
    ),
    (
      gzip.compress(b"\0" * 24, mtime=0),
      "IDX file of rank 1: magic number 0x0",
    ),
    (idx_bytes(np.zeros((3, 3), np.uint8)), "magic number 0x802, shape (3,)"),
    (
      gzip.compress(
        gzip.decompress(idx_bytes(np.zeros(3, np.uint8)))[:-1], mtime=0
      ),
      "shape (3,) is 3 bytes, and it has 2",
    ),
  ],
)
def test_what_is_not_idx_is_refused_even_if_registered(
  fake_mnist, monkeypatch, content, message
):
  path = fake_mnist.folder / LABELS
  path.write_bytes(content)
  files = {
    name: (fake_mnist.folder / name).read_bytes() for name in idx.FILES.values()
  }
  monkeypatch.setitem(idx.FAMILY, "mnist", register(files, "http://fake/"))
  with pytest.raises(ExperimentError) as caught:
    load(fake_mnist)
  assert str(caught.value).startswith(f"{path} is not")
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_cut_gzip_stream_is_refused(tmp_path):
  path = tmp_path / "labels.gz"
  path.write_bytes(idx_bytes(np.arange(200, dtype=np.uint8))[:-20])
  with pytest.raises(ExperimentError, match="is not a gzipped IDX file"):
    idx.read(path, 1)


@given(
  hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.integers(0, 255),
  )
)  # fmt: skip
def test_arrays_survive_the_format(tmp_path_factory, array):
  path = tmp_path_factory.mktemp("idx") / "array.gz"
  path.write_bytes(idx_bytes(array))
  np.testing.assert_array_equal(idx.read(path, array.ndim), array)


def test_the_registered_files_are_mnists(mnist_dir):
  for name in idx.FILES.values():
    idx.verify("mnist", mnist_dir / name)
