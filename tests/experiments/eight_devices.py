"""Run by test_devices.py, on eight simulated devices in a process of its own.

Trains and measures on one device and on all of them; prints one JSON object.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np
import pandas as pd

from analysis import orbits
from experiments import building, datasets, devices, training
from experiments.config import DataConfig, ModelConfig, TrainConfig
from tests.analysis import networks

TRAIN = TrainConfig(epochs=1, batch_size=60)
MLP = ModelConfig(model="mlp", depth=1, width=8)
BATCH_NORM = ModelConfig(depth=1, width=2, norm="batch", head="gap")
TURNED = dataclasses.replace(TRAIN, augment="rotation:20")
# Name: seeds, strategy, network, flags.
CASES = {
  "seeds in turn": (8, "loop", MLP, TRAIN),
  "batch norm": (3, "loop", BATCH_NORM, TURNED),
  "side by side": (4, "scan", MLP, TRAIN),
  "side by side, batch norm": (3, "scan", BATCH_NORM, TURNED),
}
IMAGES = 13
MEASURES = {
  "measured": (
    "invariance_error",
    "equivariance_error",
    "normalized_variance",
    "accuracy",
    "consistency",
  ),
  "measured by all": "all",
}


def trained(name: str) -> dict[str, Any]:
  """How far training on all devices is from training on one."""
  count, strategy, architecture, flags = CASES[name]
  dataset = datasets.load(DataConfig(train_examples=128, test_examples=90))
  model = building.build_model(architecture, num_classes=10, canvas=32)
  flags = dataclasses.replace(flags, strategy=strategy)
  seeds = list(range(count))
  alone, shared = (
    list(training.train(model, dataset, flags, seeds, devices=some))
    for some in (None, jax.devices())
  )
  layout = devices.lay_out(jax.devices(), count, flags.batch_size)
  assert layout.mesh is not None
  return {
    "mesh": list(layout.mesh.shape.values()),
    "off": max(
      _distance(getattr(a, stage), getattr(b, stage))
      for a, b in zip(alone, shared, strict=True)
      for stage in ("initial", "trained", "metrics")
    ),
    "learned": min(_distance(a.initial, a.trained) for a in alone),
  }


def _distance(first: Any, second: Any) -> float:
  """The largest difference; of metrics, but for their speed."""
  if isinstance(first, list):
    first = [m[:-1] for m in first]
    second = [m[:-1] for m in second]
  return max(
    float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float))))
    for a, b in zip(
      jax.tree.leaves(first), jax.tree.leaves(second), strict=True
    )
  )


def measured(name: str) -> dict[str, Any]:
  """How far a table made on all devices is from one made on one."""
  dataset = datasets.load(DataConfig(train_examples=IMAGES))
  images = dataset.train.images.reshape(IMAGES, 16, 2, 16, 2, 1).mean((2, 4))
  alone, shared = (
    orbits.measure(
      networks.plain,
      images.astype(np.float32) / 255,
      {"rotation": [0, 20], "translation": [(0, 0), (2, 0)]},
      MEASURES[name],
      geometry=networks.PLAIN_GEOMETRY,
      labels=dataset.train.labels,
      batch_size=batch_size,
      devices=some,
    )
    # Sixteen images a step, three of them no images; or eight, and again.
    for some, batch_size in ((None, None), (jax.devices(), 8))
  )
  numbers = list(alone.select_dtypes("number"))
  rest = alone.columns.difference(numbers)
  pd.testing.assert_frame_equal(alone[rest], shared[rest])
  ours, theirs = alone[numbers].to_numpy(float), shared[numbers].to_numpy(float)
  assert (np.isnan(ours) == np.isnan(theirs)).all()
  off = np.abs(ours - theirs) / np.maximum(np.abs(ours), 1)
  return {
    "rows": len(alone),
    "measures": int(alone["measure"].nunique()),
    "off": float(np.nanmax(off)),
  }


if __name__ == "__main__":
  print(
    json.dumps(
      {
        name: (trained if name in CASES else measured)(name)
        for name in sys.argv[1:]
      }
    )
  )
