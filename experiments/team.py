"""The processes of one run on several hosts: how they talk, and part.

Process 0 runs the command. The others do what it asks (`experiments.shared`)
and see no run folder: what fails there fails the command, and what is written
process 0 writes.

They talk over plain sockets, not by collective operations of jax: those wait
without end for a process that has gone, or end in a stack trace. Messages are
JSON and arrays without pickled objects, so that a stranger's can do no more
than be refused.
"""

import contextlib
import io
import json
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from experiments import archives

_LENGTH = struct.Struct(">Q")
_LONGEST = 2**34
_ABOUT = "about"
STOP = "stop"

# Seconds that process 0 waits for the others to end after a failure.
_PARTING = 5.0


class Message(NamedTuple):
  """What processes say to each other.

  Attributes:
    about: JSON.
    arrays: by name.
  """

  about: dict[str, Any]
  arrays: dict[str, np.ndarray]

  def pack(self) -> bytes:
    """As bytes: an npz file."""
    about = self.about | {"names": list(self.arrays)}
    parts: dict[str, Any] = {
      f"a{i}": a for i, a in enumerate(self.arrays.values())
    }
    parts[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **parts)
    return file.getvalue()

  @classmethod
  def unpack(cls, content: bytes) -> "Message":
    """From bytes.

    Raises:
      ValueError: bytes that are no message.
    """
    try:
      file = archives.parse(io.BytesIO(content), len(content))
      about = json.loads(file[_ABOUT].tobytes())
      names = about.pop("names")
      arrays = {name: file[f"a{i}"] for i, name in enumerate(names)}
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"not a message: {error}") from error
    return cls(about, arrays)


def send(connection: socket.socket, message: Message) -> None:
  """Sends a message whole."""
  content = message.pack()
  connection.sendall(_LENGTH.pack(len(content)) + content)


def receive(connection: socket.socket, longest: int = _LONGEST) -> Message:
  """The next message.

  Raises:
    OSError: the connection broke off.
    ValueError: what came is no message, or longer than `longest` bytes.
  """
  (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
  if length > longest:
    raise ValueError(f"a message of {length} bytes")
  return Message.unpack(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
  content = bytearray()
  while len(content) < count:
    part = connection.recv(min(count - len(content), 2**20))
    if not part:
      raise ConnectionError("the other side has gone")
    content += part
  return bytes(content)


class Channel:
  """A connection that notices at once when the other side goes."""

  def __init__(
    self,
    connection: socket.socket,
    gone: Callable[[], None],
    stopped: Callable[[int], None],
  ) -> None:
    """Starts listening.

    Args:
      connection: to the other process.
      gone: called, in a thread of its own, when it has gone.
      stopped: called, likewise, with the exit code of a command that ends.
    """
    self._connection = connection
    self._gone, self._stopped = gone, stopped
    self._heard: queue.Queue[Message] = queue.Queue()
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()

  def _listen(self) -> None:
    while True:
      try:
        message = receive(self._connection)
      except (OSError, ValueError):
        self._gone()
        return
      if message.about.get("kind") == STOP:
        self._stopped(message.about["code"])
      self._heard.put(message)

  def tell(self, message: Message) -> None:
    """Sends a message; that the other side has gone is told elsewhere."""
    with contextlib.suppress(OSError):
      send(self._connection, message)

  def hear(self) -> Message:
    """Waits for the next message."""
    return self._heard.get()

  def close(self) -> None:
    """Ends the connection."""
    with contextlib.suppress(OSError):
      self._connection.shutdown(socket.SHUT_RDWR)
    self._thread.join()
    self._connection.close()

  def wait_until_gone(self, seconds: float) -> None:
    """Waits for the other side to go."""
    # The thread that notices that one has gone ends the others.
    if self._thread is not threading.current_thread():
      self._thread.join(seconds)


class Team:
  """The processes of a run, as one of them sees them.

  Attributes:
    index: which one this is.
    count: how many there are.
  """

  def __init__(
    self, index: int, count: int, connections: Sequence[socket.socket]
  ) -> None:
    """Starts listening to the others.

    Args:
      index: which process this is.
      count: how many there are.
      connections: of process 0 to the others in their order; of others to
        process 0.
    """
    self.index = index
    self.count = count
    self._ending = False
    self._channels = [
      Channel(connection, self._lost_by(i), self._stopped)
      for i, connection in enumerate(connections, start=1)
    ]

  def tell(self, about: dict[str, Any], **arrays: np.ndarray) -> None:
    """Sends a message: process 0 to all others, others to process 0."""
    message = Message(about, arrays)
    for channel in self._channels:
      channel.tell(message)

  def tell_one(self, index: int, message: Message) -> None:
    """Sends one of the others a message; for process 0."""
    self._channels[index - 1].tell(message)

  def hear(self) -> Message:
    """What process 0 says next; for the others."""
    return self._channels[0].hear()

  def hear_all(self) -> list[Message]:
    """What each of the others says next; for process 0."""
    return [channel.hear() for channel in self._channels]

  def hear_from(self, index: int) -> Message:
    """What one of the others says next; for process 0."""
    return self._channels[index - 1].hear()

  def part(self) -> None:
    """Lets the others end, all being well."""
    self._ending = True
    self.tell({"kind": STOP, "code": 0})

  def close(self) -> None:
    """Ends the connections; the others must know."""
    self._ending = True
    for channel in self._channels:
      channel.close()

  def abort(self, code: int) -> NoReturn:
    """Ends all processes after a failure, wherever they are.

    Not by the usual way out, on which jax waits for processes that may wait for
    this one.
    """
    self._ending = True
    if self.index == 0:
      self.tell({"kind": STOP, "code": code})
      for channel in self._channels:
        channel.wait_until_gone(_PARTING)
    _exit(code)

  def _lost_by(self, other: int) -> Callable[[], None]:
    who = f"process {other}" if self.index == 0 else "process 0"

    def lost() -> None:
      if self._ending:
        return
      self._ending = True
      _say_last(
        f"error: {who} has gone, see its output; the same commands continue"
        " where it stopped"
      )
      self.abort(1)

    return lost

  def _stopped(self, code: int) -> None:
    self._ending = True
    if code:
      _exit(code)


def _say_last(line: str) -> None:
  """Says a line on stderr, after which nothing more is heard there.

  Other threads go on until the process has ended: a progress bar is drawn
  again, and libraries complain of the connection that broke off.
  """
  with contextlib.suppress(OSError, ValueError):
    sys.stderr.flush()
    heard = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # A progress bar may have been left in the middle of its line.
    os.write(heard, f"\n{line}\n".encode())


def _exit(code: int) -> NoReturn:
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(code)
