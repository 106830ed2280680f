import hashlib
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import specs
from experiments.errors import UsageError

positive = st.floats(min_value=1e-6, max_value=1e6)
numbers = st.lists(positive, min_size=1, max_size=5, unique=True)
families = st.dictionaries(
  st.sampled_from(["translation", "rotation", "scaling", "shear"]), numbers
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
    ("twist:1", "'twist:1' is not of the form .*, rotation, scaling, shear$"),
    ("reflection", "'reflection' is not of the form family:number"),
    ("quarter_turn", "'quarter_turn' is not of the form family:number"),
    ("matrix:a.csv", "'matrix:a.csv' is not of the form family:number"),
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


def test_shears_go_along_both_axes():
  assert specs.elements(specs.Magnitudes("shear", (0.5,))) == [
    (0, 0), (0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5),
  ]  # fmt: skip


# --- orbits ------------------------------------------------------------------


def parsed(text):
  return {
    found.family.name: list(found.thetas)
    for found in specs.parse_transforms(text, "transforms")
  }


def test_all_forms_stand_side_by_side_in_order(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text("1,0,2,0,1,0")
  found = parsed(
    "rotation:5/1e+1,shear:0.1/0.2,quarter_turn,reflection,"
    f"matrix:{path},scaling:x2+rotation:15"
  )
  assert list(found) == [
    "rotation", "shear", "quarter_turn", "reflection", "mine",
    "scaling+rotation",
  ]  # fmt: skip
  assert found["rotation"] == [0, 5, -5, 10, -10]
  assert len(found["shear"]) == 9
  assert found["quarter_turn"] == [0, 1, 2, 3]
  assert found["reflection"] == [(0, 0), (1, 0), (0, 1), (1, 1)]
  assert found["mine"] == [(1, 0, 0, 0, 1, 0), (1, 0, 2, 0, 1, 0)]
  assert parsed("") == {}


def test_a_composition_is_the_identity_and_all_signs():
  assert parsed("scaling:x2+rotation:15") == {
    "scaling+rotation": [(0, 0), (1, 15), (1, -15), (-1, 15), (-1, -15)]
  }
  found = parsed("rotation:15+translation:2+shear:0.1")
  (thetas,) = found.values()
  assert len(thetas) == 1 + 2 * 4 * 4
  assert thetas[:2] == [(0, 0, 0, 0, 0), (15, 2, 0, 0.1, 0)]


def test_discrete_families_can_be_composed():
  found = parsed("reflection+rotation:15")
  assert len(found["reflection+rotation"]) == 1 + 4 * 2
  (group,) = specs.parse_transforms("quarter_turn+reflection", "transforms")
  matrices = np.round(group.family.matrix(group.thetas))
  assert len({m.tobytes() for m in matrices + 0.0}) == len(matrices) == 8


def test_an_orbit_has_every_transformation_once():
  assert parsed("rotation:15+rotation:15") == {
    "rotation+rotation": [(0, 0), (15, 15), (-15, -15)]
  }


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("rotation", "'rotation' is not of the form .* or part\\+part"),
    ("twist:1", "'twist:1' is not of the form .*, shear; reflection, quarter"),
    ("reflection:1", "'reflection:1': reflection takes no number"),
    ("quarter_turn:2/3", "'quarter_turn:2/3': quarter_turn takes no number"),
    ("rotation:0", "'0' is not a positive number"),
    ("rotation:15+", "'' is not of the form"),
    ("rotation:15+scale", "'scale' is not of the form"),
    ("rotation:15+30", "'15\\+30' is not a positive number"),
    ("scaling:x1.2+rotation:0", "'0' is not a positive number"),
    ("scaling:x2+rotation:15/30", "'rotation:15/30' in a composition takes on"),
    ("rotation:5+matrix:a.csv", "'matrix:a.csv' cannot be part of a composit"),
    ("rotation:5,rotation:9", "'rotation:9' is a second orbit named rotation"),
    ("reflection,reflection", "'reflection' is a second orbit named reflect"),
    (
      "shear:1+rotation:5,shear:2+rotation:5",
      ".* orbit named shear\\+rotation",
    ),
    ("matrix:", r"\. cannot be read: it is no ordinary file"),
    ("matrix:none.csv", "none.csv cannot be read: No such file or directory"),
  ],
)
def test_malformed_orbits_name_the_flag_and_the_part(text, message):
  with pytest.raises(UsageError) as raised:
    specs.parse_transforms(text, "transforms")
  found = str(raised.value)
  assert found.startswith(f"--transforms={text}: ")
  assert re.match(message, found.removeprefix(f"--transforms={text}: "))
  assert "\n" not in found


@pytest.mark.parametrize("name", ["rotation", "reflection", "translation_map"])
def test_files_that_would_pass_for_something_else_are_refused(name, tmp_path):
  path = tmp_path / f"{name}.csv"
  path.write_text("1,0,2,0,1,0")
  with pytest.raises(UsageError, match=f"name its orbit {name}, which means"):
    specs.parse_transforms(f"matrix:{path}", "transforms")


def test_two_files_of_one_name_are_refused(tmp_path):
  for folder in ("a", "b"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine.csv").write_text("1,0,2,0,1,0")
  text = f"matrix:{tmp_path}/a/mine.csv,matrix:{tmp_path}/b/mine.csv"
  with pytest.raises(
    UsageError, match=r"is a second orbit named mine; .* the f"
  ):
    specs.parse_transforms(text, "transforms")


def test_files_are_known_by_their_content(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_bytes(b"1,0,2,0,1,0")
  text = f"rotation:5,matrix:{path}"
  digest = hashlib.sha256(b"1,0,2,0,1,0").hexdigest()
  assert specs.file_digests(text) == {str(path): digest}
  assert specs.file_digests("rotation:5") == {}


# --- the grid of translations ------------------------------------------------


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
