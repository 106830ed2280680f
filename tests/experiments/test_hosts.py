"""How the processes of a run find each other; real ones in test_shared.py."""

import socket
import threading

import numpy as np
import pytest

from experiments import hosts, team
from experiments.config import HostConfig
from experiments.errors import ExperimentError, UsageError
from experiments.hosts import Place
from experiments.team import Message, Team


def free_port() -> int:
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


# --- where this process is ---------------------------------------------------


@pytest.mark.parametrize(
  ("flags", "place"),
  [
    ({}, None),
    ({"coordinator": "none"}, None),
    (
      {"coordinator": "node1:99", "num_processes": 4, "process_id": 3},
      Place(("node1", 99), 4, 3),
    ),
    (
      {"coordinator": "[::1]:99", "num_processes": 2, "process_id": 0},
      Place(("::1", 99), 2, 0),
    ),
    ({"coordinator": "a:1", "num_processes": 1, "process_id": 0}, None),
  ],
)
def test_flags_say_where(flags, place):
  assert hosts.find(HostConfig(**flags), {}) == place


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      {"num_processes": 2},
      "--num_processes and --process_id need --coordinator=HOST:PORT",
    ),
    ({"coordinator": "node1"}, "--coordinator=node1 is not HOST:PORT"),
    ({"coordinator": "node1:0"}, "--coordinator=node1:0 is not HOST:PORT"),
    ({"coordinator": ":80"}, "--coordinator=:80 is not HOST:PORT"),
    ({"coordinator": "a:70000"}, "--coordinator=a:70000 is not HOST:PORT"),
    ({"coordinator": "a:1"}, "--num_processes=0: say how many"),
    (
      {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
      "--process_id=2 is not one of the 2 processes, 0 to 1",
    ),
    (
      {"coordinator": "a:1", "num_processes": 2},
      "--process_id=-1 is not one of the 2 processes, 0 to 1",
    ),
    ({"coordinator_timeout": 0}, "--coordinator_timeout=0 is not positive"),
    ({"coordinator": "auto"}, "give --coordinator=HOST:PORT"),
  ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
  with pytest.raises(UsageError, match=message):
    hosts.find(HostConfig(**flags), {})


SLURM = {
  "SLURM_JOB_ID": "4242",
  "SLURM_STEP_NODELIST": "node[07-08]",
  "SLURM_NTASKS": "2",
  "SLURM_STEP_NUM_TASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
  "SLURM_STEP_NUM_NODES": "2",
}


@pytest.mark.parametrize("coordinator", ["", "auto"])
def test_srun_says_where(monkeypatch, coordinator):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  place = hosts.find(HostConfig(coordinator=coordinator))
  assert place is not None
  (host, port), count, index, local = place
  assert (host, count, index, local) == ("node07", 2, 1, (0,))
  assert 1024 < port < 2**16
  assert hosts.find(HostConfig(coordinator="none")) is None


def test_a_job_of_one_task_is_one_process(monkeypatch):
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
  assert hosts.find(HostConfig()) is None


# --- meeting -----------------------------------------------------------------


@pytest.fixture
def met(monkeypatch):
  """Lets several processes, here threads, meet: what each of them gets."""
  monkeypatch.setattr(hosts, "_start_jax", lambda place: None)
  teams = []

  def meet(*processes, seconds=20.0):
    port, results = free_port(), {}

    def one(number, index, count, flags):
      place = Place(("127.0.0.1", port), count, index)
      try:
        results[number] = hosts.join(place, flags, seconds)
      except (UsageError, ExperimentError) as error:
        results[number] = error

    threads = [
      threading.Thread(target=one, args=(i, *process))
      for i, process in enumerate(processes)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    found = [results[i] for i in range(len(processes))]
    teams.extend(one for one in found if isinstance(one, Team))
    return found

  yield meet
  part(teams)


def part(teams):
  """They go, and none of them takes this process along."""
  for one in teams:
    one._ending = True
  for one in teams:
    one.close()


def test_processes_meet_and_talk_in_order(met):
  first, third, second = met((0, 3, {}), (2, 3, {}), (1, 3, {}))
  first.tell({"kind": "a"}, x=np.arange(3))
  first.tell_one(2, Message({"kind": "b"}, {}))
  for one in (second, third):
    message = one.hear()
    assert message.about == {"kind": "a"}
    np.testing.assert_array_equal(message.arrays["x"], np.arange(3))
    one.tell({"kind": "c", "index": one.index})
  assert third.hear().about["kind"] == "b"
  assert [m.about["index"] for m in first.hear_all()] == [1, 2]
  first.part()
  assert second.hear().about == {"kind": "stop", "code": 0}


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (
      (1, 2, {"--epochs": 3}),
      "process 1 was started with --epochs=3, process 0 with --epochs=5",
    ),
    ((1, 3, {"--epochs": 5}), "--num_processes=3, process 0 with 2"),
  ],
)
def test_processes_that_were_started_otherwise_are_refused(met, other, message):
  for error in met((0, 2, {"--epochs": 5}), other):
    assert isinstance(error, UsageError)
    assert message in str(error)


def test_two_processes_with_one_number_are_refused(met):
  errors = met((0, 3, {}), (1, 3, {}), (1, 3, {}))
  assert "two processes with --process_id=1" in str(errors[0])
  assert all(isinstance(e, UsageError | ExperimentError) for e in errors)


def test_who_does_not_come_is_named(met):
  """Process 0 waits for process 2 in vain, and so does process 1."""
  first, second = met((0, 3, {}), (1, 3, {}), seconds=1.0)
  assert isinstance(first, ExperimentError)
  assert "process 2 of 3 did not come" in str(first)
  assert "--coordinator_timeout" in str(first)
  assert isinstance(second, ExperimentError)


def test_a_coordinator_that_is_not_there_is_named(met):
  (error,) = met((1, 2, {}), seconds=0.5)
  assert isinstance(error, ExperimentError)
  assert "--coordinator=127.0.0.1:" in str(error)
  assert "does not answer" in str(error)


def test_a_port_in_use_is_named(monkeypatch):
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = ("127.0.0.1", server.getsockname()[1])
    with pytest.raises(UsageError, match="cannot be listened at"):
      hosts.join(Place(address, 2, 0), {}, 1.0)


def test_strangers_are_ignored(monkeypatch):
  """Someone else's bytes at the port do not keep process 1 out."""
  monkeypatch.setattr(hosts, "_start_jax", lambda place: None)
  place = Place(("127.0.0.1", free_port()), 2, 0)
  found = []
  thread = threading.Thread(
    target=lambda: found.append(hosts.join(place, {}, 20.0))
  )
  thread.start()
  for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 7 + b"\5hello", b""):
    while True:
      try:
        stranger = socket.create_connection(place.address, timeout=5)
        break
      except OSError:
        continue
    stranger.sendall(noise)
    stranger.close()
  other = hosts.join(place._replace(index=1), {}, 20.0)
  thread.join()
  (first,) = found
  assert (first.index, other.index) == (0, 1)
  part([first, other])


# --- messages ----------------------------------------------------------------


def test_messages_survive_the_way():
  arrays = {"a/b": np.arange(4.0, dtype=np.float32), "names": np.zeros(0, int)}
  message = Message({"kind": "x", "n": [1, None, "é"]}, arrays)
  about, found = Message.unpack(message.pack())
  assert about == message.about
  assert set(found) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype


def test_pickled_objects_are_no_messages():
  harmful = Message({}, {"x": np.array([{"a": 1}], dtype=object)})
  with pytest.raises(ValueError, match="pickled objects, which are refused"):
    Message.unpack(harmful.pack())
  with pytest.raises(ValueError, match="pickle"):
    Message.unpack(b"nothing")


def test_only_addresses_are_listened_at_alone():
  """A name may stand for a loopback address on its own host."""
  assert hosts._bound("127.0.0.1") == hosts._bound("localhost") == "127.0.0.1"
  assert hosts._bound("::1") == "::1"
  assert hosts._bound("node7") == ""


def test_a_long_message_of_a_stranger_is_not_read():
  ours, theirs = socket.socketpair()
  with ours, theirs:
    theirs.sendall(team._LENGTH.pack(2**40))
    with pytest.raises(ValueError, match="bytes"):
      team.receive(ours, 2**17)
