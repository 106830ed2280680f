import functools
import importlib
import sys

import pandas as pd
import pytest

from experiments import cli, comparing, store
from experiments.errors import ExperimentError

CLAIMS = {
  "claim": ["a-claim", "b-claim"],
  "verdict": ["supported", "not tested"],
  "effect": [0.3, float("nan")],
  "low": [0.2, float("nan")],
  "high": [0.4, float("nan")],
  "decided_by": ["one", ""],
}
EFFECTS = {
  "claim": ["a-claim", "a-claim"],
  "role": ["decides", "beside"],
  "label": ["one", "two"],
  "verdict": ["supported", "inconclusive"],
  "effect": [0.3, 0.1],
  "low": [0.2, -0.1],
  "high": [0.4, 0.3],
}


def write(folder, claims=None, effects=None):
  for name, table, changes in (
    ("claims", CLAIMS, claims),
    ("effects", EFFECTS, effects),
  ):
    frame = pd.DataFrame(table).assign(**(changes or {}))
    store.write_table(folder / f"{name}.csv", frame)
  return folder


@pytest.fixture
def folders(tmp_path):
  def make(claims=None, effects=None):
    first = write(tmp_path / "a")
    return first, write(tmp_path / "b", claims, effects)

  return make


def changes(table):
  return list(table["change"])


def test_a_study_agrees_with_itself(folders):
  table = comparing.compare(*folders())
  assert list(table["role"]) == ["claim", "claim", "decides", "beside"]
  same = [comparing.SAME] * 2 + [comparing.WITHIN] * 2
  assert changes(table) == same
  text = comparing.describe(table, "a", "b")
  assert "0 of 2 claims have another verdict, 0 are tested in one" in text
  assert "Effects that changed" not in text


def test_another_verdict_comes_before_any_number(folders):
  table = comparing.compare(
    *folders({"verdict": ["refuted", "not tested"], "effect": [9.0, 9.0]})
  )
  assert changes(table)[0] == comparing.VERDICT
  text = comparing.describe(table, "a", "b")
  assert "1 of 2 claims have another verdict" in text
  assert "supported, 0.3 (0.2 to 0.4) | refuted, 9 (0.2 to 0.4)" in text


@pytest.mark.parametrize(
  ("low", "high", "change"),
  [
    (0.39, 0.6, comparing.WITHIN),
    (0.41, 0.6, comparing.BEYOND),
    (0.0, 0.19, comparing.BEYOND),
    (0.0, 0.21, comparing.WITHIN),
  ],
)
def test_a_number_changed_if_the_intervals_are_apart(
  folders, low, high, change
):
  effects = {"low": [low, -0.1], "high": [high, 0.3]}
  table = comparing.compare(*folders(effects=effects))
  assert changes(table)[2:] == [change, comparing.WITHIN]
  shown = "number changed beyond" in comparing.describe(table, "a", "b")
  assert shown == (change == comparing.BEYOND)


def test_numbers_are_counted_where_the_verdict_is_the_same(folders):
  changes = {
    "verdict": ["refuted", "inconclusive"],
    **{"effect": [0.3, 0.6], "low": [0.2, 0.5], "high": [0.4, 0.7]},
  }
  table = comparing.compare(*folders(effects=changes))
  text = comparing.describe(table, "a", "b")
  assert "1 of 1 effects that have the same verdict in both have" in text


def test_what_only_one_study_has_is_said(folders):
  table = comparing.compare(*folders(effects={"label": ["one", "three"]}))
  assert list(table["label"][2:]) == ["one", "two", "three"]
  assert changes(table)[3:] == [comparing.ONE_ONLY] * 2
  missing = comparing.compare(*folders({"verdict": ["supported"] * 2}))
  assert changes(missing)[:2] == [comparing.SAME, comparing.ONE_ONLY]


def test_of_a_claim_only_the_verdict_is_compared(folders):
  """Its number is that of the weakest part, which may be another one."""
  far = {"effect": [9.0, 9.0], "low": [8.0, 8.0], "high": [9.5, 9.5]}
  table = comparing.compare(*folders(far | {"decided_by": ["two", ""]}))
  assert changes(table)[0] == comparing.SAME


def test_numbers_without_intervals_are_compared_as_they_are(folders):
  nothing = {"low": float("nan"), "high": float("nan")}
  first, second = folders(effects=nothing)
  write(first, effects=nothing)
  found = changes(comparing.compare(first, second))
  assert found[2:] == [comparing.WITHIN] * 2
  write(second, effects=nothing | {"effect": [0.31, 0.1]})
  found = changes(comparing.compare(first, second))
  assert found[2:] == [comparing.BEYOND, comparing.WITHIN]


@pytest.mark.parametrize("name", ["claims.csv", "effects.csv"])
def test_a_folder_without_verdicts_is_named(folders, name):
  first, second = folders()
  (second / name).unlink()
  with pytest.raises(ExperimentError, match=f"b holds no {name}: give the res"):
    comparing.compare(first, second)


@pytest.fixture
def command(run, fresh_flags, monkeypatch):
  """The command in this process."""
  del fresh_flags
  module = importlib.import_module("experiments.compare")
  positional = [cli.Positional("A"), cli.Positional("B")]
  with_names = functools.partial(cli.run, positional=positional)
  monkeypatch.setattr(cli, "run", with_names)
  yield functools.partial(run, module.main)
  del sys.modules["experiments.compare"]  # its flags go too


def test_the_command_prints_the_comparison(command, folders, tmp_path):
  first, second = folders()
  path = tmp_path / "comparison.csv"
  code, out, err = command(str(first), str(second), f"--csv={path}")
  assert (code, err) == (0, "")
  assert out == comparing.describe(
    comparing.compare(first, second), str(first), str(second)
  )
  assert len(store.read_table(path)) == 4


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "A is missing"),
    (("x",), "B is missing"),
    (("x", "y", "z"), "unexpected argument 'z'"),
  ],
)
def test_a_wrong_command_line_is_code_2(command, arguments, message):
  code, _, err = command(*arguments)
  assert code == 2
  assert message in err
