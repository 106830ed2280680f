"""Images of the user's: what is read, and the one line for what is not."""

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from experiments import user_images
from experiments.errors import ExperimentError, UsageError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (3, 6, 5, 1), dtype=np.uint8)


def save_png(path, pixels, mode=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels)).convert(mode or None).save(path)


def refusal(path, error=ExperimentError):
  with pytest.raises(error, match=r"\S") as caught:
    user_images.load(path)
  message = str(caught.value)
  assert str(path) in message
  assert "\n" not in message
  return message


# --- what is read ------------------------------------------------------------


def test_an_npz_has_images_and_perhaps_labels(tmp_path):
  path = tmp_path / "mine.npz"
  np.savez(path, images=BYTES, labels=[2, 0, 1], other=[1.0])
  given = user_images.load(path)
  np.testing.assert_array_equal(given.images, BYTES)
  assert given.images.dtype == np.uint8
  assert given.labels is not None
  np.testing.assert_array_equal(given.labels, [2, 0, 1])
  assert given.labels.dtype == np.int32
  assert given.name == "mine.npz"

  np.savez(path, images=BYTES)
  assert user_images.load(path).labels is None


def test_an_npy_has_images_and_grey_ones_get_a_channel(tmp_path):
  path = tmp_path / "mine.npy"
  np.save(path, (BYTES[..., 0] / 255).astype(np.float64))
  given = user_images.load(path)
  assert given.images.shape == (3, 6, 5, 1)
  assert given.images.dtype == np.float32
  assert given.labels is None
  np.testing.assert_allclose(given.images, BYTES / 255, atol=1e-6)


def test_a_folder_of_pngs_is_read_by_name(tmp_path):
  for i in (2, 0, 1):
    save_png(tmp_path / f"{i}.png", BYTES[i, ..., 0])
  (tmp_path / "notes.txt").write_text("no image")
  (tmp_path / ".hidden.png").write_text("no image")
  given = user_images.load(tmp_path)
  np.testing.assert_array_equal(given.images, BYTES)
  assert given.labels is None
  assert given.classes == ()


def test_subfolders_are_classes(tmp_path):
  for i, name in enumerate(("dog/b.PNG", "cat/a.png", "dog/a.png")):
    save_png(tmp_path / name, BYTES[i, ..., 0])
  (tmp_path / "empty").mkdir()
  given = user_images.load(tmp_path)
  assert given.classes == ("cat", "dog")
  np.testing.assert_array_equal(given.labels, [0, 1, 1])
  np.testing.assert_array_equal(given.images, BYTES[[1, 2, 0]])


@pytest.mark.parametrize(
  ("mode", "channels"),
  [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_pngs_of_any_eight_bit_mode_are_grey_or_in_colour(
  tmp_path, mode, channels
):
  save_png(tmp_path / "a.png", np.full((6, 5), 255, np.uint8), mode)
  images = user_images.load(tmp_path).images
  assert images.shape == (1, 6, 5, channels)
  assert (images == 255).all()


def test_equal_images_have_equal_provenance_wherever_they_are(tmp_path):
  (tmp_path / "sub").mkdir()
  paths = [tmp_path / "a.npz", tmp_path / "sub" / "a.npz"]
  for path in paths:
    np.savez(path, images=BYTES, labels=[0, 1, 2])
  one, other = (user_images.load(path).provenance for path in paths)
  assert one == other
  assert str(tmp_path) not in str(one)
  np.savez(paths[1], images=BYTES, labels=[0, 1, 1])
  changed = user_images.load(paths[1]).provenance
  assert changed["test_sha256"] != one["test_sha256"]


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"x": BYTES}, "has no array 'images', only x"),
    ({"images": BYTES[0, ..., 0]}, "images have shape (6, 5), expected (n,"),
    ({"images": BYTES[:0]}, "images have shape (0, 6, 5, 1)"),
    (
      {"images": np.zeros((2, 3, 8, 8), np.uint8)},
      "images of shape (2, 3, 8, 8) seem to have their channels first",
    ),
    ({"images": BYTES.astype(int)}, "images are int64; use uint8, or floating"),
    ({"images": BYTES.astype(float)}, "images run from "),
    ({"images": BYTES / 255 - 0.5}, "must lie in [0, 1]: normalise inside"),
    ({"images": np.full((2, 4, 4, 1), np.nan)}, "images run from nan to nan"),
    (
      {"images": BYTES, "labels": [0, 1]},
      "labels have shape (2,), expected (3,): one class an image",
    ),
    ({"images": BYTES, "labels": [0.0, 1.0, 2.0]}, "labels are float64 from"),
    ({"images": BYTES, "labels": [0, 1, -1]}, "labels are int64 from -1; use"),
  ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, message):
  path = tmp_path / "mine.npz"
  np.savez(path, **arrays)
  assert message in refusal(path)


def test_pickled_objects_are_refused(tmp_path):
  path = tmp_path / "mine.npz"
  np.savez(path, images=np.array([{}], dtype=object))
  assert "holds pickled objects, which are refused" in refusal(path)
  raw = tmp_path / "mine.npy"
  raw.write_bytes(pickle.dumps([1, 2]))
  assert "pickled objects are refused" in refusal(raw)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_damaged_file_is_refused(tmp_path, name):
  path = tmp_path / name
  np.savez(tmp_path / "whole.npz", images=BYTES)
  path.write_bytes((tmp_path / "whole.npz").read_bytes()[:-60])
  assert "cannot be read" in refusal(path)
  path.write_bytes(b"")
  assert "cannot be read" in refusal(path)


def test_no_file_and_other_files_are_wrong_flags(tmp_path):
  assert "does not exist: give an .npz" in refusal(tmp_path / "no", UsageError)
  other = tmp_path / "a.jpg"
  other.write_bytes(b"")
  assert "is not an .npz or .npy file, or a" in refusal(other, UsageError)


def test_pngs_of_two_sizes_are_both_named(tmp_path):
  save_png(tmp_path / "a.png", np.zeros((6, 5), np.uint8))
  save_png(tmp_path / "b.png", np.zeros((6, 7), np.uint8))
  assert re.search(
    r"a\.png is 5x6 px grey, .*b\.png is 7x6 px grey: all images must be alike",
    refusal(tmp_path),
  )
  save_png(tmp_path / "b.png", np.zeros((6, 5, 3), np.uint8))
  assert "b.png is 5x6 px colour" in refusal(tmp_path)


def test_pngs_that_cannot_be_used_are_named(tmp_path):
  assert "holds no .png file" in refusal(tmp_path)
  file = tmp_path / "a.png"
  file.write_bytes(b"no image")
  assert "a.png cannot be read" in refusal(tmp_path)
  save_png(file, np.zeros((6, 5, 4), np.uint8))
  assert "a.png is transparent in places" in refusal(tmp_path)
  save_png(file, np.zeros((6, 5), np.uint16))
  assert "a.png is of mode I;16: use 8 bits" in refusal(tmp_path)
  save_png(tmp_path / "class" / "b.png", np.zeros((6, 5), np.uint8))
  assert "holds PNGs both itself (a.png) and in subfolders (class)" in refusal(
    tmp_path
  )


def test_a_cut_off_png_is_named(tmp_path):
  file = tmp_path / "a.png"
  save_png(file, RNG.integers(0, 256, (40, 40), dtype=np.uint8))
  file.write_bytes(file.read_bytes()[:200])
  assert "a.png cannot be read" in refusal(tmp_path)
