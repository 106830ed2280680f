"""Strict settings for all tests: they hold what users may switch on."""

import os
import tempfile
from pathlib import Path

from tests import flags

# Before jax is imported.
os.environ.setdefault("XLA_FLAGS", flags.TESTS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one process has compiled, all others of a run of the tests load: pytest's
# workers and the commands that tests start. It goes with the first process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  compiled = tempfile.TemporaryDirectory(prefix="compiled-by-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from jaxtyping import install_import_hook

# Before the hook: Numba compiles plain functions, not checked ones.
import analysis.kernels.linear
import analysis.kernels.maps
import analysis.kernels.tangents
import analysis.kernels.units  # noqa: F401
import tests.checking  # noqa: F401 (the hook finds it by name)

# Shapes and types of public signatures are checked as the tests run.
install_import_hook(["analysis", "models"], "tests.checking.checked")

import hypothesis
import jax
import numpy as np
import pytest

# No test depends on how fast the machine is.
hypothesis.settings.register_profile(
  "untimed",
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Files of minutes: if they came last, one worker would be left alone with them.
_FIRST = (
  "test_ray.py",
  "test_networks.py",
  "test_launchers.py",
  "test_controls_architectures.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  items.sort(key=lambda item: item.path.name not in _FIRST)


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption(
    "--data_dir",
    default="",
    help="folder with the four MNIST .gz files; without it their tests skip",
  )


@pytest.fixture(scope="session")
def mnist_dir(request: pytest.FixtureRequest) -> Path:
  folder = request.config.getoption("--data_dir")
  if not folder:
    pytest.skip("needs --data_dir with the MNIST files")
  return Path(folder).resolve()


@pytest.fixture(scope="session")
def fixtures() -> Path:
  return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
  """Sixteen real digits on a 32-pixel canvas, (16, 32, 32, 1) in [0, 1]."""
  from experiments import datasets
  from experiments.config import DataConfig

  images = datasets.load(DataConfig()).test.images[:480:30]
  return images.astype(np.float32) / 255
