"""Several processes, on one machine or many, as one run: how they find it.

Each is started with the same command; `--coordinator=HOST:PORT` names a free
port of process 0's host. Before jax does, which ends a process with a stack
trace where another does not come, they meet at that port and compare what they
were started with.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments import team
from experiments.config import HostConfig
from experiments.errors import ExperimentError, UsageError
from experiments.team import Message, Team

AUTO, NONE = "auto", "none"

# Bytes of a first message: a longer one is a stranger's. Seconds to send it.
_HELLO_BYTES, _HELLO_SECONDS = 2**17, 10.0

_RETRY_SECONDS = 0.2

# Seconds more for jax to find the same processes.
_JAX_SECONDS = 60


class Place(NamedTuple):
  """A process among those of its run.

  Attributes:
    address: (host, port) that process 0 listens at.
    count: number of processes.
    index: of this one.
    local_devices: the accelerators of this process; None for all of its host.
  """

  address: tuple[str, int]
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None


def find(
  config: HostConfig, environment: Mapping[str, str] = os.environ
) -> Place | None:
  """This process's place, from flags or from what started it.

  Args:
    config: the flags.
    environment: variables of a scheduler.

  Returns:
    The place; None if this process is the only one.

  Raises:
    UsageError: flags that are missing, or do not fit each other.
  """
  given = config.num_processes > 0 or config.process_id >= 0
  if config.coordinator_timeout < 1:
    raise UsageError(
      f"--coordinator_timeout={config.coordinator_timeout} is not positive"
    )
  if config.coordinator in ("", NONE, AUTO) and given:
    raise UsageError(
      "--num_processes and --process_id need --coordinator=HOST:PORT, a free"
      " port of process 0's host"
    )
  if config.coordinator == NONE:
    return None
  if config.coordinator == AUTO:
    return _detected(config)
  if not config.coordinator:
    return _detected(config) if _started_as_many(environment) else None
  return _given(config)


def _given(config: HostConfig) -> Place | None:
  host, colon, port = config.coordinator.rpartition(":")
  host = host.strip("[]")
  if not (colon and host and port.isdigit() and 0 < int(port) < 2**16):
    raise UsageError(
      f"--coordinator={config.coordinator} is not HOST:PORT, auto or none"
    )
  count, index = config.num_processes, config.process_id
  if count < 1:
    raise UsageError(
      f"--num_processes={count}: say how many processes --coordinator is for"
    )
  if not 0 <= index < count:
    raise UsageError(
      f"--process_id={index} is not one of the {count} processes, 0 to"
      f" {count - 1}"
    )
  return Place((host, int(port)), count, index) if count > 1 else None


def _started_as_many(environment: Mapping[str, str]) -> bool:
  """Whether srun started several processes, or this is a part of a TPU pod."""
  tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
  workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
  return (tasks.isdigit() and int(tasks) > 1) or len(workers) > 1


def _detected(config: HostConfig) -> Place | None:
  """What jax knows of schedulers: SLURM, TPU pods, Open MPI, Kubernetes."""
  try:
    # Nothing public says it without connecting.
    from jax._src.clusters import ClusterEnv

    address, count, index, devices = (
      ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, config.coordinator_timeout
      )
    )
  except Exception as error:
    raise UsageError(_not_found(f"jax finds none here ({error})")) from error
  if address is None or count is None or index is None:
    raise UsageError(_not_found("jax finds none here"))
  host, _, port = address.rpartition(":")
  local = None if devices is None else tuple(devices)
  if count == 1:
    return None
  return Place((host.strip("[]"), int(port)), count, index, local)


def _not_found(reason: str) -> str:
  return (
    f"the processes of this run cannot be told by themselves: {reason}; give"
    " --coordinator=HOST:PORT, --num_processes and --process_id, or"
    " --coordinator=none for this process alone"
  )


def join(place: Place, started_with: Mapping[str, Any], seconds: float) -> Team:
  """Meets the other processes, then lets jax know of them.

  Args:
    place: of this process.
    started_with: JSON that must be the same in all processes, by flag.
    seconds: how long to wait for the others.

  Returns:
    The team.

  Raises:
    UsageError: processes that were not started alike.
    ExperimentError: a process that does not come.
  """
  deadline = time.monotonic() + seconds
  if place.index == 0:
    connections = _gather(place, started_with, deadline)
  else:
    connections = [_report(place, started_with, deadline)]
  _start_jax(place)
  return Team(place.index, place.count, connections)


def _start_jax(place: Place) -> None:
  import jax

  # It would keep SIGTERM from ending the process.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    _joined(*place.address),
    place.count,
    place.index,
    local_device_ids=place.local_devices,
    cluster_detection_method="deactivate",
    coordinator_bind_address=_joined(
      _bound(place.address[0]) or "::", place.address[1]
    ),
    initialization_timeout=_JAX_SECONDS,
  )
  # The processes tell each other of their devices when the first one asks, and
  # wait for all: now, as later they do not ask at the same time.
  jax.devices()


def _joined(host: str, port: int) -> str:
  return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(host: str) -> str:
  """Where to listen: at an address only if it was given as one.

  A name may stand for another address on its own host than on others.
  """
  if host == "localhost":
    return "127.0.0.1"
  for family in (socket.AF_INET, socket.AF_INET6):
    with contextlib.suppress(OSError):
      socket.inet_pton(family, host)
      return host
  return ""


# --- process 0 ---------------------------------------------------------------


def _gather(
  place: Place, started_with: Mapping[str, Any], deadline: float
) -> list[socket.socket]:
  """Waits for all others, and tells them whether all is well."""
  came: dict[int, socket.socket] = {}
  answered: list[socket.socket] = []
  refused = None
  with _listening(place.address) as listener:
    while len(came) < place.count - 1 and refused is None:
      connection = _accepted(listener, place, came, deadline)
      hello = _hello(connection)
      if hello is None:
        connection.close()
        continue
      refused = _refusal(place, started_with, hello, came)
      answered.append(connection)
      came[hello["index"]] = connection
  for connection in answered:
    with contextlib.suppress(OSError):
      team.send(connection, Message({"refused": refused}, {}))
  if refused is not None:
    _close(answered)
    raise UsageError(refused)
  return [came[i] for i in range(1, place.count)]


def _close(connections: Iterable[socket.socket]) -> None:
  for connection in connections:
    connection.close()


def _listening(address: tuple[str, int]) -> socket.socket:
  host, port = address
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
      (_bound(host), port), family=family, backlog=1024
    )
  except OSError as error:
    raise UsageError(
      f"--coordinator={_joined(host, port)} cannot be listened at"
      f" ({error.strerror}): process 0 must run on that host, and the port be"
      " free"
    ) from error


def _accepted(
  listener: socket.socket,
  place: Place,
  came: Mapping[int, socket.socket],
  deadline: float,
) -> socket.socket:
  listener.settimeout(max(deadline - time.monotonic(), 0.01))
  try:
    return listener.accept()[0]
  except TimeoutError:
    missing = [str(i) for i in range(1, place.count) if i not in came]
    noun = "process" if len(missing) == 1 else "processes"
    _close(came.values())
    raise ExperimentError(
      f"{noun} {', '.join(missing)} of {place.count} did not come to"
      f" --coordinator={_joined(*place.address)} in time: start all of them, or"
      " give a longer --coordinator_timeout"
    ) from None


def _hello(connection: socket.socket) -> dict[str, Any] | None:
  """What a process says of itself; None of a stranger."""
  connection.settimeout(_HELLO_SECONDS)
  try:
    hello = team.receive(connection, _HELLO_BYTES).about
  except (OSError, ValueError):
    return None
  connection.settimeout(None)
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  return hello if isinstance(hello.get("index"), int) else None


def _refusal(
  place: Place,
  started_with: Mapping[str, Any],
  hello: Mapping[str, Any],
  came: Mapping[int, Any],
) -> str | None:
  """Why a process cannot be one of these."""
  index = hello["index"]
  if hello.get("count") != place.count:
    return (
      f"process {index} was started with --num_processes={hello.get('count')},"
      f" process 0 with {place.count}: start all alike"
    )
  if index in came or not 0 < index < place.count:
    return f"there are two processes with --process_id={index}: number them"
  theirs = hello.get("started_with", {})
  for name in sorted({*started_with, *theirs}):
    ours, other = started_with.get(name), theirs.get(name)
    if json.dumps(ours) != json.dumps(other):
      return (
        f"process {index} was started with {name}={other}, process 0 with"
        f" {name}={ours}: start all alike"
      )
  return None


# --- the others --------------------------------------------------------------


def _report(
  place: Place, started_with: Mapping[str, Any], deadline: float
) -> socket.socket:
  """Tells process 0 that this one is here, and hears whether all is well."""
  about = {"index": place.index, "count": place.count}
  connection = _connected(place, deadline)
  try:
    team.send(
      connection, Message(about | {"started_with": dict(started_with)}, {})
    )
    connection.settimeout(max(deadline - time.monotonic(), 0) + _HELLO_SECONDS)
    answer = team.receive(connection).about
  except (OSError, ValueError) as error:
    connection.close()
    raise ExperimentError(
      f"process 0 at --coordinator={_joined(*place.address)} has gone: see its"
      " output"
    ) from error
  if answer["refused"] is not None:
    connection.close()
    raise UsageError(answer["refused"])
  connection.settimeout(None)
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  return connection


def _connected(place: Place, deadline: float) -> socket.socket:
  while True:
    left = deadline - time.monotonic()
    try:
      return socket.create_connection(place.address, timeout=max(left, 0.01))
    except OSError as error:
      if time.monotonic() + _RETRY_SECONDS > deadline:
        raise ExperimentError(
          f"--coordinator={_joined(*place.address)} does not answer"
          f" ({error.strerror or error}): start process 0 there, or give a"
          " longer --coordinator_timeout"
        ) from error
    time.sleep(_RETRY_SECONDS)


def quiet_stdout() -> None:
  """Keeps what libraries print out of the command's output.

  Gloo, by which CPUs talk, says on stdout that it is connected.
  """
  sys.stdout.flush()
  ours = os.dup(1)
  os.dup2(2, 1)
  sys.stdout = os.fdopen(ours, "w", buffering=1)
