"""Signals to real processes, wherever their main thread is."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parents[1]

# A command that says when it is at work; os.read is a main thread that hears
# of signals, the other three do not: they are in C, in XLA, or deaf.
PROGRAM = """
import contextlib, ctypes, os, signal, sys, threading, time
from pathlib import Path
from experiments import cli, locks, store, unfinished

def main():
  with locks.holding(Path({folder!r})):
    with unfinished.beside(Path({folder!r}) / "file.txt") as temporary:
      temporary.write_text("half")
      {work}
  print("done", flush=True)

cli._prepare = lambda: None
sys.argv = ["command"]
cli.run(main)
"""

READY = "print('ready', flush=True)"
WORK = {
  "python": f"{READY}; os.read(0, 1)",
  # A sleep of the C library that no signal wakes: another thread gets it. A
  # third says so when the main thread has had time to get there.
  "in C": (
    "signal.pthread_sigmask(signal.SIG_BLOCK, (2, 15));"
    " say = threading.Timer(0.5, print, ['ready'], {'flush': True});"
    " say.start(); ctypes.CDLL(None).sleep(60)"
  ),
  "compiling": (
    "import jax, jax.numpy as jnp;"
    " f = lambda x: [x := jnp.sin(x @ x + i) for i in range(1000)][-1];"
    " lowered = jax.jit(f).lower(jnp.ones((8, 8)));"
    f" {READY}; lowered.compile()"
  ),
  "deaf": (
    f"deaf = contextlib.suppress(BaseException)\n      with deaf: {READY};"
    " time.sleep(9)\n      while True:\n        with deaf: time.sleep(9)"
  ),
}


@pytest.fixture(autouse=True)
def audible():
  """Children hear of SIGINT, also where these tests run in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def started(folder, work):
  """A process that is at work; killed at the end if it is not gone."""
  with subprocess.Popen(
    [sys.executable, "-c", PROGRAM.format(folder=str(folder), work=WORK[work])],
    cwd=ROOT,
    env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
      yield process
    finally:
      process.kill()


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_a_command_within_seconds(tmp_path, work, number, code):
  with started(tmp_path, work) as process:
    process.send_signal(number)
    # Two seconds of patience; the rest is for a busy machine.
    stdout, stderr = process.communicate(timeout=15)
  assert process.returncode == code
  assert stdout == ""
  assert stderr.strip() == (
    "error: interrupted; the same command continues where it stopped"
  )
  assert not list(tmp_path.iterdir())  # no temporary file, no lock


@pytest.mark.parametrize("work", ["in C", "deaf"])
def test_a_second_signal_ends_it_at_once(tmp_path, work):
  with started(tmp_path, work) as process:
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
      process.wait(timeout=0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=1.5)  # before the patience is over
  assert process.returncode == 130
  assert not list(tmp_path.iterdir())


def test_who_was_told_to_ignore_interrupts_does(tmp_path):
  """As a shell does with commands in the background."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with started(tmp_path, "python") as process:
      process.send_signal(signal.SIGINT)
      stdout, _ = process.communicate("\n", timeout=15)
  finally:
    signal.signal(signal.SIGINT, before)
  assert (process.returncode, stdout) == (0, "done\n")
