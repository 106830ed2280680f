r"""Question: how do I measure a PyTorch network?

Its activations are written to an .npz file, `reference/LAYER` for the images
and `transformed/LAYER` for all transformations of them, and measured from
there. Needs torch for the export, and only for that.

  python -m examples.pytorch_export activations.npz
  python -m experiments.measure --workdir=results/torch --layout=NCHW \
    --activations=activations.npz --transforms=translation:1 \
    --measures=invariance_error,normalized_variance,consistency

`--transforms` says what was applied, in the order of `ELEMENTS`; without it the
transformations are numbered. Expected output, in about 10 s (torch 2.13,
weights of seed 0, untrained):

   layer   transform dose unit             measure   mean
  logits translation    0   px    invariance_error 0.0000
  logits translation    1   px    invariance_error 0.5661
  logits translation    1   px normalized_variance 0.6823
  output translation    0   px         consistency 1.0000
  output translation    1   px         consistency 0.8008
  results/torch/measurements.parquet
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from analysis.transforms import translation
from experiments import datasets
from experiments.config import DataConfig

# The identity, and 1 pixel right, left, down and up: --transforms=translation:1
ELEMENTS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]


def save(
  path: Path,
  forward: Callable[[np.ndarray], dict[str, np.ndarray]],
  images: np.ndarray,
  labels: np.ndarray,
  elements: Iterable[Any] = tuple(ELEMENTS),
) -> None:
  """Writes activations for images and for all translations of them.

  Args:
    path: the .npz file.
    forward: from images (n, h, w, c) in [0, 1] to {layer: activations}, in
      forward order, the output last.
    images: (n, h, w, c) floating point in [0, 1].
    labels: (n,) classes.
    elements: the translations, (dx, dy) in pixels.
  """
  moved = [forward(np.asarray(translation.warp(images, e))) for e in elements]
  arrays: dict[str, Any] = {"labels": labels}
  arrays |= {f"reference/{k}": a for k, a in forward(images).items()}
  for name in moved[0]:
    arrays[f"transformed/{name}"] = np.stack([m[name] for m in moved])
  np.savez(path, **arrays)


def torch_forward() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """A small torch network, every layer of which is recorded by a hook."""
  import torch
  from torch import nn

  torch.manual_seed(0)
  network = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(8 * 16 * 16, 10),
  ).eval()
  seen: dict[str, np.ndarray] = {}
  for name, layer in zip(
    ("conv", "relu", "pool", "flat", "logits"), network, strict=True
  ):
    layer.register_forward_hook(
      lambda module, args, output, name=name: seen.update(
        {name: output.detach().numpy()}
      )
    )

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    seen.clear()
    with torch.no_grad():
      network(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
    return dict(seen)

  return forward


def main(path: Path) -> None:
  """Exports the activations for 64 digits."""
  split = datasets.load(DataConfig()).test
  chosen = np.arange(64) * len(split.labels) // 64
  images = split.images[chosen].astype(np.float32) / 255
  save(path, torch_forward(), images, split.labels[chosen])
  print(path)


if __name__ == "__main__":
  main(Path(sys.argv[1] if len(sys.argv) > 1 else "activations.npz"))
