import functools
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import datasets, idx
from experiments.config import DataConfig
from experiments.errors import ExperimentError


class Server(NamedTuple):
  """A loopback server of a folder, and the paths asked of it."""

  url: str
  requested: list[str]


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files and keeps a list of what was asked for."""

  requested: list[str]

  def log_message(self, format, *args):
    del format, args
    self.requested.append(f"{self.command} {self.path}")


@pytest.fixture
def serve(monkeypatch) -> Iterator:
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  servers = []

  def start(folder: Path) -> Server:
    requested = []
    handler = type("Handler", (Handler,), {"requested": requested})
    server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    servers.append((server, thread))
    return Server(f"http://127.0.0.1:{server.server_port}/", requested)

  yield start
  for server, thread in servers:
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def online(fake_mnist, serve, monkeypatch) -> Server:
  """The fake MNIST at its registered address."""
  server = serve(fake_mnist.folder)
  monkeypatch.setitem(
    idx.FAMILY, "mnist", fake_mnist.files._replace(url=server.url)
  )
  return server


def load(folder, name="mnist"):
  return datasets.load(DataConfig(name, str(folder), canvas=28))


def assert_same(loaded, fake):
  for name in ("train", "test"):
    split = getattr(loaded, name)
    images = fake.arrays[name, "images"]
    np.testing.assert_array_equal(split.images[..., 0], images)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.labels, fake.arrays[name, "labels"])
    assert split.labels.dtype == np.int32


def test_a_set_is_downloaded_once_and_read_in_idx_order(
  online, fake_mnist, tmp_path
):
  folder = tmp_path / "new" / "data"
  loaded = load(folder)
  assert_same(loaded, fake_mnist)
  assert loaded.provenance["order"] == "IDX"
  assert loaded.provenance["source"] == "TFDS 1.0.0, our builder"
  fetched = {path for path in online.requested if path.startswith("GET")}
  assert fetched == {f"GET /{name}" for name in idx.FILES.values()}
  assert [path.name for path in folder.iterdir()] == ["idx_images"]

  online.requested.clear()
  again = load(folder)
  assert not online.requested
  assert again.provenance == loaded.provenance
  assert_same(again, fake_mnist)


def refused(folder, name="mnist"):
  """The message, after a check that it is one line and came soon."""
  start = time.perf_counter()
  with pytest.raises(ExperimentError) as caught:
    load(folder, name)
  assert time.perf_counter() - start < 10
  message = str(caught.value)
  assert "\n" not in message
  return message


def assert_download_fails(folder, reason):
  message = refused(folder)
  assert message.startswith(f"mnist could not be downloaded to {folder}: ")
  assert reason in message
  for way in ("(1)", "(2)", "(3)", "--data_dir", "TFDS", "online"):
    assert way in message


def test_a_file_of_another_content_is_not_accepted(
  online, fake_mnist, tmp_path
):
  labels = fake_mnist.folder / "t10k-labels-idx1-ubyte.gz"
  content = bytearray(labels.read_bytes())
  content[-1] ^= 1
  labels.write_bytes(content)
  folder = tmp_path / "data"
  assert_download_fails(folder, "wrong checksum")
  assert online.requested
  assert not folder.exists()


def test_a_failed_download_leaves_other_data_alone(
  online, fake_mnist, tmp_path
):
  (fake_mnist.folder / "train-labels-idx1-ubyte.gz").write_bytes(b"")
  folder = tmp_path / "data"
  folder.mkdir()
  (folder / "mine").write_text("kept")
  assert_download_fails(folder, "wrong checksum")
  assert online.requested
  assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_server_without_the_files_is_an_error(
  serve, fake_mnist, tmp_path, monkeypatch
):
  empty = tmp_path / "empty"
  empty.mkdir()
  server = serve(empty)
  files = fake_mnist.files._replace(url=server.url)
  monkeypatch.setitem(idx.FAMILY, "mnist", files)
  folder = tmp_path / "data"
  assert_download_fails(folder, "HTTP code: 404")
  assert any(path.startswith("GET") for path in server.requested)
  assert not folder.exists()


def test_no_server_at_all_is_an_error(fake_mnist, tmp_path, monkeypatch):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  files = fake_mnist.files._replace(url=f"http://127.0.0.1:{port}/")
  monkeypatch.setitem(idx.FAMILY, "mnist", files)
  folder = tmp_path / "data"
  assert_download_fails(folder, "refused")
  assert not folder.exists()


def test_an_unwritable_place_is_an_error(online, tmp_path):
  (tmp_path / "file").touch()
  folder = tmp_path / "file" / "data"
  assert_download_fails(folder, "Not a directory")
  assert not any(path.startswith("GET /t") for path in online.requested)


def test_without_a_folder_tfds_default_is_used(
  online, fake_mnist, tmp_path, monkeypatch
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
  assert_same(load(""), fake_mnist)
  assert (tmp_path / "default" / "idx_images" / "mnist").is_dir()
  assert online.requested


# --- sets that TFDS prepared -------------------------------------------------


class TinyImages(tfds.core.GeneratorBasedBuilder):
  """6 training and 4 test images of 5x4 pixels in three colours."""

  VERSION = tfds.core.Version("1.2.0")
  FEATURES: tuple[str, str] = ("image", "label")

  def _info(self):
    image, label = self.FEATURES
    features = {
      image: tfds.features.Tensor(shape=(5, 4, 3), dtype=np.uint8),
      label: tfds.features.ClassLabel(num_classes=12),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description="Tiny.",
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {"train": self.examples(0, 6), "test": self.examples(6, 10)}

  def examples(self, start, stop):
    image, label = self.FEATURES
    for i in range(start, stop):
      yield i, {image: np.full((5, 4, 3), i, np.uint8), label: i + 2}

  _generate_examples = examples


class OtherFeatures(TinyImages):
  """The same under names that mean nothing here."""

  FEATURES = ("picture", "kind")


class TrainOnly(TinyImages):
  """A set without a test split."""

  def _split_generators(self, dl_manager):
    del dl_manager
    return {"train": self.examples(0, 6)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  for builder in (TinyImages, OtherFeatures, TrainOnly):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


def test_a_set_prepared_by_tfds_is_read(prepared):
  config = DataConfig("tfds:tiny_images", str(prepared), canvas=6)
  loaded = datasets.load(config)
  assert loaded.train.images.shape == (6, 6, 6, 3)
  assert loaded.test.images.shape == (4, 6, 6, 3)
  np.testing.assert_array_equal(loaded.test.images[:, 2, 2, 1], [6, 7, 8, 9])
  np.testing.assert_array_equal(loaded.test.labels, [8, 9, 10, 11])
  assert loaded.num_classes == 12
  assert loaded.provenance["source"] == "TFDS tiny_images/1.2.0"
  assert loaded.provenance["order"] == "TFDS"


def test_the_newest_version_is_read(prepared, tmp_path):
  source = prepared / "tiny_images" / "1.2.0"
  for version in ("1.10.0", "1.9.0"):
    shutil.copytree(source, tmp_path / "tiny_images" / version)
  config = DataConfig("tfds:tiny_images", str(tmp_path))
  assert datasets.load(config).provenance["source"].endswith("1.10.0")


def test_a_set_that_is_not_prepared_is_an_error(tmp_path):
  message = refused(tmp_path, "tfds:emnist")
  assert f"{tmp_path / 'emnist'} holds no data prepared by TFDS" in message
  assert "file_format='array_record'" in message
  assert not list(tmp_path.iterdir())


def test_a_set_in_another_format_is_an_error(prepared, tmp_path):
  target = tmp_path / "tiny_images" / "1.2.0"
  shutil.copytree(prepared / "tiny_images" / "1.2.0", target)
  info = json.loads((target / "dataset_info.json").read_text())
  assert info["fileFormat"] == "array_record"
  info["fileFormat"] = "tfrecord"
  (target / "dataset_info.json").write_text(json.dumps(info))
  message = refused(tmp_path, "tfds:tiny_images")
  assert f"{target} is not in array_record format" in message


def test_a_set_without_image_and_label_is_an_error(prepared):
  message = refused(prepared, "tfds:other_features")
  assert "has features kind, picture: image and label are needed" in message


def test_a_set_without_a_test_split_is_an_error(prepared):
  message = refused(prepared, "tfds:train_only")
  assert "has no test split, only train" in message


def test_mnist_by_tfds_itself_is_said_to_be_shuffled(
  online, fake_mnist, tmp_path
):
  load(tmp_path / "ours")
  online.requested.clear()
  theirs = tmp_path / "theirs" / "mnist" / "3.0.1"
  shutil.copytree(tmp_path / "ours/idx_images/mnist/1.0.0", theirs)
  loaded = load(tmp_path / "theirs")
  assert_same(loaded, fake_mnist)
  assert loaded.provenance["source"] == "TFDS mnist/3.0.1"
  assert "shuffled" in loaded.provenance["order"]
  assert not online.requested


def test_mnist_itself_survives_tfds(serve, mnist_dir, tmp_path, monkeypatch):
  server = serve(mnist_dir)
  files = idx.FAMILY["mnist"]._replace(url=server.url)
  monkeypatch.setitem(idx.FAMILY, "mnist", files)
  ours, theirs = load(tmp_path), load(mnist_dir)
  assert len(server.requested) >= 4
  assert ours.provenance["source"] != theirs.provenance["source"]
  for name in ("train_sha256", "test_sha256"):
    assert ours.provenance[name] == theirs.provenance[name]
