import hashlib

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from experiments import datasets, tfds_data
from experiments.config import DataConfig
from experiments.errors import ExperimentError, UsageError


@pytest.fixture(scope="module")
def all_digits():
  return datasets.load(DataConfig())


def both(dataset):
  images = np.concatenate([dataset.train.images, dataset.test.images])
  return images[..., 0]


def test_digits_are_bytes_on_a_32_pixel_canvas(all_digits):
  for split, count in ((all_digits.train, 1287), (all_digits.test, 510)):
    assert split.images.shape == (count, 32, 32, 1)
    assert split.images.dtype == np.uint8
    assert split.labels.shape == (count,)
    assert split.labels.dtype == np.int32
  assert all_digits.num_classes == 10


def test_digits_are_the_same_bytes_on_every_machine(all_digits):
  splits = all_digits.train, all_digits.test
  assert [hashlib.sha256(s.images).hexdigest() for s in splits] == [
    "cca5d0ce9cff8b478c06e53752d002528f8817e320b63bda9c1005db0d50b97c",
    "601f475c3b912e226562e2b073c8638e2cd41954dac877cfa8e693fc8c224b88",
  ]


def test_provenance_identifies_images_and_labels(all_digits):
  for name in ("train", "test"):
    split = getattr(all_digits, name)
    content = split.images.tobytes() + split.labels.astype("<i4").tobytes()
    expected = hashlib.sha256(content).hexdigest()
    assert all_digits.provenance[f"{name}_sha256"] == expected
  assert all_digits.provenance["canvas"] == 32
  assert all_digits.provenance["train_examples"] == 1287
  assert all_digits.provenance["test_examples"] == 510


def test_labels_are_scikit_learns(all_digits):
  _, labels = load_digits(return_X_y=True)
  ours = [all_digits.train.labels, all_digits.test.labels]
  np.testing.assert_array_equal(np.concatenate(ours), labels)


def test_no_form_is_in_both_splits(all_digits):
  """All forms begin alike: the digits in order, three times."""
  _, labels = load_digits(return_X_y=True)
  start = np.tile(np.arange(10), 3)
  boundary = datasets.DIGITS_TRAIN
  np.testing.assert_array_equal(labels[boundary : boundary + 30], start)
  # No form begins between the last of the training set and the boundary: it is
  # a whole form of about 130 digits that ends there.
  begins = [
    i for i in range(boundary) if np.array_equal(labels[i : i + 30], start)
  ]
  assert 120 < boundary - begins[-1] < 140


def test_digits_fill_a_20_pixel_box(all_digits):
  for axis in (1, 2):
    inked = both(all_digits).any(axis=axis)
    first = np.argmax(inked, axis=1)
    last = 31 - np.argmax(np.flip(inked, axis=1), axis=1)
    assert (last - first + 1).max() == 20


def centre_of_mass(images):
  weights = images.astype(float) / images.sum(axis=(1, 2), keepdims=True)
  place = np.arange(images.shape[1])
  return weights.sum(axis=2) @ place, weights.sum(axis=1) @ place


def test_centres_of_mass_are_in_the_middle(all_digits):
  for centre in centre_of_mass(both(all_digits)):
    np.testing.assert_allclose(centre, 15.5, atol=0.5 + 1e-9)


def test_a_narrow_canvas_keeps_boxes_whole_at_its_edge():
  """On 20 pixels there is the box alone; on 22 it can move by one."""
  boxes, images = (
    both(datasets.load(DataConfig(canvas=canvas))) for canvas in (20, 22)
  )
  rows, columns = centre_of_mass(images)
  for centre, axis in ((rows, 2), (columns, 1)):
    profile, box = images.sum(axis=axis), boxes.sum(axis=axis)
    low, high = centre < 10.5 - 0.5, centre > 10.5 + 0.5
    assert low.any()
    assert high.any()
    np.testing.assert_array_equal(profile[low, 2:], box[low])
    np.testing.assert_array_equal(profile[high, :20], box[high])


def test_the_enlargement_is_bilinear():
  """At 20 pixels the canvas is the box itself."""
  raw, _ = load_digits(return_X_y=True)
  place = (np.arange(20) + 0.5) * 8 / 20 - 0.5
  grid = np.meshgrid(place, place, indexing="ij")
  expected = [
    ndimage.map_coordinates(image, grid, order=1, mode="nearest")
    for image in raw.reshape(-1, 8, 8).astype(np.float64)
  ]
  ours = both(datasets.load(DataConfig(canvas=20)))
  difference = np.abs(ours - np.stack(expected) * 255 / 16)
  assert difference.max() <= 0.5 + 1e-9


def test_the_first_examples_are_taken(all_digits):
  few = datasets.load(DataConfig(train_examples=7, test_examples=3))
  np.testing.assert_array_equal(few.train.images, all_digits.train.images[:7])
  np.testing.assert_array_equal(few.train.labels, all_digits.train.labels[:7])
  np.testing.assert_array_equal(few.test.images, all_digits.test.images[:3])
  assert few.provenance["train_examples"] == 7
  assert few.provenance["test_examples"] == 3
  hashes = few.provenance["train_sha256"], all_digits.provenance["train_sha256"]
  assert hashes[0] != hashes[1]


def test_few_examples_do_not_lose_a_class():
  assert datasets.load(DataConfig(train_examples=2)).num_classes == 10


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_examples": 1288}, "--train_examples=1288 .* 1287 there are"),
    ({"test_examples": 511}, "--test_examples=511 .* 510 there are"),
    ({"train_examples": -1}, "--train_examples=-1 is not between"),
    ({"test_examples": -1}, "--test_examples=-1 is not between"),
    ({"canvas": 19}, "--canvas=19 is smaller than the 20 px box"),
    ({"canvas": 0}, "--canvas=0 is smaller"),
    (
      {"dataset": "mnits"},
      "--dataset=mnits is unknown; known are digits, mnist, fashion_mnist,"
      " kmnist, tfds:NAME",
    ),
    ({"dataset": "tfds:"}, "--dataset=tfds: lacks a name"),
  ],
)
def test_impossible_requests_are_refused(changes, message):
  with pytest.raises(UsageError, match=message):
    datasets.load(DataConfig(**changes))


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
  path = tmp_path / "file"
  path.touch()
  with pytest.raises(ExperimentError, match=f"--data_dir={path} is not a fold"):
    datasets.load(DataConfig("mnist", str(path)))


def test_images_are_padded_evenly_to_the_canvas(fake_mnist):
  loaded = datasets.load(DataConfig("mnist", str(fake_mnist.folder), canvas=33))
  images = fake_mnist.arrays["test", "images"]
  expected = np.zeros((len(images), 33, 33, 1), np.uint8)
  expected[:, 2:30, 2:30, 0] = images
  np.testing.assert_array_equal(loaded.test.images, expected)


def test_a_canvas_smaller_than_the_images_is_refused(fake_mnist):
  config = DataConfig("mnist", str(fake_mnist.folder), canvas=27)
  message = "--canvas=27 is smaller than the 28x28 images of mnist"
  with pytest.raises(UsageError, match=message):
    datasets.load(config)


@pytest.fixture
def offline(monkeypatch):
  """Whoever asks TFDS for images fails the test."""

  def refuse(*_):
    raise AssertionError("asked for images")

  monkeypatch.setattr(tfds_data, "idx_family", refuse)
  monkeypatch.setattr(tfds_data, "prepared", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_an_outline_has_the_sizes_without_the_images(name, tmp_path):
  config = DataConfig(name, str(tmp_path), train_examples=10_000, canvas=40)
  found = datasets.outline(config)
  assert found.train.images.shape == (10_000, 40, 40, 1)
  assert found.test.images.shape == (10_000, 40, 40, 1)
  assert len(found.train.labels) == len(found.test.labels) == 10_000
  assert found.num_classes == 10
  assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_examples": 60_001}, "not between 0 .all. and the 60000 there"),
    ({"canvas": 27}, "--canvas=27 is smaller than the 28x28 images of kmnist"),
  ],
)
def test_an_outline_refuses_what_would_be_refused(changes, message):
  with pytest.raises(UsageError, match=message):
    datasets.outline(DataConfig("kmnist", **changes))


@pytest.mark.usefixtures("offline")
def test_what_is_at_hand_needs_no_outline(all_digits, fake_mnist):
  digits = datasets.outline(DataConfig())
  assert digits.provenance == all_digits.provenance
  config = DataConfig("mnist", str(fake_mnist.folder))
  outline, loaded = datasets.outline(config), datasets.load(config)
  assert outline.provenance == loaded.provenance


def test_mnist_is_mnist(mnist_dir):
  mnist = datasets.load(DataConfig("mnist", str(mnist_dir)))
  assert mnist.train.images.shape == (60_000, 32, 32, 1)
  assert mnist.test.images.shape == (10_000, 32, 32, 1)
  assert mnist.test.labels[0] == 7
  np.testing.assert_array_equal(
    np.bincount(mnist.train.labels),
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
  )
  assert not mnist.train.images[:, :2].any()
  inner = mnist.train.images[:, 2:30, 2:30]
  # The mean that everybody normalizes MNIST with, 0.1307 of white.
  assert inner.mean(dtype=np.float64) == pytest.approx(33.318, abs=5e-4)
  assert mnist.provenance["source"] == "IDX files"
