import numpy as np
import pytest

from analysis.orbits import measure_arrays


def _measured(before, after, labels):
  one_hot = np.eye(4, dtype=np.float32)
  table = measure_arrays(
    {"logits": one_hot[before]},
    {"logits": one_hot[np.asarray(after)]},
    ["accuracy", "consistency"],
    labels=labels,
    batch_size=2,
  )
  return {
    name: table["value"][table["measure"] == name].tolist()
    for name in ("accuracy", "consistency")
  }


def test_accuracy_and_consistency_count_images():
  values = _measured(
    [0, 1, 2, 3, 0],
    [[0, 1, 2, 3, 0], [1, 1, 2, 3, 1], [3, 0, 1, 2, 3]],
    labels=[0, 1, 2, 0, 0],
  )
  assert values["accuracy"] == pytest.approx([0.8, 0.4, 0.0])
  assert values["consistency"] == pytest.approx([1.0, 0.6, 0.0])


def test_a_wrong_network_can_be_consistent():
  values = _measured([3, 3, 3], [[3, 3, 3]] * 2, labels=[0, 1, 2])
  assert values == {"accuracy": [0, 0], "consistency": [1, 1]}
