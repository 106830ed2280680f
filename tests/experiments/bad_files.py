"""Files that a user might have by mistake, written into the current folder."""

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np

from experiments import idx, store
from experiments.checksums import Sums

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1), np.uint8)
LABELS = np.arange(6) % 3


def npz(name="mine.npz", **arrays):
  def write(run):
    del run
    np.savez(name, **arrays)

  return write


def npy(array, name="mine.npy"):
  def write(run):
    del run
    np.save(name, array)

  return write


def text(name, content):
  def write(run):
    del run
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )

  return write


def folder(name):
  return lambda run: Path(name).mkdir(parents=True)


def pipe(name):
  return lambda run: os.mkfifo(name)


def link(name, target):
  def write(run):
    del run
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).symlink_to(target)

  return write


def zipped(name, **members):
  def write(run):
    del run
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
      for member, content in members.items():
        archive.writestr(member, content)

  return write


def png(name, array):
  def write(run):
    del run
    from PIL import Image

    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(name)

  return write


def png_of_size(name, side):
  head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
  return text(name, head + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))


# --- the IDX family: four files, of which one is another ---------------------


def idx_file(array, magic=None):
  head = struct.pack(
    f">{array.ndim + 1}i", magic or 0x0800 + array.ndim, *array.shape
  )
  return gzip.compress(head + array.tobytes(), mtime=0)


def idx_folder(name, content=None):
  """A folder of four files, one replaced; or taken away."""

  def write(run):
    del run
    for (_, kind), file in idx.FILES.items():
      array = np.zeros((4, 28, 28) if kind == "images" else 4, np.uint8)
      text(f"idx/{file}", idx_file(array))(None)
    if content is None:
      Path("idx", name).unlink()
    else:
      text(f"idx/{name}", content)(None)

  return write


# --- a trained run, changed ---------------------------------------------------


def trained(run):
  """A copy of a run that was trained with seed 0, in the folder run."""
  shutil.copytree(run(), "run")


def changed_run(name, change):
  """The run with one file changed: bytes to bytes, or None to take it away.

  Its checksum is made to fit: what does not is damage, and is made again.
  """

  def write(run):
    trained(run)
    path = Path("run", name)
    content = change(path.read_bytes())
    if content is None:
      path.unlink()
    else:
      Sums(Path("run")).record(path, content)
      path.write_bytes(content)

  return write


def changed_params(change):
  """The run with the trained parameters changed, as a flat dictionary."""

  def changed(content):
    with np.load(io.BytesIO(content)) as archive:
      flat = dict(archive)
    stream = io.BytesIO()
    np.savez(stream, **change(flat))
    return stream.getvalue()

  return changed_run("params/seed0_trained.npz", changed)


def changed_config(section, name, value):
  def change(content):
    config = json.loads(content)
    config[section][name] = value
    return json.dumps(config).encode()

  return changed_run("config.json", change)


# --- a results folder ---------------------------------------------------------


def results(**tables):
  """A folder with the tables of a study, some of them others."""

  def write(run):
    del run
    import pandas as pd

    empty = pd.DataFrame({"run": pd.Series(dtype=str)})
    for file in ("measurements.parquet", "training.csv", "networks.csv"):
      store.write_table(Path("results", file), empty)
    store.write_table(Path("results/exact.csv"), empty)
    study = {"cells": [{"cell": "a", "run": "a"}], "overview": ["a"]}
    store.write_json(Path("results/provenance.json"), {"study": study})
    for name, content in tables.items():
      path = Path("results", name.replace("__", "."))
      if content is None:
        path.unlink()
      else:
        path.write_bytes(content)

  return write
