"""One command on two processes: real ones, that talk over 127.0.0.1."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments import datasets, hosts, measuring, shared, store
from experiments.config import DataConfig, MeasureConfig, TrainConfig
from experiments.errors import ExperimentError
from experiments.hosts import Place
from experiments.shared import Crew, Network
from tests.experiments import two_processes
from tests.experiments.test_hosts import free_port, part

ROOT = Path(__file__).parent.parent.parent


def start(module, coordinator, index, *arguments):
  """One of two processes, with one device each."""
  place = (
    f"--coordinator={coordinator}",
    "--num_processes=2",
    f"--process_id={index}",
  )
  return start_as(module, {}, *place, *arguments)


def start_as(module, environment, *arguments):
  """A process with one device."""
  one_device = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(
    [sys.executable, "-m", module, *arguments],
    cwd=ROOT,
    env={**os.environ, **one_device, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def files(folder):
  return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """What one process makes."""
  workdir = tmp_path_factory.mktemp("alone")
  two_processes.do(workdir)
  return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory):
  """What two make, each with a folder of its own."""
  folder = tmp_path_factory.mktemp("together")
  codes, said = run_both(folder)
  assert codes == [0, 0], said
  # What libraries say does not reach the output.
  assert [out for out, _ in said] == ["", ""]
  return folder


def run_both(folder, *arguments):
  """Exit codes and output of process 0 and process 1."""
  coordinator = f"127.0.0.1:{free_port()}"
  processes = [
    start(
      "tests.experiments.two_processes",
      coordinator,
      index,
      f"--workdir={folder / str(index)}",
      *arguments,
    )
    for index in (0, 1)
  ]
  said = [process.communicate(timeout=300) for process in processes]
  return [process.returncode for process in processes], said


def test_only_process_0_writes(alone, together):
  assert [path.name for path in together.iterdir()] == ["0"]
  assert files(together / "0") == files(alone)


@pytest.mark.parametrize("name", two_processes.SEEDS)
def test_two_processes_train_what_one_trains(alone, together, name):
  ours, theirs = alone / name, together / "0" / name
  metrics = []
  for folder in (ours, theirs):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    table = pd.DataFrame([json.loads(line) for line in lines])
    metrics.append(table.drop(columns="images_per_second"))
  assert len(metrics[0]) == 2 * len(two_processes.SEEDS[name])
  first, second = metrics
  pd.testing.assert_frame_equal(first, second, rtol=1e-5, atol=1e-6)
  for path in sorted((ours / "params").glob("*.npz")):
    pairs = zip(
      jax.tree.leaves(store.load_params(path)),
      jax.tree.leaves(store.load_params(theirs / "params" / path.name)),
      strict=True,
    )
    for a, b in pairs:
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_two_processes_measure_what_one_measures(alone, together):
  ours, theirs = (
    store.read_table(folder / "seeds" / "measurements.parquet")
    for folder in (alone, together / "0")
  )
  assert ours["seed"].nunique() == ours["stage"].nunique() == 2
  numbers = list(ours.select_dtypes("number"))
  rest = ours.columns.difference(numbers)
  pd.testing.assert_frame_equal(ours[rest], theirs[rest])
  pd.testing.assert_frame_equal(
    ours[numbers], theirs[numbers], rtol=1e-5, atol=1e-5
  )


def test_killed_in_training_two_go_on_to_the_same_bits(together, tmp_path):
  """Seeds that lie on several processes, and a seed that all share."""
  log = tmp_path / "log"
  for die_after, kept in (
    (1, "seeds/*/seed0_to_1.npz"),
    (2, "batches/*/seed0.npz"),
  ):
    codes, said = run_both(tmp_path, f"--log={log}", f"--die_after={die_after}")
    assert codes == [-signal.SIGKILL, 1], said
    assert "error: process 0 has gone" in said[1][1]
    assert list((tmp_path / "0").glob(kept))
  codes, said = run_both(tmp_path, f"--log={log}")
  assert codes == [0, 0], said
  # Two epochs of a group and of three seeds; process 0 did none twice.
  assert len(log.read_text().splitlines()) == 2 * (1 + 3)
  assert files(tmp_path / "0") == files(together / "0")
  for path in sorted((tmp_path / "0").rglob("*.npz")):
    other = together / "0" / path.relative_to(tmp_path / "0")
    assert path.read_bytes() == other.read_bytes(), path.name


# --- threads for processes ---------------------------------------------------

MEASURE = MeasureConfig(
  measures="invariance_error",
  transforms="rotation:15",
  shift_map="",
  measure_examples=7,
)


@pytest.fixture
def crews(monkeypatch):
  """Process 0's crew; the other process serves in a thread."""
  monkeypatch.setattr(hosts, "_start_jax", lambda place: None)
  place = Place(("127.0.0.1", free_port()), 2, 0)
  teams = []

  def serve():
    teams.append(hosts.join(place._replace(index=1), {}, 20.0))
    shared._serve(teams[0], "")

  thread = threading.Thread(target=serve)
  thread.start()
  team = hosts.join(place, {}, 20.0)
  with shared.using(Crew(False, team)):
    yield
  team.part()
  thread.join()
  part([team, *teams])


@pytest.fixture
def measure(mlp, small, crews):
  """Measures two networks, by two processes."""
  del crews

  def call(dataset=small, config=MEASURE):
    network = Network(
      mlp, two_processes.DATA, two_processes.MODEL, TrainConfig()
    )

    def load(seed, stage):
      return mlp.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 1)))

    done = []
    tables = shared.measure(
      network,
      dataset,
      config,
      [(0, "init"), (1, "trained")],
      load,
      progress=done.append,
    )
    return list(tables), done, load

  return call


@pytest.mark.slow
def test_each_process_measures_networks_of_its_own(measure, mlp, small):
  tables, done, load = measure()
  for table, (seed, stage) in zip(
    tables, [(0, "init"), (1, "trained")], strict=True
  ):
    pd.testing.assert_frame_equal(
      table,
      measuring.measure_network(mlp, load(seed, stage), small, MEASURE, stage),
    )
  assert sum(done) == 2 * 7 * 3  # networks, images, elements


def test_other_images_are_refused(measure):
  other = datasets.load(DataConfig(train_examples=255, test_examples=96))
  with pytest.raises(ExperimentError, match=r"process 1 of 2 cannot go on: .*"):
    measure(other)


# --- processes that go -------------------------------------------------------

TRAIN = (
  "--model=mlp",
  "--depth=1",
  "--width=8",
  "--train_examples=256",
  "--test_examples=96",
  "--batch_size=60",
  "--seeds=3",
)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_goes_ends_the_other(tmp_path, victim):
  coordinator = f"127.0.0.1:{free_port()}"
  arguments = (f"--workdir={tmp_path / 'run'}", *TRAIN)
  endless = (*arguments, "--epochs=100000")
  processes = [
    start("experiments.train", coordinator, index, *endless) for index in (0, 1)
  ]
  time.sleep(30)
  assert [process.poll() for process in processes] == [None, None]
  processes[victim].send_signal(signal.SIGKILL)
  try:
    _, error = processes[1 - victim].communicate(timeout=20)
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  assert processes[1 - victim].returncode == 1
  last = error.strip().splitlines()[-1]
  assert last.startswith(f"error: process {victim} has gone")


@pytest.mark.slow
def test_what_fails_in_process_0_ends_both_with_its_code(tmp_path):
  """A folder of another run: found out while the other waits."""
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{")
  (tmp_path / "run" / "metrics.jsonl").write_text("{")
  coordinator = f"127.0.0.1:{free_port()}"
  processes = [
    start(
      "experiments.train",
      coordinator,
      index,
      f"--workdir={tmp_path / 'run'}",
      *TRAIN,
    )
    for index in (0, 1)
  ]
  errors = [process.communicate(timeout=120)[1] for process in processes]
  assert [process.returncode for process in processes] == [1, 1]
  assert errors[0].startswith("error: ")
  assert len(errors[0].splitlines()) == 1
  assert errors[1] == ""


@pytest.mark.slow
def test_srun_needs_no_flags(tmp_path):
  job = free_port() % 2**12  # jax takes a port from the job's number
  variables = {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "1",
  }
  processes = [
    start_as(
      "experiments.train",
      variables | {"SLURM_PROCID": index, "SLURM_LOCALID": index},
      f"--workdir={tmp_path / index}",
      *TRAIN,
      "--epochs=1",
    )
    for index in ("0", "1")
  ]
  said = [process.communicate(timeout=120) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  assert said[0][0].splitlines()[-1] == str(tmp_path / "0")
  assert said[1][0] == ""
  assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.slow
def test_different_flags_are_named(tmp_path):
  coordinator = f"127.0.0.1:{free_port()}"
  processes = [
    start(
      "experiments.train",
      coordinator,
      index,
      f"--workdir={tmp_path / 'run'}",
      *TRAIN,
      f"--epochs={epochs}",
    )
    for index, epochs in ((0, 1), (1, 2))
  ]
  for process in processes:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error == (
      "error: process 1 was started with --epochs=2, process 0 with"
      " --epochs=1: start all alike\n"
    )
  assert not (tmp_path / "run").exists()
