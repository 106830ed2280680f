"""The scaling suite, tiny: its tables, figures and page."""

import numpy as np
import pandas as pd
import pytest

from analysis.figures import costs
from experiments import pairing, performance_page, roofline, scaling, store
from experiments.errors import ExperimentError, UsageError


@pytest.fixture
def grown():
  """A made-up table: training goes with images, measuring not at all."""
  lines = [
    (part, "images", value, repeat, seconds * (1 + 0.01 * repeat))
    for part, powers in (("train", 1), ("measure", 0))
    for value in (100, 200, 400)
    for repeat in range(6)
    for seconds in [0.01 * value**powers + 2.0 * (repeat == 0)]
  ]
  columns = ["part", "axis", "value", "repeat", "seconds"]
  return pd.DataFrame(lines, columns=columns)


def test_growth_is_what_a_doubling_costs(grown, tmp_path):
  store.write_table(tmp_path / "performance" / "scaling.csv", grown)
  *_, train, measure = performance_page.growth(tmp_path).splitlines()
  assert "| 100 to 400 | 1.03 to 4.12 | 2.00 (2.00 to 2.00, n = 5) |" in train
  assert "| 1.00 (1.00 to 1.00, n = 5) |" in measure
  assert train.endswith("| 2.0 to 1.9 |")


def test_growth_is_drawn_with_its_repeats(grown):
  figure = costs.growth(grown)
  (panel,) = figure.axes
  assert panel.get_xlabel() == "images"
  line, *_ = panel.lines
  drawn = np.asarray(line.get_ydata(), float)
  np.testing.assert_allclose(drawn, [1.03, 2.06, 4.12])
  assert "medians of 5 repeats" in figure.get_supxlabel().replace("\n", " ")


def test_the_tables_of_one_axis_leave_the_others(grown, tmp_path):
  path = tmp_path / "scaling.csv"
  store.write_table(path, grown)
  new = grown[grown["part"] == "train"].assign(seconds=7.0)
  scaling._store(path, new, by=("part", "axis"))
  both = store.read_table(path)
  assert len(both) == len(grown)
  assert set(both["seconds"][both["part"] == "train"]) == {7.0}
  old = both[both["part"] == "measure"].reset_index(drop=True)
  expected = grown[grown["part"] == "measure"].reset_index(drop=True)
  pd.testing.assert_frame_equal(old, expected)


@pytest.mark.parametrize(
  "part", ["sing", "train:transformations", "roofline:x"]
)
def test_unknown_parts_are_refused_before_anything_runs(part, tmp_path):
  with pytest.raises(UsageError, match=f"--parts={part} is unknown; known are"):
    list(scaling.run(tmp_path / "out", [part], 5))
  with pytest.raises(UsageError, match="--rounds=4 is too few"):
    list(scaling.run(tmp_path / "out", ["train"], 4))
  assert not list(tmp_path.iterdir())


def test_timings_of_two_machines_are_not_mixed(tmp_path):
  provenance = store.provenance({"name": "digits"}) | {"processor": "another"}
  store.write_json(tmp_path / "provenance.json", provenance)
  with pytest.raises(ExperimentError, match="timings with processor another"):
    list(scaling.run(tmp_path, ["train"], 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The smoke mode of a part of it, for real."""
  folder = tmp_path_factory.mktemp("results") / "performance"
  parts = ["roofline", "train:images"]
  said = list(scaling.run(folder, parts, 2, smoke=True))
  return folder, said


def test_the_smoke_mode_stores_tables_and_draws_figures(made):
  folder, said = made
  pictures = [folder / "figures" / f"{n}.png" for n in ("roofline", "scaling")]
  assert said == [
    "roofline: measured",
    "train by images: measured",
    *map(str, pictures),
  ]
  before = [path.read_bytes() for path in pictures]
  assert list(scaling.run(folder, [], 1, redraw=True)) == list(
    map(str, pictures)
  )
  assert [path.read_bytes() for path in pictures] == before
  table = store.read_table(folder / "scaling.csv")
  assert list(table["value"].unique()) == [8, 16]
  assert list(table["repeat"].unique()) == [0, 1, 2]
  assert (table["seconds"] > 0).all()


def test_a_roofline_has_operations_and_bytes_of_every_kernel(made):
  rows = costs.rates(store.read_table(made[0] / "roofline.csv"))
  kernels = rows[rows["kind"] == "kernel"]
  items = {
    (item["name"], item["direction"]): item
    for item in kernels.to_dict("records")
  }
  assert list(kernels["name"].unique()) == ["conv1+relu1", "pool1", "logits"]
  sizes = roofline._SMOKE
  units = sizes.piece * 32 * 32 * sizes.width
  conv = items["conv1+relu1", "forward"]
  # 94 of 96 taps along an axis meet the image, and each unit has a bias and is
  # made 0 or not.
  products = sizes.piece * 2 * 94**2 * sizes.width
  assert conv["flops"] == products + 2 * units
  pixels = sizes.piece * 32 * 32
  assert conv["bytes"] == 4 * (units + pixels + 10 * sizes.width)
  pool = items["pool1", "forward"]
  assert (pool["flops"], pool["bytes"]) == (3 * units / 4, 5 * units)
  # The images' own gradient is not computed, but that of the head's input is.
  assert items["conv1+relu1", "backward"]["flops"] == conv["flops"]
  forward, backward = (
    items["logits", direction]["flops"] for direction in ("forward", "backward")
  )
  assert backward == 2 * forward
  (step,) = rows[rows["kind"] == "step"].to_dict("records")
  assert step["flops"] == step["images"] / sizes.piece * kernels["flops"].sum()


def test_the_page_says_what_the_tables_say(made):
  results = made[0].parent
  rows = costs.rates(store.read_table(made[0] / "roofline.csv"))
  (peak,) = rows[rows["kind"] == "peak"]["rate"]
  assert f": {peak / 1e9:.0f} GFLOP/s in a" in performance_page.machine(results)
  text = performance_page.training(results)
  assert text.startswith("**max pooling**: ")
  shares = [
    float(line.split("|")[-2].strip(" %"))
    for line in text.splitlines()
    if line.endswith("% |")
  ]
  assert len(shares) == 3  # kernels
  assert sum(shares) == pytest.approx(100, abs=3)
  lines = performance_page.measuring(results).splitlines()
  assert lines[2].startswith("| network alone | ")
  assert lines[3].startswith("| invariance error | ")


def test_without_an_accelerator_the_page_says_so(tmp_path):
  text = performance_page.accelerator(tmp_path)
  assert text.startswith("The accelerator suite has not been run")
  rows = [
    {
      **{"name": "n", "ours": 2.0, "peer": 1.0, "peer_name": "P", "unit": "u"},
      **{"ratio": 2.0, "ratio_low": 1.5, "ratio_high": 2.5, "rounds": 5},
      "hardware": "Fast Thing",
    }
  ]
  store.write_json(tmp_path / "benchmark-accelerator.json", rows)
  text = performance_page.accelerator(tmp_path)
  assert "| n | 2 u | P: 1 | 2.00 (1.50 to 2.50, n = 5) |" in text
  assert text.endswith("On Fast Thing.")


def test_lines_of_another_machine_have_a_table_of_their_own():
  rows = [
    pairing.row(name, [(2, 1)], "u", "P", hardware=where)
    for name, where in (("a", "One"), ("b", "Two"), ("c", "One"))
  ]
  parts = performance_page.speed(rows).split("\n\n")
  assert [part.count("\n") for part in parts] == [3, 0, 2, 0]
  assert "| a |" in parts[0]
  assert "| c |" in parts[0]
  assert parts[1::2] == ["On One.", "On Two."]
