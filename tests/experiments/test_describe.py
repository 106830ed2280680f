import json

import pytest

from experiments import describing
from experiments.errors import ExperimentError
from models.cnn import CNN
from models.zoo import MODELS
from tests.experiments.test_cli import assert_one_line, command


def test_a_layer_a_row_and_checked_totals():
  result = command(
    "experiments.describe", "--depth=1", "--width=8", "--kernel_size=5"
  )
  assert result.returncode == 0, result.stderr
  header, conv, relu, pool, logits, _, *rest = result.stdout.splitlines()
  assert header.split()[:5] == [
    "layer",
    "output",
    "kernel",
    "stride",
    "padding",
  ]
  # 154 pairs of a position and a tap inside the map, along each axis.
  flops = 2 * 154**2 * 8 + 32 * 32 * 8
  assert conv.split() == [
    *("conv1", "32x32x8", "5x5", "1", "2", "zeros", "0", "5", "208"),
    f"{flops:,}",
  ]
  assert relu.split()[:2] == ["relu1", "32x32x8"]
  assert pool.split() == [
    *("pool1", "16x16x8", "2x2", "2", "0.5", "6", "0", "6,144")
  ]
  assert logits.split()[0] == "logits"
  assert rest[0] == "parameters: 20,698; the arrays hold 20,698"
  assert rest[1].startswith("FLOPs for one image: ")
  # 8 filters of 25 weights and a bias, 1,024 places; 1,024 pixels, 8,192 units.
  assert rest[2] == (
    "conv1: 208 parameters shared; 212,992 (1,024 times) locally connected;"
    " 8,396,800 (40,369 times) fully connected"
  )


def test_json_is_json_with_null_for_what_depends_on_the_image():
  result = command(
    *("experiments.describe", "--pooling=aps", "--padding=circular"),
    *("--depth=1", "--width=2", "--format=json", "--num_classes=3"),
  )
  content = json.loads(result.stdout)
  rows = {row["layer"]: row for row in content["layers"]}
  assert rows["pool1"]["offset"] is None
  assert rows["pool1"]["output"] == [16, 16, 2]
  assert rows["conv1"]["padding"] == "1 circular"
  assert rows["logits"]["output"] == [3]
  assert content["totals"]["parameters"] == content["totals"]["arrays"]


def test_offsets_and_dilation_in_words():
  rows = describing.layer_rows(CNN(depth=2, pooling="lps", width=2), 32)
  cells = {row.layer: describing.layer_cells(row) for row in rows}
  assert cells["pool1"]["offset (px)"] == "depends on image"
  assert cells["logits"]["offset (px)"] == ""
  rows = describing.layer_rows(CNN(depth=2, pooling="dilate", width=2), 32)
  cells = {row.layer: describing.layer_cells(row) for row in rows}
  assert cells["conv2"]["kernel"] == "3x3 dilated 2"
  rows = describing.layer_rows(CNN(depth=1, pooling="blur:4", width=2), 32)
  cells = {row.layer: describing.layer_cells(row) for row in rows}
  assert cells["pool1"]["padding"] == "1+1 reflected"


def test_a_family_side_by_side():
  result = command(
    "experiments.describe", "--family=resolution", "--format=markdown"
  )
  lines = result.stdout.splitlines()
  assert lines[0].startswith("| network | depth | width | parameters |")
  assert len(lines) == 4
  assert "| strided | 3 | 16 | 4,970 |" in lines[2]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--family=pools"], "--family=pools is unknown; known are downsampling,"),
    (["--model=vit"], "--model=vit is unknown"),
    (["--pooling=max:4"], "--pooling=max:4 is not one of"),
    (["--depth=6"], "layer pool6 would shrink"),
    (["--canvas=0"], "canvas"),
  ],
)
def test_what_cannot_be_described_is_a_usage_error(arguments, message):
  result = command("experiments.describe", *arguments)
  assert result.returncode == 2
  assert_one_line(result.stderr, message)
  assert not result.stdout


def test_a_wrong_formula_is_found(monkeypatch):
  model = MODELS["lecture"]()
  honest = describing.cost.flops

  def wrong(*arguments):
    return {k: int(1.1 * n) for k, n in honest(*arguments).items()}

  monkeypatch.setattr(describing.cost, "flops", wrong)
  with pytest.raises(ExperimentError, match="operations, XLA counts"):
    describing.totals(model, 32)
