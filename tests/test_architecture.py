"""Data flows models -> analysis -> experiments, and imports only so."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "analysis", "experiments")


def _imports(folder):
  """(file, top-level package) of every import, wherever it stands."""
  found = set()
  for path in (ROOT / folder).rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path} imports relatively"
        names = [node.module or ""]
      found |= {(path.name, name.partition(".")[0]) for name in names}
  return found


@pytest.mark.parametrize(
  ("folder", "barred"),
  [
    ("models", {"analysis", "experiments", "tests"}),
    (
      "analysis",
      {"flax", "experiments", "tests", "sklearn", "tensorflow_datasets"},
    ),
    ("experiments", {"tests"}),
  ],
)
def test_nothing_on_the_left_imports_from_the_right(folder, barred):
  imports = _imports(folder)
  assert imports
  assert not {(file, name) for file, name in imports if name in barred}


def test_only_models_know_flax():
  users = {file for file, name in _imports("experiments") if name == "flax"}
  assert users <= {"training.py", "workloads.py"}  # a peer is stock flax


def test_measuring_runs_without_flax_being_loaded():
  code = (
    "import sys, numpy as np\n"
    "from analysis.orbits import measure\n"
    "x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1))\n"
    "t = measure(lambda x: (x, {'x': x}), x.astype('f4'),\n"
    "            {'rotation': [0, 9]}, ['invariance_error'])\n"
    "assert len(t) == 2\n"
    "assert 'flax' not in sys.modules, 'flax is loaded'\n"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_outgrows_its_room(folder):
  for path in (ROOT / folder).rglob("*.py"):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 450, f"{path.name} has {lines} lines: split it"
