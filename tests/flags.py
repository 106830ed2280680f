"""XLA's flags in tests."""

import os

_DEVICES = "--xla_force_host_platform_device_count"

# Two simulated devices. And most of the tests' time is compiling programs that
# run once: at this level XLA is faster, and they compute the same to rounding.
# What users have, its default, have commands that tests start without flags,
# and in `.ci/run` the tests under the newest Python.
TESTS = f"{_DEVICES}=2 --xla_backend_optimization_level=1"


def on_one_device() -> str:
  """This process's flags, but for its simulated devices."""
  flags = os.environ["XLA_FLAGS"].split()
  return " ".join(f for f in flags if not f.startswith(_DEVICES))
