"""Ctrl-C and SIGTERM: a command ends within seconds and can go on later.

The first one raises KeyboardInterrupt in the main thread, which unwinds. But a
main thread that is inside XLA hears of it only when XLA returns, and compiling
can take a minute. So a second thread waits a moment, then removes unfinished
files and ends the process; the next signal has it do so at once. Nothing is
lost by that: every file is written whole or not at all.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from experiments import unfinished

HINT = "interrupted; the same command continues where it stopped"

_GRACE = 2.0  # seconds to unwind in
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
  """A signal to end; `code` is the exit code that it calls for."""

  def __init__(self, number: int) -> None:
    """Takes the signal's number."""
    super().__init__()
    self.code = 128 + number


@contextlib.contextmanager
def ending_soon() -> Iterator[None]:
  """Has SIGINT and SIGTERM end the process soon, while the block runs.

  For the main thread. What the block raises after a signal, such as XLA's own
  error about an exception in a callback, becomes `Interrupted`.

  Raises:
    Interrupted: a signal came.
  """
  received: list[int] = []

  def interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    received.append(number)
    raise Interrupted(number)

  # Whom a shell or nohup has told to ignore them goes on ignoring them.
  before = {
    number: signal.signal(number, interrupt)
    for number in _SIGNALS
    if signal.getsignal(number) is not signal.SIG_IGN
  }
  # Raised in a callback of the garbage collector it goes no further.
  unraisable = sys.unraisablehook
  sys.unraisablehook = lambda args: (
    None if args.exc_type is Interrupted else unraisable(args)
  )
  heard, told = os.pipe()
  os.set_blocking(told, False)
  previous = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(heard,), daemon=True).start()
  try:
    yield
  except BaseException:
    if received:
      raise Interrupted(received[0]) from None
    raise
  finally:
    # The thread goes on after a signal: whatever hangs now is ended too.
    if not received:
      signal.set_wakeup_fd(previous)
      os.close(told)
      sys.unraisablehook = unraisable
      for number, handler in before.items():
        signal.signal(number, handler)


def _watch(heard: int) -> None:
  """Waits for a signal, then for the end of patience or another signal."""
  first = os.read(heard, 1)
  while first and first[0] not in _SIGNALS:  # such as SIGCHLD
    first = os.read(heard, 1)
  if first:
    select.select([heard], [], [], _GRACE)
    _end(first[0])
  os.close(heard)


def _end(number: int) -> NoReturn:
  unfinished.remove_all()
  os.write(2, f"\nerror: {HINT}\n".encode())
  os._exit(128 + number)
