"""What every command shares: flags in, one-line errors and exit codes out."""

import dataclasses
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

from experiments import interrupts
from experiments.errors import ExperimentError, UsageError

_EXHAUSTED = "RESOURCE_EXHAUSTED"

USAGE, FAILURE, INTERRUPTED = 2, 1, 130

flags.DEFINE_bool("debug", False, "show the traceback of an error")
flags.DEFINE_string(
  "compilation_cache",
  "",
  "folder to keep compiled programs in, for a faster start; if empty"
  " $JAX_COMPILATION_CACHE_DIR, else ~/.cache/partial-invariance; none for no"
  " such folder",
)
# They are of the command that calls `run`, so that its --help lists them.
flags.disclaim_key_flags()

_HELP = {"-h", "--h", "-help", "--help", "-helpfull", "--helpfull"}


class Positional(NamedTuple):
  """An argument of a command that is no flag.

  Attributes:
    name: what it is called in messages.
    choices: what it can be; empty for anything.
  """

  name: str
  choices: Sequence[str] = ()


def run(
  main: Callable[..., None], positional: Sequence[Positional] = ()
) -> None:
  """Runs a command: parses flags, calls `main`, exits.

  Exit code 0 for success, 2 for a wrong command line, 1 for a failure, 130 for
  an interrupt, 143 for SIGTERM. Errors that the user can mend are one line on
  stderr.

  Args:
    main: the command; called with the positional arguments, if it has any.
    positional: the arguments that it needs beside flags, in order.
  """
  for name in ("debug", "compilation_cache"):
    flags.declare_key_flag(name)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A folder's name may be no text, or none that the terminal knows.
    sys.stdout.reconfigure(errors="backslashreplace")
  app.run(
    lambda argv: _guarded(
      functools.partial(_on_all_hosts, functools.partial(main, *argv[1:]))
    ),
    flags_parser=functools.partial(_parse, positional=positional),
  )


def _parse(
  argv: Sequence[str], positional: Sequence[Positional] = ()
) -> list[str]:
  """Absl's parser, but errors are one line and help is no error."""
  if _HELP & set(argv):
    app.usage(shorthelp="full" not in " ".join(argv), writeto_stdout=True)
    sys.exit(0)
  try:
    rest = flags.FLAGS(list(argv))
  except flags.Error as error:
    missing = re.match(r"flag --(\w+)=None: .* other than None", str(error))
    text = f"--{missing[1]} is required" if missing else str(error)
    _fail(text, USAGE, debug="--debug" in argv)  # it is not known as a flag
  for i, wanted in enumerate(positional, start=1):
    known = ", ".join(wanted.choices)
    if len(rest) <= i:
      hint = f": one of {known}" if known else ""
      _fail(f"{wanted.name} is missing{hint}", USAGE)
    if known and rest[i] not in wanted.choices:
      _fail(f"{wanted.name}={rest[i]} is unknown; known are {known}", USAGE)
  if len(rest) > 1 + len(positional):
    unexpected = rest[1 + len(positional)]
    _fail(f"unexpected argument {unexpected!r}; flags start with --", USAGE)
  return rest


# Flags in which the processes of one run may differ.
_OWN_FLAGS = {
  "compilation_cache",
  "coordinator",
  "coordinator_timeout",
  "data_dir",
  "debug",
  "process_id",
  "workdir",
}


def _on_all_hosts(main: Callable[[], None]) -> None:
  """Runs a command with what its flags say of processes, if they do."""
  if "coordinator" not in flags.FLAGS:
    main()
    return
  import importlib.metadata

  from experiments import shared
  from experiments.config import HostConfig, from_flags

  started_with = {
    f"--{flag.name}": flag.value
    for module, its in flags.FLAGS.flags_by_module_dict().items()
    for flag in its
    if not module.startswith("absl") and flag.name not in _OWN_FLAGS
  }
  config = from_flags(HostConfig)
  if _shared_out():
    if config.coordinator not in ("", "none"):
      raise UsageError(
        "--coordinator makes one run of several processes, --task_index and"
        " --launcher=ray several: give one"
      )
    config = dataclasses.replace(config, coordinator="none")
  shared.run(
    config,
    started_with | {"jax": importlib.metadata.version("jax")},
    functools.partial(_reported, main),
    flags.FLAGS.data_dir,
  )


def _shared_out() -> bool:
  """Whether the cells of a study are shared out among runs of their own."""

  def value(name: str, default: Any) -> Any:
    return flags.FLAGS[name].value if name in flags.FLAGS else default

  return value("task_index", -1) >= 0 or value("launcher", "local") != "local"


def _guarded(main: Callable[[], None]) -> None:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # jax logs every missing backend

  def prepared() -> None:
    with interrupts.ending_soon():
      _prepare()
      main()

  _reported(prepared)


def _reported(main: Callable[[], None]) -> None:
  """Runs a command; errors that the user can mend end it in one line."""
  try:
    main()
  except UsageError as error:
    _fail(str(error), USAGE)
  except BrokenPipeError:
    os._exit(FAILURE)  # nobody reads; a second message would fail too
  except (ExperimentError, OSError) as error:
    _fail(str(error), FAILURE)
  except interrupts.Interrupted as error:
    print(f"error: {interrupts.HINT}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.code)  # XLA may be computing still
  except (MemoryError, RuntimeError) as error:
    # XLA's own error is a RuntimeError, and jax may not have been imported.
    if not isinstance(error, MemoryError) and _EXHAUSTED not in str(error):
      raise
    _fail(
      f"out of memory: give fewer images, or a smaller --width, --canvas or"
      f" --batch_size ({str(error)[:200] or 'no more is known'})",
      FAILURE,
    )
  except KeyboardInterrupt:
    _fail(interrupts.HINT, INTERRUPTED)


def _prepare() -> None:
  """Settings of the process that computes."""
  from experiments import compilations
  from models import platform

  platform.keep_freed_memory()
  compilations.keep(flags.FLAGS.compilation_cache)


def workdir(value: str) -> Path:
  """The folder that a flag names.

  Raises:
    UsageError: no name, or that of a file.
  """
  if not value.strip():
    raise UsageError("--workdir is empty: name a folder")
  path = Path(value)
  if path.exists() and not path.is_dir():
    raise UsageError(f"--workdir={value} is not a folder: name another")
  return path


def warn(text: str) -> None:
  """Says something on stderr that does not stop the command."""
  print(f"warning: {text}", file=sys.stderr)


def _fail(message: str, code: int, *, debug: bool = False) -> NoReturn:
  debug = debug or (flags.FLAGS.is_parsed() and flags.FLAGS.debug)
  if debug and sys.exc_info()[0] is not None:
    traceback.print_exc()
  print(f"error: {' '.join(message.split())}", file=sys.stderr)
  sys.exit(code)
