"""SIGKILL at any moment: the same command goes on, to the same bits."""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import experiments
from experiments import store, unfinished
from experiments.checksums import digest
from tests.experiments.killed_study import EPOCHS, SEEDS

ROOT = Path(experiments.__file__).parents[1]


class Place(NamedTuple):
  """Where a study runs.

  Attributes:
    workdir: its results.
    log: what was done.
    environment: of the process.
  """

  workdir: Path
  log: Path
  environment: dict[str, str]

  def start(self, point=""):
    return subprocess.Popen(
      [
        *(sys.executable, "-m", "tests.experiments.killed_study"),
        *(str(self.workdir), str(self.log), point),
      ],
      cwd=ROOT,
      env=self.environment,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, point=""):
    """Runs to the end, or until it kills itself."""
    with self.start(point) as process:
      _, stderr = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if point else 0), stderr

  def done(self):
    """How often each thing was done, by kind."""
    lines = self.log.read_text().splitlines() if self.log.exists() else []
    done = collections.defaultdict(list)
    for line in lines:
      kind, _, what = line.partition(" ")
      done[kind].append(what)
    return done


def place(folder, strategy="loop", cells=1):
  folder.mkdir(exist_ok=True)
  environment = os.environ | {
    "STRATEGY": strategy,
    "CELLS": str(cells),
    "NPROC": "2",
    "XDG_CACHE_HOME": str(folder.parent / "cache"),
  }
  # One device, as the commands have.
  environment.pop("XLA_FLAGS", None)
  return Place(folder / "results", folder / "log", environment)


def contents(workdir):
  """All files but those that hold times; of these, the rest."""
  timed = ("training.csv", "metrics.jsonl", "seconds.json", "provenance.json")
  derived = ("SHA256SUMS", "report.html", "summary.md")
  files = {
    str(path.relative_to(workdir)): digest(path.read_bytes())
    for path in sorted(workdir.rglob("*"))
    if path.is_file() and path.name not in (*timed, *derived)
  }
  curves = store.read_table(workdir / "training.csv")
  return files, curves.drop(columns="images_per_second").to_csv()


def assert_nothing_left(workdir):
  names = [path.name for path in workdir.rglob("*")]
  assert not [n for n in names if n.startswith((unfinished.PREFIX, ".lock"))]
  assert "checkpoints" not in names
  assert not [n for n in names if n.endswith(".damaged")]


def assert_once(place, kills):
  """Finished work was done once, and a kill cost an epoch at most."""
  done = place.done()
  for kind in ("seed", "part"):
    assert len(done[kind]) == len(set(done[kind])), done[kind]
  at_once = len(SEEDS) if place.environment["STRATEGY"] == "scan" else 1
  cells = int(place.environment["CELLS"])
  assert len(done["seed"]) == cells * len(SEEDS)
  assert len(done["part"]) == cells * len(SEEDS) * 2
  needed = cells * len(SEEDS) * EPOCHS // at_once
  assert needed <= len(done["epoch"]) <= needed + kills


# In the second epoch of a seed (one is kept), between the two files of a seed,
# in measuring before its table is stored, and when the tables are joined.
POINTS = ("epoch:2", "params:2", "measured:3", "collect:1")


def test_killed_at_chosen_points_it_goes_on_to_the_same_bits(tmp_path):
  whole, cut = place(tmp_path / "whole"), place(tmp_path / "cut")
  whole.run()
  assert_once(whole, 0)
  for point in POINTS:
    cut.run(point)
  cut.run()
  assert contents(cut.workdir) == contents(whole.workdir)
  assert_nothing_left(cut.workdir)
  assert_once(cut, len(POINTS))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_killed_at_twenty_random_times_it_goes_on_to_the_same_bits(
  tmp_path, strategy
):
  whole = place(tmp_path / "whole", strategy, cells=2)
  whole.run()  # fills the cache of compiled programs
  shutil.rmtree(whole.workdir)
  start = time.monotonic()
  whole.run()
  duration = time.monotonic() - start
  cut, random_ = place(tmp_path / "cut", strategy, 2), random.Random(0)
  kills = passes = since = 0
  while kills < 20 or not passes:
    with cut.start() as process:
      if kills < 20:
        time.sleep(random_.uniform(0, duration))
        process.kill()
      _, stderr = process.communicate(timeout=300)
    if process.returncode == -signal.SIGKILL:
      kills, since = kills + 1, since + 1
      continue
    assert process.returncode == 0, stderr
    assert "damaged" not in stderr
    assert contents(cut.workdir) == contents(whole.workdir)
    assert_nothing_left(cut.workdir)
    assert_once(cut, since)
    # On to another study, if there are kills left.
    passes, since = passes + 1, 0
    shutil.rmtree(cut.workdir)
    cut.log.unlink()
  assert passes >= 1
