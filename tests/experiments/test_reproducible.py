"""The same flags and seeds leave the same bytes."""

import difflib
import json
import re

import pandas as pd
import pytest

from experiments import store, studies
from tests.experiments.test_starting import python

# Files, and in them what the clock decides: see docs/reproducibility.md.
_TIMED = ("metrics.jsonl", "training.csv", "provenance.json", "seconds.json")


def without_time(path):
  """A file's bytes, without what depends on the clock."""
  content = path.read_bytes()
  if path.name == "metrics.jsonl":
    lines = [json.loads(line) for line in content.splitlines()]
    assert all(line.pop("images_per_second") > 0 for line in lines)
    return json.dumps(lines).encode()
  if path.name == "training.csv":
    table = pd.read_csv(path, dtype=str).drop(columns="images_per_second")
    return table.to_csv().encode()
  if path.name == "provenance.json":
    value = json.loads(content)
    for cell in value.get("study", {}).get("cells", []):
      cell.pop("seconds")
    return json.dumps(value).encode()
  if path.name in ("report.html", "summary.md"):
    content = re.sub(rb"\d+ minutes of training", b"", content)
    # The provenance, which is shown.
    return re.sub(rb"(train|measure)(&#34;|\"): [\d.]+", rb"\1", content)
  if path.name == "seconds.json":
    return b""
  if path.name == "SHA256SUMS":
    lines = content.decode().splitlines()
    timed = (*_TIMED, "report.html", "summary.md", "lines above")
    return "\n".join(
      line for line in lines if not any(name in line for name in timed)
    ).encode()
  return content


def contents(folder):
  return {
    str(path.relative_to(folder)): without_time(path)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


def assert_same(first, second):
  a, b = contents(first), contents(second)
  assert list(a) == list(b)
  for name in a:
    if a[name] != b[name]:
      pytest.fail(f"{name} differs:\n{_difference(a[name], b[name])}")


def _difference(*contents):
  lines = (
    content.decode(errors="replace").splitlines() for content in contents
  )
  return "\n".join(list(difflib.unified_diff(*lines, n=0, lineterm=""))[:10])


def test_a_study_run_twice_leaves_the_same_bytes(finished, tmp_path):
  """Parameters, measurements, tables, figures and report."""
  studies.run_study(finished.study, finished.dataset, tmp_path / "again")
  assert_same(finished.workdir, tmp_path / "again")
  names = {re.sub(r".*/", "", name) for name in contents(finished.workdir)}
  assert {"seed1_trained.npz", "measurements.parquet", "claims.csv"} <= names
  assert {"report.html", "invariance_by_layer.png"} <= names


def test_another_seed_leaves_others(finished):
  folder = finished.workdir / "runs" / "cnn-max-d1-w4-k3-same-dense"
  for kind in ("params/seed{}_trained.npz", "measurements/seed{}_init.parquet"):
    files = [(folder / kind.format(seed)).read_bytes() for seed in (0, 1)]
    assert files[0] != files[1]


@pytest.mark.slow
def test_commands_run_twice_leave_the_same_bytes(tmp_path):
  """In processes of their own, with and without programs compiled before."""
  for name in ("first", "second"):
    workdir = f"--workdir={tmp_path / name}"
    cache = f"--compilation_cache={tmp_path / 'cache'}"
    for command, *arguments in (
      ("train", "--depth=2", "--width=8", "--epochs=1", "--seeds=2"),
      ("measure", "--measures=all", "--measure_examples=12"),
    ):
      result = python(
        *("-m", f"experiments.{command}", workdir, cache, *arguments)
      )
      assert result.returncode == 0, result.stderr
  assert_same(tmp_path / "first", tmp_path / "second")
  assert store.read_table(tmp_path / "first" / "measurements.parquet").size
