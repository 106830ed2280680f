"""A study by the workers of a Ray cluster equals one by a single process."""

import dataclasses
import importlib.util
import os
import pickle
import re
import time
from queue import SimpleQueue

import pytest

from experiments import cells, mirror, ray_cluster, ray_worker, store
from experiments.checksums import Sums
from experiments.config import LaunchConfig
from experiments.errors import ExperimentError, UsageError
from experiments.ray_cluster import Needs, Node
from experiments.run_folder import STAGES
from tests.experiments import ray_nodes
from tests.experiments.test_launchers import assert_equal_tables, start

needs_ray = pytest.mark.skipif(
  importlib.util.find_spec("ray") is None,
  reason="needs Ray: pip install -r requirements-ray.txt",
)


def work_of(study, dataset, workdir):
  planned = cells.plan(study, dataset, workdir)
  cells.claim(planned, dataset)
  return cells.missing(planned, study.seeds)


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
  """Workers set up their process, which this one is not."""
  monkeypatch.setattr(ray_worker, "_set_up", lambda: None)


@pytest.fixture
def matrices(tmp_path):
  """Half a turn, under a name that the orbit gets."""
  path = tmp_path / "mine" / "half_turn.csv"
  path.parent.mkdir()
  path.write_text("-1,0,0,0,-1,0\n")
  return path


def test_a_worker_sends_all_that_a_cell_leaves(finished, tmp_path, matrices):
  """In another folder, from bytes, with a file that flags name."""
  study, dataset, _ = finished
  measure = dataclasses.replace(
    study.measure, transforms=f"rotation:15,matrix:{matrices}", shift_map=""
  )
  study = dataclasses.replace(
    study, cells=study.cells[:1], measure=measure, seeds=(1,)
  )
  (here,) = work_of(study, dataset, tmp_path / "here")
  cells.do(here, dataset, ray_worker._Relay(tmp_path / "none", SimpleQueue()))
  (there,) = work_of(study, dataset, tmp_path / "there")
  order = pickle.loads(pickle.dumps(ray_worker.order(there)))
  matrices.unlink()
  folder = there.cell.run.folder.path
  kinds = []
  for report in ray_worker.serve(order, dataset):
    report = pickle.loads(pickle.dumps(report))
    kinds.append(report.kind)
    if report.kind == "changed":
      mirror.apply(folder, report.value, Sums(folder))
  assert set(kinds) == {"start", "compiling", "advance", "changed"}
  # A seed that is trained is sent before it is measured.
  assert kinds.count("changed") >= 3
  left = there.cell.run.folder
  assert left.trained_seeds() == [1]
  assert not left.damaged()
  for stage in STAGES:
    mine, sent = (
      store.read_table(w.cell.run.folder.part_path(1, stage))
      for w in (here, there)
    )
    assert {"rotation", "half_turn"} <= set(sent["orbit"])
    assert sent.equals(mine)


def test_a_worker_says_what_computed_and_keeps_the_commit(finished, tmp_path):
  study, dataset, _ = finished
  work = work_of(study, dataset, tmp_path)[0]
  path = work.cell.run.folder.path / "provenance.json"
  theirs = store.read_json(path) | {"git_commit": "abc", "processor": "other"}
  store.write_json(path, theirs, record=work.cell.run.folder.sums.record)
  ray_worker._sign(work.cell.run, dataset)
  signed = store.read_json(path)
  assert signed["git_commit"] == "abc"
  assert signed["processor"] == store.provenance({})["processor"] != "other"


def test_an_error_of_a_cell_arrives_as_what_it_is(finished, tmp_path):
  study, dataset, _ = finished
  work = work_of(study, dataset, tmp_path)[0]
  order = ray_worker.order(work._replace(seeds=[], parts=[(0, "init")]))
  (report,) = [
    r for r in ray_worker.serve(order, dataset) if r.kind == "failed"
  ]
  error = pickle.loads(pickle.dumps(report.value))
  assert isinstance(error, ExperimentError)
  assert "seed0_init.npz" in str(error)


def test_a_mirror_sees_what_is_new_changed_and_gone(tmp_path):
  for name in ("kept", "gone", "changed"):
    store.write_text(tmp_path / "a" / name, name)
  seen = mirror.Mirror(tmp_path / "a")
  mirror.apply(tmp_path / "b", mirror.Changes(mirror.read(tmp_path / "a"), []))
  (tmp_path / "a" / "gone").unlink()
  time.sleep(0.01)
  store.write_text(tmp_path / "a" / "params" / "first", "1")
  store.write_text(tmp_path / "a" / "changed", "longer")
  store.write_text(tmp_path / "a" / ".hidden", "not sent")
  changes = seen.changes()
  assert sorted(changes.written) == ["changed", "params/first"]
  assert changes.removed == ["gone"]
  mirror.apply(tmp_path / "b", changes)
  assert mirror.read(tmp_path / "b") == mirror.read(tmp_path / "a")
  assert not (tmp_path / "b" / ".hidden").exists()
  assert seen.changes() == mirror.Changes({}, [])


def test_what_marks_a_seed_complete_is_written_after_its_parameters(tmp_path):
  for name in ("metrics.jsonl", "params/seed0.npz"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
  seen = mirror.Mirror(tmp_path)
  for name in ("metrics.jsonl", "params/seed0.npz"):
    (tmp_path / name).write_text("x")
    os.utime(tmp_path / name, ns=(5, 5))
  written = list(seen.changes().written)
  assert written == ["params/seed0.npz", "metrics.jsonl"]


GIB = 1 << 30


@pytest.mark.parametrize(
  ("nodes", "flags", "nproc", "needs"),
  [
    ([Node(8, 0, 32 * GIB)], {}, "", Needs(2, 0, 2 * GIB)),
    ([Node(1, 0, 32 * GIB)], {}, "", Needs(1, 0, 2 * GIB)),
    ([Node(8, 0, 32 * GIB)], {}, "4", Needs(4, 0, 2 * GIB)),
    ([Node(8, 0, 32 * GIB)], {"cell_cpus": 3}, "4", Needs(3, 0, 2 * GIB)),
    ([Node(0, 0, GIB), Node(2, 0, GIB)], {}, "", Needs(2, 0, GIB)),
    ([Node(64, 0, GIB), Node(8, 2, 9 * GIB)], {}, "", Needs(2, 1, 2 * GIB)),
  ],
)
def test_a_cell_takes_what_a_node_has(nodes, flags, nproc, needs, monkeypatch):
  monkeypatch.setenv("NPROC", nproc)
  assert ray_cluster.fitted(nodes, LaunchConfig(**flags), 2 * GIB) == needs


def test_what_no_node_has_is_refused():
  with pytest.raises(UsageError, match=r"--cell_cpus=9: .* has 8"):
    ray_cluster.fitted([Node(8, 0, GIB)], LaunchConfig(cell_cpus=9), GIB)
  with pytest.raises(ExperimentError, match=r"no node .* has a CPU core"):
    ray_cluster.fitted([Node(0, 0, GIB)], LaunchConfig(), GIB)


@needs_ray
def test_a_study_by_ray_is_the_study(finished, tmp_path):
  """Ray on this machine alone, as without an address."""
  process = start(
    tmp_path / "results",
    *("--launcher=ray", "--debug"),
    **ray_nodes.ENVIRONMENT,
  )
  stdout, stderr = process.communicate(timeout=300)
  assert process.returncode == 0, stderr
  assert stdout == f"{tmp_path / 'results'}\n"
  assert "done" in stderr.splitlines()[-1]
  assert "warning" not in stderr.lower()
  assert_equal_tables(tmp_path / "results", finished.workdir)


@needs_ray
@pytest.mark.slow
def test_a_study_outlives_a_node(tmp_path):
  environment = ray_nodes.ENVIRONMENT | {
    "NPROC": "1",
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
  }
  flags = ("--seeds=3", "--transforms=translation:2", "--shift_map=", "--debug")
  plain = start(tmp_path / "plain", *flags, **environment)
  _, stderr = plain.communicate(timeout=600)
  assert plain.returncode == 0, stderr
  workdir = tmp_path / "results"
  with ray_nodes.two_nodes() as (head, other):
    process = start(
      workdir,
      *flags,
      "--launcher=ray",
      f"--ray_address=127.0.0.1:{head.port}",
      **environment,
    )
    # Both cells have a seed that is complete: both nodes are at work.
    while len(list(workdir.glob("runs/*/metrics.jsonl"))) < 2:
      assert process.poll() is None, process.communicate()
      time.sleep(0.05)
    trained = {p: p.stat().st_mtime_ns for p in workdir.rglob("*_trained.npz")}
    other.kill()
    _, stderr = process.communicate(timeout=600)
  assert process.returncode == 0, stderr
  assert "its worker was lost; it is begun again" in stderr
  assert_equal_tables(workdir, tmp_path / "plain")
  kept = {p: p.stat().st_mtime_ns for p in trained}
  assert kept == trained
  assert 2 <= len(trained) < 6


@needs_ray
def test_no_cluster_at_the_address_is_one_line(tmp_path):
  process = start(tmp_path, "--launcher=ray", "--ray_address=127.0.0.1:1")
  stdout, stderr = process.communicate(timeout=120)
  assert (process.returncode, stdout) == (1, "")
  assert "Connection refused; start a cluster with ray start" in stderr
  assert stderr.count("error: --ray_address=127.0.0.1:1: ") == 1


@pytest.mark.parametrize(
  "address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", "nowhere.invalid:1"]
)
def test_an_address_where_nothing_listens_is_refused_at_once(address):
  with pytest.raises(ExperimentError, match=re.escape(f"={address}: ")):
    ray_cluster._check_open(address)


@pytest.mark.parametrize("address", ["local", "auto", "ray://127.0.0.1:1"])
def test_an_address_that_only_ray_understands_is_left_to_it(address):
  ray_cluster._check_open(address)
