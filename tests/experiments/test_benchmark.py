"""The benchmark's own arithmetic, and that both sides do the same work."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import benchmarking, pairing, workloads
from experiments.errors import ExperimentError, UsageError


def _fake_workload(tmp_path, seconds, value=1.0):
  """A comparison whose sides are scripts with known times."""
  script = tmp_path / f"{seconds}-{value}.py"
  script.write_text(
    "import json, sys\n"
    "for _ in sys.stdin:\n"
    f"  print(json.dumps({{'seconds': {seconds}, 'items': 6,"
    f" 'value': {value}}}), flush=True)\n"
  )
  return script


@pytest.fixture
def comparison(tmp_path, monkeypatch):
  """From two (seconds, value) to the rows of their comparison."""

  def compare(ours, peer):
    scripts = {
      "ours": _fake_workload(tmp_path, *ours),
      "peer": _fake_workload(tmp_path, *peer),
    }

    def command(arguments):
      return [str(scripts[arguments[0]])]

    monkeypatch.setattr(pairing, "_command", command)
    sides = pairing.Comparison("job", ("ours",), ("peer",), "Peer", "jax", "u")
    return list(pairing.compare(sides, 3, [0], 0.01))

  return compare


def test_a_ratio_above_one_means_that_ours_is_faster(comparison):
  steady, first = comparison((2.0,), (3.0,))
  assert steady["ours"] == 3
  assert steady["peer"] == 2
  assert steady["ratio"] == steady["ratio_low"] == steady["ratio_high"] == 1.5
  assert steady["rounds"] == 3
  assert steady["peer_name"] == f"Peer {jax.__version__}"
  assert first["rounds"] == 1
  assert first["ratio_low"] is None
  json.dumps([steady, first], allow_nan=False)
  assert steady["hardware"].startswith("1 cores of ")
  header, one, other, where = pairing.table([steady, first]).splitlines()
  assert header.split() == [
    "job",
    "ours",
    "peer",
    "ratio",
    "95",
    "%",
    "interval",
  ]
  assert one.split()[1:] == [
    *("3", "u", "Peer", f"{jax.__version__}:", "2", "1.50"),
    *["1.50", "to", "1.50,", "n", "=", "3"],
  ]
  assert other.endswith(" 1.50")  # of one block there is no interval
  assert where == f"on {steady['hardware']}"


def test_less_can_be_better():
  row = pairing.row(
    "time", [(2, 3), (4, 6)], "s", "P", hardware="h", less_is_better=True
  )
  assert (row["ours"], row["peer"], row["ratio"]) == (3, 4.5, 1.5)


def test_a_line_without_a_peer_says_why():
  row = pairing.alone("job", [1, 2, 4], "s", "P: not here", hardware="h")
  json.dumps(row, allow_nan=False)
  assert pairing.cells(row) == ["job", "2 s", "P: not here", "", ""]


def test_sides_that_compute_different_things_are_not_compared(comparison):
  with pytest.raises(ExperimentError, match=r"1\.0, Peer 1\.5: not the same"):
    comparison((2.0, 1.0), (3.0, 1.5))


def test_a_side_that_fails_is_named_with_its_last_words(tmp_path, monkeypatch):
  script = tmp_path / "broken.py"
  script.write_text("raise RuntimeError('no luck')\n")
  monkeypatch.setattr(pairing, "_command", lambda _: [str(script)])
  sides = pairing.Comparison("job", ("ours",), ("peer",), "Peer", "jax", "u")
  with pytest.raises(
    ExperimentError, match="ours failed: RuntimeError: no luck"
  ):
    list(pairing.compare(sides, 3, [0], 0.01))


def test_stored_lines_are_replaced_by_new_ones_of_the_same_comparison(tmp_path):
  path = tmp_path / "benchmark.json"
  old = [{"name": n, "peer_name": "p 1.0+cpu", "ratio": 1} for n in ("a", "b")]
  path.write_text(json.dumps(old))
  new = [{"name": "b", "peer_name": "p 2.0", "ratio": 2}]
  # A newer version takes the older one's place.
  assert pairing.merged(path, new) == [old[0], new[0]]
  assert pairing.merged(tmp_path / "none.json", new) == new


def test_wrong_requests_are_refused_before_anything_runs():
  with pytest.raises(UsageError, match="--jobs=sing is unknown; known are"):
    list(benchmarking.run("sing", 5, 1))
  with pytest.raises(UsageError, match="--cores=4096 is more than"):
    list(benchmarking.run("train", 5, 4096))
  with pytest.raises(UsageError, match=r"--rounds=4 is too few .* at least 5"):
    list(benchmarking.run("train", 4, 1))


@pytest.mark.skipif(
  importlib.util.find_spec("torch") is not None, reason="torch is here"
)
def test_missing_peers_are_said_to_be_missing():
  with pytest.raises(
    UsageError, match="torch is not installed: run make bench"
  ):
    list(benchmarking.run("train", 5, 1))


@pytest.mark.parametrize("pooling", ["max", "none"])
def test_ours_and_stock_flax_train_alike(pooling):
  scale = workloads.SMOKE
  with jax.numpy_dtype_promotion("standard"):
    ours, stock = (
      job(pooling, scale)
      for job in (workloads.train_ours, workloads.train_flax)
    )
    values = [[job.block() for _ in range(2)] for job in (ours, stock)]
  assert ours.items == stock.items == 16
  np.testing.assert_allclose(
    np.array(values[0]), np.array(values[1]), rtol=1e-4
  )
  assert values[0][0] != values[0][1]


LINE = {
  *("name", "ours", "peer", "peer_name", "unit", "ratio", "ratio_low"),
  *("ratio_high", "rounds", "hardware"),
}


def test_the_smoke_mode_runs_and_prints_one_table(command, tmp_path):
  """Real processes, ours and whichever peers of training are installed."""
  path = tmp_path / "benchmark.json"
  code, stdout, stderr = command(
    "benchmark", "--smoke", "--jobs=train", "--cores=1", f"--output={path}"
  )
  assert code == 0, stderr
  header, *table, where, last = stdout.splitlines()
  assert header.startswith("job ")
  assert where.startswith("on 1 cores of ")
  assert last == str(path)
  rows = json.loads(path.read_text())
  assert len(table) == len(rows) >= 2
  assert all(set(row) == LINE for row in rows)
  steady, first = (r for r in rows if r["peer_name"].startswith("stock flax"))
  assert steady["name"] == "train, max pooling"
  assert (steady["rounds"], first["rounds"]) == (2, 1)
  assert steady["ratio_low"] < steady["ratio"] < steady["ratio_high"]
  assert f"measured: {first['name']}" in stderr


@pytest.mark.slow
def test_the_smoke_mode_runs_every_job(command, tmp_path):
  path = tmp_path / "benchmark.json"
  assert command("benchmark", "--smoke", f"--output={path}")[0] == 0
  names = [row["name"] for row in json.loads(path.read_text())]
  for start in ("train", "normalized variance and", "peak memory of all"):
    assert any(name.startswith(start) for name in names)
