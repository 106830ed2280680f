"""Question: what do images to measure look like as a file?

  python -m examples.digits digits.npz

Writes 64 handwritten digits: `images`, (64, 32, 32, 1) uint8, and `labels`,
(64,). Any network that takes such images can be measured on them.

Expected output, in a second or two:

  digits.npz: images (64, 32, 32, 1) uint8, labels (64,) int32
"""

import sys
from pathlib import Path

import numpy as np

from experiments import datasets
from experiments.config import DataConfig

COUNT = 64


def write(path: Path) -> None:
  """Writes test digits, evenly spread over the writers."""
  split = datasets.load(DataConfig()).test
  chosen = np.arange(COUNT) * len(split.labels) // COUNT
  np.savez(path, images=split.images[chosen], labels=split.labels[chosen])


if __name__ == "__main__":
  target = Path(sys.argv[1] if len(sys.argv) > 1 else "digits.npz")
  write(target)
  with np.load(target) as arrays:
    parts = [
      f"{name} {arrays[name].shape} {arrays[name].dtype}" for name in arrays
    ]
  print(f"{target}: {', '.join(parts)}")
