"""Operations against XLA's count, and every network's parameters as numbers."""

import pytest

from experiments import describing
from models import cost
from models.cnn import CNN
from models.zoo import FAMILIES, MODELS, matched_width

GOLDEN = {
  "cnn": 23_946,
  "mlp": 149_002,
  "lecture": 62_938,
  "local": 3_292_170,
  "pyramid": 23_946,
  "p4cnn": 18_794,
  "p4mcnn": 37_226,
  "downsampling: max": 4_970,
  "downsampling: avg": 4_970,
  "downsampling: stride": 4_970,
  "downsampling: lp": 4_973,
  "downsampling: mixed": 4_973,
  "downsampling: blur": 4_970,
  "downsampling: max_blur": 4_970,
  "downsampling: avg_blur": 4_970,
  "downsampling: aps": 4_970,
  "downsampling: max_aps": 4_970,
  "downsampling: lps": 8_474,
  "downsampling: spectral": 4_970,
  "resolution: strided": 4_970,
  "resolution: dilated": 4_970,
  "receptive_field: pooled": 5_698,
  "receptive_field: unpooled": 29_698,
  "receptive_field: unpooled, equal parameters": 5_520,
  "depth: depth 2": 5_698,
  "depth: depth 4": 16_114,
  "depth: depth 6": 26_530,
  "depth: depth 8": 36_946,
  "depth_at_equal_parameters: depth 2": 16_000,
  "depth_at_equal_parameters: depth 4": 16_114,
  "depth_at_equal_parameters: depth 6": 16_730,
  "depth_at_equal_parameters: depth 8": 16_570,
  "weight_sharing: shared": 5_794,
  "weight_sharing: local": 236_554,
  "group: plain": 9_272,
  "group: p4": 8_997,
  "group: p4m": 9_426,
  "padding: same": 4_970,
  "padding: circular": 4_970,
  "padding: reflect": 4_970,
  "padding: valid": 4_970,
  "padding: full": 4_970,
}
NETWORKS = {
  **MODELS,
  **{
    f"{family}: {name}": make
    for family, members in FAMILIES.items()
    for name, make in members.items()
  },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_the_golden_number_and_operations_are_xla_s(name):
  found = describing.totals(NETWORKS[name](), 32)  # raises if they differ
  assert found.parameters == found.arrays == GOLDEN[name]
  assert bool(found.note) == ("local" in name)


def test_a_hand_count():
  """(3 x 3 valid products and 1 addition) per output, relu, mean, dense."""
  model = CNN(
    depth=1, width=2, padding="valid", pooling="none", head="gap", num_classes=3
  )
  assert cost.flops(model.specs, 5) == {
    "conv1": 9 * 2 * 2 * 9 + 9 * 2,
    "relu1": 9 * 2,
    "gap": 9 * 2,
    "logits": 2 * 2 * 3 + 3,
  }


# --- families change one thing -----------------------------------------------


def _column(family, name):
  rows = describing.family_rows(family, 32)
  return {row["network"]: row[name] for row in rows}


def test_kinds_of_downsampling_share_resolution_depth_and_width():
  for column in ("resolution", "stride", "depth", "width"):
    assert len(set(_column("downsampling", column).values())) == 1
  counts = _column("downsampling", "parameters")
  learned = {"lp", "mixed", "lps"}
  assert len({n for k, n in counts.items() if k not in learned}) == 1


def test_strided_and_dilated_differ_in_resolution_only():
  for column in ("parameters", "receptive_field", "depth", "width"):
    assert len(set(_column("resolution", column).values())) == 1
  assert set(_column("resolution", "resolution").values()) == {"4x4", "32x32"}


def test_pooled_and_unpooled_have_one_receptive_field():
  assert set(_column("receptive_field", "receptive_field").values()) == {13}
  assert set(_column("receptive_field", "depth").values()) == {2}
  counts = _column("receptive_field", "parameters")
  equal = counts["unpooled, equal parameters"] / counts["pooled"]
  assert equal == pytest.approx(1, abs=0.05)


def test_depths_are_compared_at_one_resolution():
  for family in ("depth", "depth_at_equal_parameters"):
    assert set(_column(family, "resolution").values()) == {"8x8"}
    assert set(_column(family, "depth").values()) == {2, 4, 6, 8}
  assert len(set(_column("depth", "width").values())) == 1


@pytest.mark.parametrize("family", ["depth_at_equal_parameters", "group"])
def test_equal_parameters_are_equal_to_5_percent(family):
  counts = _column(family, "parameters").values()
  middle = _column(family, "parameters")
  anchor = middle["depth 4" if "depth 4" in middle else "plain"]
  assert max(abs(n / anchor - 1) for n in counts) < 0.05


def test_locally_connected_layers_see_what_convolutions_see():
  for column in ("receptive_field", "resolution", "depth", "width"):
    assert len(set(_column("weight_sharing", column).values())) == 1


def test_a_width_is_found_or_refused():
  fields = {"depth": 1, "pooling": "none", "head": "gap"}

  def make(width):
    return CNN(width=width, **fields)

  # 10 weights and biases of the convolution and 10 of the head a channel.
  assert matched_width(make, 410) == 20
  assert matched_width(make, 412) == 20
  with pytest.raises(
    ValueError, match="no width gives 20 parameters to 5 %: 1"
  ):
    matched_width(make, 20)
