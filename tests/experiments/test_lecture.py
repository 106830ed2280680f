"""The lecture's arithmetic: known numbers, and the page from real digits."""

import numpy as np
import pandas as pd
import pytest

from experiments import datasets, lecture_page, lectures, store
from experiments.config import DataConfig, TrainConfig


@pytest.fixture(scope="module")
def digit(digits):
  return digits[3, :, :, 0]


@pytest.fixture(scope="module")
def kernel():
  return np.random.default_rng(0).normal(size=(5, 5))


def values(lines):
  return {line["quantity"]: line["value"] for line in lines}


def test_one_number_is_the_sum_over_its_receptive_field(digit, kernel):
  total = lectures.weighted_sum(digit, kernel, 10, 12)
  by_hand = sum(
    float(digit[10 + i, 12 + j]) * kernel[i, j]
    for i in range(5)
    for j in range(5)
  )
  assert total.value == pytest.approx(by_hand, rel=1e-12)
  np.testing.assert_array_equal(total.patch, digit[10:15, 12:17])
  assert lectures.slide(digit, kernel)[10, 12] == total.value
  assert lectures.layer_map(digit, kernel)[10, 12] == pytest.approx(
    by_hand, abs=1e-6
  )


def test_a_layer_computes_the_cross_correlation(digit, kernel):
  hand, correlation, convolution, flipped = (
    line["value"] for line in lectures.convolution_numbers(digit, kernel)
  )
  assert max(hand, correlation, flipped) < 1e-5
  assert convolution > 0.1


def test_output_sizes_are_those_of_real_layers():
  table = lectures.size_table()
  assert len(table) == 225
  numbers = values(lectures.size_numbers(table))
  assert list(numbers.values()) == [28, 28, 0]
  table["layer"] += table.index == 0
  assert list(values(lectures.size_numbers(table)).values())[2] == 1


def test_parameters_are_the_lecture_s():
  assert list(values(lectures.parameter_numbers()).values()) == [
    208,
    7840,
    pytest.approx(7840 / 208),
    pytest.approx(785 * 24 * 24 * 8 / 208),
  ]


def test_a_maximum_may_be_anywhere_in_its_window(digit):
  numbers = values(lectures.pooling_numbers(digit))
  assert numbers["places of the 8 in its window with the same output"] == 9
  assert numbers["outputs that change when it crosses the border"] == 2
  maps = lectures.pooling_maps()
  assert (np.sort(maps.reshape(3, -1)) == np.sort(maps[0].ravel())).all()
  largest, means = (
    [lectures.pooled(m, kind) for m in maps] for kind in ("max", "avg")
  )
  for inside, across in ((largest[1], largest[2]), (means[1], means[2])):
    reference = largest[0] if inside is largest[1] else means[0]
    np.testing.assert_allclose(inside, reference, rtol=1e-6)
    assert np.abs(across - reference).max() > 0.1
  blocks = maps[0].reshape(3, 3, 3, 3)
  np.testing.assert_allclose(means[0], blocks.mean((1, 3)), rtol=1e-6)


def test_maps_move_with_the_digit(digit, kernel):
  along, in_place = (
    line["value"] for line in lectures.shift_numbers(digit, kernel[None])
  )
  assert along == 0
  assert in_place > 0.1


def test_edge_detectors_are_counted_against_random_filters():
  random = np.linspace(0, 1, 101)
  by_seed = {"trained": np.array([[0.94, 0.96], [0.97, 0.99]])}
  numbers = values(lectures.edge_numbers(by_seed, random))
  assert numbers["random filters, 95th percentile"] == pytest.approx(0.95)
  assert numbers["trained filters, share of edge detectors"] == 0.75
  assert numbers["trained filters, median R-squared"] == pytest.approx(0.965)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("lecture")
  data = DataConfig(train_examples=200, test_examples=40)
  train = TrainConfig(
    epochs=1, batch_size=50, optimizer="sgd", schedule="constant"
  )
  dataset = datasets.load(data)
  compute = (workdir, data, train, (0, 1), dataset)
  provenance = store.provenance(dataset.provenance)
  provenance["lecture"] = {
    "dataset": "digits",
    "train_examples": 200,
    "epochs": 1,
    "seeds": [0, 1],
  }
  path = lecture_page.write(
    workdir, *lecture_page.compute(*compute), provenance
  )
  return path, compute


def test_the_page_shows_every_number_and_figure(page):
  path, _ = page
  text = path.read_text("utf-8")
  numbers = pd.read_csv(path.parent / "numbers.csv")
  assert text.count("\n| ") == len(numbers) + 6
  for name in ("weighted_sum", "detectors", "pooling", "edges"):
    assert f"](figures/{name}.png)" in text
    assert (path.parent / "figures" / f"{name}.png").stat().st_size > 10_000
  assert "| output size: 32 wide, kernel 5: a real layer | 28 |" in text
  assert "n = 2)" in text


def test_redrawing_needs_the_stored_files_only(page, monkeypatch):
  path, compute = page
  before = {p: p.read_bytes() for p in path.parent.rglob("*.[ps][nv]g")}
  assert len(before) == 8
  assert lecture_page.draw(path.parent) == path
  assert {p: p.read_bytes() for p in before} == before

  def refuse(*_):
    raise AssertionError("trained again")

  monkeypatch.setattr(lecture_page.runs, "train", refuse)
  arrays, numbers = lecture_page.compute(*compute)
  pd.testing.assert_frame_equal(
    numbers, pd.read_csv(path.parent / "numbers.csv").fillna({"note": ""})
  )
  assert arrays["kernels"].shape == (8, 5, 5)
