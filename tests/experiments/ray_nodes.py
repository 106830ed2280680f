"""Nodes of a Ray cluster on this machine, none of which listens outside it."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import flags

# As the program `ray`, which would replace 127.0.0.1 by the machine's address
# in the network and listen to all of it.
_RAY = (
  "from ray._private import services\n"
  "services.get_node_ip_address = lambda address=None: '127.0.0.1'\n"
  "from ray.scripts.scripts import main\n"
  "main()\n"
)

# Of a program that is to find such nodes; and workers of usual priority, which
# get their turn on a busy machine.
JOINING = {
  "RAY_worker_niceness": "0",
  # Else a token in the user's home decides who may join.
  "RAY_AUTH_MODE": "disabled",
}
ENVIRONMENT = JOINING | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_PATIENCE = 180  # seconds for a node to start


class Node:
  """One node of a cluster, a process with its children.

  Attributes:
    port: of the head node.
  """

  def __init__(self, port: int, folder: Path, *options: str) -> None:
    self.port = port
    self._log = folder / f"{len(list(folder.iterdir()))}.log"
    with self._log.open("w") as log:
      self._process = subprocess.Popen(
        [
          *(sys.executable, "-c", _RAY, "start", "--block"),
          *("--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0"),
          *("--memory=4000000000", "--object-store-memory=80000000"),
          *("--disable-usage-stats", *options),
        ],
        # As many threads as NPROC says, not one for each simulated device.
        env=os.environ | JOINING | {"XLA_FLAGS": flags.on_one_device()},
        stdout=log,
        stderr=log,
        start_new_session=True,
      )
    deadline = time.monotonic() + _PATIENCE
    while "Ray runtime started" not in self._log.read_text():
      assert self._process.poll() is None, self._log.read_text()
      assert time.monotonic() < deadline, self._log.read_text()
      time.sleep(0.1)
    self._started = descendants(self._process.pid)

  def kill(self) -> None:
    """Kills what makes it a node, as when a machine goes down."""
    (raylet,) = (
      pid
      for pid in descendants(self._process.pid)
      if command(pid)[0].endswith("/raylet")
    )
    os.kill(raylet, signal.SIGKILL)

  def stop(self) -> None:
    """Ends all its processes, which are those it started."""
    started = self._started | descendants(self._process.pid)
    self._process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(20)
    for pid in (*started, self._process.pid):
      # A number that is used again is not of a process of Ray's.
      if any("ray" in word for word in command(pid)):
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
    self._process.wait(20)


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
  """A head node and another, with a core each; ended with all they started."""
  port = _free_port()
  # Ray's sockets lie there, and their paths can only be short.
  folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
  logs = folder / "logs"
  logs.mkdir()
  nodes: list[Node] = []
  try:
    head = (f"--port={port}", "--head", "--include-dashboard=false")
    nodes.append(Node(port, logs, *head, f"--temp-dir={folder}"))
    nodes.append(Node(port, logs, f"--address=127.0.0.1:{port}"))
    yield nodes[0], nodes[1]
  finally:
    for node in reversed(nodes):
      node.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
  """A port that is none of those that Ray and the system hand out."""
  while True:
    port = random.randrange(20_000, 30_000)
    with contextlib.suppress(OSError), socket.socket() as probe:
      probe.bind(("127.0.0.1", port))
      return port


def descendants(pid: int) -> set[int]:
  """The processes that a process started, and those they did."""
  parents = {}
  for path in Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      fields = path.read_text().rpartition(")")[2].split()
      parents[int(path.parent.name)] = int(fields[1])
  found: set[int] = set()
  grown = {pid}
  while grown:
    grown = {p for p, parent in parents.items() if parent in grown} - found
    found |= grown
  return found


def command(pid: int) -> list[str]:
  """The words with which a process was started; [""] if it is gone."""
  try:
    content = Path(f"/proc/{pid}/cmdline").read_bytes()
  except OSError:
    return [""]
  return content.decode(errors="replace").rstrip("\0").split("\0")
