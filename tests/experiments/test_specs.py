import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import specs
from experiments.errors import UsageError

positive = st.floats(min_value=1e-6, max_value=1e6)
numbers = st.lists(positive, min_size=1, max_size=5, unique=True)
families = st.dictionaries(
  st.sampled_from(["translation", "rotation", "scaling"]), numbers
)


@given(families)
def test_what_is_written_is_read_back_in_order(magnitudes):
  text = ",".join(
    f"{family}:{'/'.join(map(repr, values))}"
    for family, values in magnitudes.items()
  )
  assert specs.parse_magnitudes(text, "transforms") == tuple(
    (family, tuple(values)) for family, values in magnitudes.items()
  )


@given(st.floats(min_value=1.001, max_value=1e6))
def test_scaling_factors_become_log2(factor):
  ((_, (value,)),) = specs.parse_magnitudes(f"scaling:x{factor!r}", "augment")
  assert value == math.log2(factor)


def test_log2_factors_and_factors_mix():
  (parsed,) = specs.parse_magnitudes("scaling:0.5/x2", "transforms")
  assert parsed == ("scaling", (0.5, 1.0))


def test_no_text_is_no_family():
  assert specs.parse_magnitudes("", "augment") == ()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("rotation", "'rotation' is not of the form family:number/number"),
    ("shear:1", "'shear:1' is not of the form .*translation, rotation, scal"),
    ("Rotation:1", "'Rotation:1' is not of the form"),
    ("15", "'15' is not of the form"),
    ("rotation:5,rotation:10", "rotation is there twice"),
    ("rotation:5/10/5", "rotation:5/10/5 names a number twice"),
    ("rotation:", "'' is not a positive number"),
    ("rotation:5/", "'' is not a positive number"),
    ("rotation:0", "'0' is not a positive number"),
    ("translation:-1", "'-1' is not a positive number"),
    ("rotation:nan", "'nan' is not a positive number"),
    ("rotation:inf", "'inf' is not a positive number"),
    ("rotation:five", "'five' is not a positive number"),
    ("rotation:x2", "'x2' is not a positive number$"),
    ("scaling:x1", "'x1' is not a positive number or a factor above x1"),
    ("scaling:x0.5", "'x0.5' is not a positive number or a factor above x1"),
    ("scaling:x0", "'x0' is not a positive number or a factor above x1"),
    ("scaling:x-2", "'x-2' is not a positive number or a factor above x1"),
  ],
)
def test_malformed_magnitudes_name_the_flag_and_the_part(text, message):
  with pytest.raises(UsageError, match=f"^--augment={text}: {message}"):
    specs.parse_magnitudes(text, "augment")


def test_elements_are_the_identity_and_both_ways():
  assert specs.elements(specs.Magnitudes("rotation", (15.0, 30.0))) == [
    0.0, 15.0, -15.0, 30.0, -30.0,
  ]  # fmt: skip


def test_translations_go_in_four_directions():
  assert specs.elements(specs.Magnitudes("translation", (2.0,))) == [
    (0, 0), (2, 0), (-2, 0), (0, 2), (0, -2),
  ]  # fmt: skip


@given(st.integers(1, 5), st.integers(1, 4))
def test_the_shift_grid_is_square_symmetric_and_row_by_row(count, step):
  extent = count * step
  grid = specs.shift_grid(f"{extent}:{step}")
  assert len(grid) == len(set(grid)) == (2 * count + 1) ** 2
  assert grid == sorted(grid, key=lambda d: (d[1], d[0]))
  assert {(-dx, -dy) for dx, dy in grid} == set(grid)
  assert (0, 0) in grid
  assert max(grid) == (extent, extent)
  assert grid[1][0] - grid[0][0] == step


def test_no_shift_grid_for_no_text():
  assert specs.shift_grid("") == []


@pytest.mark.parametrize(
  "text", ["6", "6:", ":2", "6:0", "-6:2", "6.5:2", "six:two", "6:2:1", "²:1"]
)
def test_malformed_shift_grids_are_refused(text):
  with pytest.raises(UsageError, match=f"--shift_map={text} is not of the f"):
    specs.shift_grid(text)


@pytest.mark.parametrize("text", ["5:2", "0:2", "2:4"])
def test_a_shift_grid_without_the_identity_is_refused(text):
  with pytest.raises(UsageError, match="must be a multiple of the step"):
    specs.shift_grid(text)
