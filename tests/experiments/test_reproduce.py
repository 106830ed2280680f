"""The command, its rules and its tables."""

import dataclasses
import functools
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import cli, reproductions, store
from experiments.config import TrainConfig
from experiments.errors import UsageError
from experiments.reproductions import base, running, tables
from tests.experiments.test_cli import assert_one_line, command
from tests.experiments.test_reproductions import experiment, tiny

# --- the command -------------------------------------------------------------


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "^error: NAME is missing: one of red_green, aps, "),
    (["green"], "^error: NAME=green is unknown; known are red_green, aps, "),
    (["aps", "lps"], "unexpected argument 'lps'; flags start with --"),
    (["aps", "--epoch=3"], "epoch"),
    (["red_green", "--dataset=mnist"], "--dataset means nothing to red_green"),
    (["red_green", "--batch_size=3000"], "batch_size=3000 is not between 1"),
    (["aps", "--seed=1", "--seeds=2"], "exclude each other"),
    (["rot_mnist", "--train_examples=1700"], "are more than the 1797 images"),
    (["antialias", "--measure_examples=1"], "measure_examples=1 is not 0"),
  ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(
  main, arguments, message, tmp_path
):
  workdir = tmp_path / "results"
  code, stdout, stderr = main(*arguments, f"--workdir={workdir}")
  assert (code, stdout) == (2, "")
  assert_one_line(stderr, message)
  assert not workdir.exists()


@pytest.fixture
def main(run, fresh_flags, monkeypatch):
  """The command in this process."""
  del fresh_flags
  module = importlib.import_module("experiments.reproduce")
  with_name = functools.partial(
    cli.run, positional=[cli.Positional("NAME", reproductions.NAMES)]
  )
  monkeypatch.setattr(cli, "run", with_name)
  yield functools.partial(run, module.main)
  del sys.modules["experiments.reproduce"]  # its flags go too


def test_help_lists_every_name_without_importing_jax():
  result = command(
    "experiments.reproduce", "--help", options=["-X", "importtime"]
  )
  assert result.returncode == 0
  imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.M))
  assert "absl.app" in imported
  assert not {"jax", "flax", "numpy", "pandas"} & imported
  listed = re.findall(r"^  (\w+)  +\w", result.stdout, re.M)
  assert tuple(listed) == reproductions.NAMES
  for flag in ("workdir", "seeds", "epochs", "dataset", "width"):
    assert f"--{flag}:" in result.stdout
  assert "--pooling:" not in result.stdout


def test_a_name_without_flags_is_enough(main, monkeypatch):
  asked = []
  monkeypatch.setattr(
    running, "run", lambda *arguments: asked.append(arguments) or "tables"
  )
  assert main("aps") == (0, "tables\nresults/reproduce/aps\n", "")
  assert main("--seeds=3", "aps", "--width=8", "--workdir=elsewhere")[0] == 0
  aps = experiment("aps")
  larger = dataclasses.replace(aps.settings, seeds=(0, 1, 2), width=8)
  assert asked == [
    (aps, aps.settings, Path("results/reproduce/aps")),
    (aps, larger, Path("elsewhere")),
  ]


def test_every_name_is_a_module_that_says_what_it_must():
  for name in reproductions.NAMES:
    chosen = experiment(name)
    assert chosen.name == name
    for part in ("Question:", "Protocol:", "Source:", "Differs:", "Full size:"):
      assert part in chosen.text, f"{name} does not say {part}"
    assert chosen.statements
    assert len(chosen.settings.seeds) > 1
    fields = base.DATA_FIELDS | base.TRAIN_FIELDS
    assert chosen.takes <= fields | {"width", "measure_examples"}


def test_another_data_set_brings_its_size_and_folder():
  rot = experiment("rot_mnist")
  settings = base.resized(rot, {"dataset": "mnist", "epochs": 7})
  assert settings.data.train_examples == 12_000
  assert settings.train.epochs == 7  # what is given counts more
  assert settings.seeds == (0, 1, 2)
  assert base.default_workdir(rot, settings) == (
    "results/reproduce/rot_mnist-mnist"
  )


def test_a_field_that_means_nothing_is_refused():
  with pytest.raises(UsageError, match="--augment means nothing"):
    base.resized(experiment("augmentation"), {"augment": "translation:1"})
  settings = base.resized(experiment("aps"), {"augment": "translation:1"})
  assert settings.train == dataclasses.replace(
    experiment("aps").settings.train, augment="translation:1"
  )
  assert isinstance(settings.train, TrainConfig)


# --- rules and tables --------------------------------------------------------


def series(*values):
  return pd.Series(values, range(len(values)), dtype=float)


@pytest.mark.parametrize(
  ("values", "margin", "outcome"),
  [
    ((1.0, 1.1, 0.9), 0.0, "yes"),
    ((1.0, 1.1, 0.9), 0.95, "undecided"),
    ((1.0, 1.1, 0.9), 2.0, "no"),
    ((1.0, 1.0), 0.5, "yes"),
    ((1.0,), 0.0, "undecided"),  # one seed says nothing about others
    ((), 0.0, "undecided"),
    ((0.0, 0.0), 0.0, "no"),
  ],
)
def test_a_rule_is_decided_by_the_whole_interval(values, margin, outcome):
  verdict = base.above(series(*values), margin)
  assert verdict.outcome == outcome
  assert verdict.n_seeds == len(values)
  mirrored = base.below(-series(*values), -margin)
  assert mirrored.outcome == outcome
  np.testing.assert_equal(
    (mirrored.effect, mirrored.low, mirrored.high),
    (-verdict.effect, -verdict.high, -verdict.low),
  )


def test_a_rule_for_every_seed_is_decided_by_the_worst():
  assert base.at_least(series(3, 2), 2).outcome == "yes"
  assert base.at_least(series(3, 1), 2)[:2] == ("no", 1)
  assert base.at_most(series(3, 1), 2)[:2] == ("no", 3)
  assert base.at_most(series(1), 2)[:2] == ("yes", 1)


def test_all_parts_of_a_rule_have_to_hold():
  yes = base.above(series(1, 1.1, 1.2))
  undecided = base.above(series(-1, 1))
  no = base.above(series(-1, -1.1, -1.2))
  assert base.all_of([yes, undecided]) == undecided
  assert base.all_of([yes, undecided, no]) == no
  narrow = base.above(series(0.1, 0.1, 0.1))
  assert base.all_of([yes, narrow]) == narrow
  assert base.all_of([base.above(series(1)), undecided]).n_seeds == 1


def test_the_table_puts_published_beside_ours():
  table = pd.DataFrame(
    [
      ("a", "trained", "", "error", 0, 2.0),
      ("a", "trained", "", "error", 1, 4.0),
      ("b", "trained", "", "error", 0, 1.0),
    ],
    columns=list(running.COLUMNS),
  )
  published = [base.Published("a", "error", 2.5, spread=0.5)]
  summary = tables.summarize(table, published)
  half = 12.706204736  # of the t interval of two values that are 2 apart
  columns = ["published", "published_spread", "mean", "low", "high"]
  np.testing.assert_allclose(
    summary[columns].to_numpy()[0], [2.5, 0.5, 3, 3 - half, 3 + half]
  )
  assert list(summary["n_seeds"]) == [2, 1]
  lines = tables._table(summary, base.Quantity("error (%)"))
  assert "| 2.5 ± 0.5 | 3.0 (-9.7 to 15.7, n = 2) |" in lines[2]
  assert re.search(r"\| b +\| - +\| 1\.0 \(n = 1\) +\|", lines[3])


def test_values_are_found_or_refused():
  table = pd.DataFrame(
    [("a", "init", "2 px", "error", seed, seed + 1.0) for seed in (1, 0)],
    columns=list(running.COLUMNS),
  )
  results = base.Results(table)
  assert list(results.of("a", "error", "2 px", "init")) == [1, 2]
  with pytest.raises(KeyError, match="no value of"):
    results.of("a", "error", "2 px")


def test_the_results_are_json_and_csv_without_paths(tmp_path):
  chosen = experiment("antialias")
  stub = chosen._replace(
    cells=lambda settings, images: {"x": None},
    run=lambda cell, seeds, settings, images: (
      (seed, [base.Value("accuracy", 50.0 + seed)]) for seed in seeds
    ),
    statements=(),
  )
  running.run(stub, tiny("antialias"), tmp_path)
  for path in tmp_path.rglob("*.json"):
    assert str(tmp_path) not in path.read_text()
  cell = json.loads((tmp_path / "cells" / "x" / "seed1.json").read_text())
  assert cell["values"][0]["value"] == 51
  assert list(store.read_table(tmp_path / "results.csv")["value"]) == [50, 51]
