"""The benchmark's own arithmetic, and that both sides do the same work."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import benchmarking, workloads
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

    monkeypatch.setattr(benchmarking, "_command", command)
    sides = benchmarking.Comparison(
      "job", ("ours",), ("peer",), "Peer", "jax", "u"
    )
    return list(benchmarking.compare(sides, 3, [0], 0.01))

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
  assert "ratio 1.50 (1.50 to 1.50, n = 3)" in benchmarking.line(steady)


def test_sides_that_compute_different_things_are_not_compared(comparison):
  with pytest.raises(ExperimentError, match=r"1\.0, Peer 1\.5: not the same"):
    comparison((2.0, 1.0), (3.0, 1.5))


def test_a_side_that_fails_is_named_with_its_last_words(tmp_path, monkeypatch):
  script = tmp_path / "broken.py"
  script.write_text("raise RuntimeError('no luck')\n")
  monkeypatch.setattr(benchmarking, "_command", lambda _: [str(script)])
  sides = benchmarking.Comparison(
    "job", ("ours",), ("peer",), "Peer", "jax", "u"
  )
  with pytest.raises(
    ExperimentError, match="ours failed: RuntimeError: no luck"
  ):
    list(benchmarking.compare(sides, 3, [0], 0.01))


def test_stored_lines_are_replaced_by_new_ones_of_the_same_comparison(tmp_path):
  path = tmp_path / "benchmark.json"
  old = [{"name": n, "peer_name": "p", "ratio": 1} for n in ("a", "b")]
  path.write_text(json.dumps(old))
  new = [{"name": "b", "peer_name": "p", "ratio": 2}]
  assert benchmarking.merged(path, new) == [old[0], new[0]]
  assert benchmarking.merged(tmp_path / "none.json", new) == new


def test_wrong_requests_are_refused_before_anything_runs():
  with pytest.raises(UsageError, match="--jobs=sing is unknown; known are"):
    list(benchmarking.run("sing", 2, 1))
  with pytest.raises(UsageError, match="--cores=4096 is more than"):
    list(benchmarking.run("train", 2, 4096))


@pytest.mark.skipif(
  importlib.util.find_spec("torch") is not None, reason="torch is here"
)
def test_missing_peers_are_said_to_be_missing():
  with pytest.raises(
    UsageError, match="torch is not installed: run make bench"
  ):
    list(benchmarking.run("train", 2, 1))


@pytest.mark.parametrize("pooling", ["max", "none"])
def test_ours_and_stock_flax_train_alike(pooling, monkeypatch):
  monkeypatch.setattr(workloads, "BATCH", 8)
  monkeypatch.setattr(workloads, "STEPS", 3)
  with jax.numpy_dtype_promotion("standard"):
    ours, stock = (
      job(pooling) for job in (workloads.train_ours, workloads.train_flax)
    )
    values = [[job.block() for _ in range(2)] for job in (ours, stock)]
  assert ours.items == stock.items == 24
  np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
  assert values[0][0] != values[0][1]
