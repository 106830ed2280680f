"""TensorFlow Datasets (TFDS) without TensorFlow.

Prepared image sets are read through TFDS's data sources, which need no
TensorFlow. TFDS's own MNIST builder needs it to prepare; `IdxImages` does not:
it downloads the same files through TFDS's download manager, against the same
checksums, and writes them in array_record format in IDX order.

Imported only where TFDS is needed, because that import takes seconds.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds

from experiments import idx
from experiments.datasets import Split
from experiments.errors import ExperimentError

_CHUNK = 4096  # examples read at a time


class IdxImages(tfds.core.GeneratorBasedBuilder):
  """MNIST, Fashion-MNIST or KMNIST from their four IDX files, in IDX order."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's own convention)
    tfds.core.BuilderConfig(name=name) for name in idx.FAMILY
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    image = tfds.features.Tensor(
      shape=(28, 28, 1), dtype=np.uint8, encoding="zlib"
    )
    label = tfds.features.Tensor(shape=(), dtype=np.uint8)
    return tfds.core.DatasetInfo(
      builder=self,
      description="28x28 grey images of ten classes.",
      features=tfds.features.FeaturesDict({"image": image, "label": label}),
      disable_shuffling=True,
    )

  @property
  def url_infos(self) -> dict[str, Any]:
    """The registered checksums; replaces TFDS's lookup by builder name."""
    files = idx.FAMILY[self.builder_config.name]
    return {
      files.url + name: tfds.core.download.checksums.UrlInfo(
        size=tfds.core.utils.Size(files.size[name]),
        checksum=sha256,
        filename=name,
      )
      for name, sha256 in files.sha256.items()
    }

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    files = idx.FAMILY[self.builder_config.name]
    # In turn: if one fails, no other is still writing to the folder, which is
    # then removed.
    paths = {n: dl_manager.download(files.url + n) for n in files.sha256}
    prefixes = {"train": "train", "test": "t10k"}
    return {
      split: self._generate_examples(
        Path(paths[f"{prefix}-images-idx3-ubyte.gz"]),
        Path(paths[f"{prefix}-labels-idx1-ubyte.gz"]),
      )
      for split, prefix in prefixes.items()
    }

  def _generate_examples(
    self, images: Path, labels: Path
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    pixels = idx.read(images, 3)[..., None]
    classes = idx.read(labels, 1)
    for i in range(len(classes)):
      yield i, {"image": pixels[i], "label": classes[i]}


def default_folder() -> Path:
  """Where TFDS keeps its data: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
  return Path(
    os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  ).expanduser()


def idx_family(
  name: str, folder: Path | None
) -> tuple[Split, Split, dict[str, Any]]:
  """A set of the IDX family: prepared by us, by TFDS, or now.

  Args:
    name: "mnist", "fashion_mnist" or "kmnist".
    folder: TFDS's data folder; its default if None.

  Returns:
    Train and test split, and where they come from.

  Raises:
    ExperimentError: not there and not to be had; says how to get it.
  """
  folder = folder or default_folder()
  ours = folder / IdxImages.name / name / str(IdxImages.VERSION)
  if not (ours / "dataset_info.json").exists():
    if (folder / name).is_dir():
      train, test, origin = prepared(name, folder)
      # TFDS shuffles when it writes: its first test image is IDX's 9933rd.
      origin["order"] = "TFDS, shuffled: not the IDX order"
      return train, test, origin
    _prepare(name, folder)
  train, test = _read(ours)
  return (
    train,
    test,
    {"source": f"TFDS {ours.name}, our builder", "order": "IDX"},
  )


def _prepare(name: str, folder: Path) -> None:
  """Downloads and prepares a set; leaves nothing behind if it fails."""
  size = sum(idx.FAMILY[name].size.values()) / 1e6
  print(f"downloading {name} ({size:.0f} MB) to {folder}", flush=True)
  existed = folder.exists()
  temporary = None
  try:
    # TFDS itself would try again for minutes.
    requests.head(idx.FAMILY[name].url, timeout=20).close()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=folder))
    _prepare_in(name, temporary)
    target = folder / IdxImages.name / name
    target.parent.mkdir(exist_ok=True)
    (temporary / IdxImages.name / name).rename(target)
  except Exception as error:
    # TFDS raises errors of many unrelated types.
    reason = str(error).strip().splitlines()
    raise ExperimentError(
      f"{name} could not be downloaded to {folder}:"
      f" {reason[0] if reason else type(error).__name__};"
      f" {idx.ways_to_get(name)}"
    ) from error
  finally:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)
    if not existed and folder.is_dir() and not any(folder.iterdir()):
      folder.rmdir()


def _prepare_in(name: str, folder: Path) -> None:
  tfds.disable_progress_bar()
  builder = IdxImages(config=name, data_dir=folder, file_format="array_record")
  config = tfds.download.DownloadConfig(force_checksums_validation=True)
  with contextlib.redirect_stdout(io.StringIO()):  # it prints passing paths
    builder.download_and_prepare(download_config=config)


def prepared(
  name: str, folder: Path | None
) -> tuple[Split, Split, dict[str, Any]]:
  """A set that TFDS has prepared, in its newest version there.

  Args:
    name: the set's folder, with its configuration if it has one.
    folder: TFDS's data folder; its default if None.

  Returns:
    Train and test split, and where they come from.

  Raises:
    ExperimentError: not prepared, not in array_record format, or not an image
      set with train and test.
  """
  folder = folder or default_folder()
  infos = sorted((folder / name).glob("**/dataset_info.json"))
  if not infos:
    raise ExperimentError(
      f"{folder / name} holds no data prepared by TFDS: prepare it with"
      f" tfds.builder({name!r}, file_format='array_record')"
      ".download_and_prepare(), or point --data_dir to where it is"
    )
  versions = {_version(info.parent.name): info.parent for info in infos}
  path = versions[max(versions)]
  train, test = _read(path)
  return (
    train,
    test,
    {
      "source": f"TFDS {path.relative_to(folder)}",
      "order": "TFDS",
    },
  )


def _version(name: str) -> tuple[int, ...]:
  parts = name.split(".")
  return tuple(int(p) if p.isdigit() else -1 for p in parts)


def _read(path: Path) -> tuple[Split, Split]:
  builder = tfds.builder_from_directory(path)
  splits = []
  for name in ("train", "test"):
    if name not in builder.info.splits:
      raise ExperimentError(
        f"{path} has no {name} split, only {', '.join(builder.info.splits)}"
      )
    try:
      source = builder.as_data_source(split=name)
    except (NotImplementedError, ValueError) as error:
      raise ExperimentError(
        f"{path} is not in array_record format, the one that is read without"
        " TensorFlow: prepare it again with file_format='array_record'"
      ) from error
    splits.append(_decode(path, source))
  return splits[0], splits[1]


def _decode(path: Path, source: Any) -> Split:
  """Reads all examples, many at a time: one by one is five times slower."""
  if len(source) == 0:
    raise ExperimentError(f"{path} has a split without examples")
  images, labels = [], []
  for start in range(0, len(source), _CHUNK):
    indices = range(start, min(start + _CHUNK, len(source)))
    for example in source.__getitems__(list(indices)):
      if not {"image", "label"} <= set(example):
        raise ExperimentError(
          f"{path} has features {', '.join(example)}: image and label are"
          " needed"
        )
      images.append(example["image"])
      labels.append(example["label"])
  shapes = {np.shape(image) for image in images}
  if len(shapes) != 1 or images[0].ndim != 3 or images[0].dtype != np.uint8:
    raise ExperimentError(
      f"{path} has images of {len(shapes)} shapes, such as {images[0].dtype}"
      f" {images[0].shape}: all must be uint8 of one (height, width, channels)"
    )
  return Split(np.stack(images), np.asarray(labels, np.int32))
