"""Which Pythons and which versions: the lock file, and what CI runs where."""

import os
import re
import shutil
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def lines(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  kept = (re.sub(r"(^| +)#.*", "", line) for line in text.splitlines())
  return [line for line in kept if line and not line.startswith("-r ")]


def locked():
  pairs = (line.split("==") for line in lines("requirements.lock"))
  return {canonicalize_name(name): version for name, version in pairs}


# --- exact versions ----------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_locked_versions_are_in_the_ranges(name):
  versions = locked()
  for line in lines(name):
    wanted = Requirement(line)
    assert versions[canonicalize_name(wanted.name)] in wanted.specifier, line


def test_all_that_is_needed_is_locked():
  """Also what the requirements require, for as long as they are installed."""
  versions, todo = locked(), {"flax", "jax", "pandas", "pytest"}
  seen = set()
  while todo:
    name = todo.pop()
    seen.add(name)
    assert name in versions, f"{name} is missing: make lock"
    for text in metadata.requires(name) or ():
      wanted = Requirement(text)
      if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
        todo |= {canonicalize_name(wanted.name)} - seen
  assert len(seen) > 20


def test_the_lock_names_versions_only_and_no_place():
  text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
  head, *rest = text.splitlines()
  assert re.fullmatch(r"# .* by `make lock` under Python 3\.11", head)
  for line in rest:
    assert re.fullmatch(r"[\w.-]+==[\w.!+-]+", line), line


def make(*arguments):
  return subprocess.run(
    ["make", "--dry-run", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout


def test_locked_environments_are_made_of_locked_versions():
  command = "-m pip install --quiet -r requirements.txt"
  usual = make("venv", "VENV=nowhere")
  exact = make("venv", "VENV=nowhere", "LOCKED=1")
  assert f"{command} \n" in usual
  assert f"{command} -c requirements.lock\n" in exact
  # The one is made anew after the other, not taken for it.
  assert "touch nowhere/.run\n" in usual
  assert "touch nowhere/.run-locked\n" in exact


# --- several Pythons ---------------------------------------------------------

PYENV = ".pyenv/versions/3.13.0/bin/python"
_TOOLS = ("bash", "dirname", "env", "grep", "id", "sort")


@pytest.fixture
def machine(tmp_path):
  """A machine with only the Pythons named, each a fake, and a fake make."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for tool in _TOOLS:
    found = shutil.which(tool)
    assert found
    (folder / tool).symlink_to(found)
  (tmp_path / "project" / ".ci").mkdir(parents=True)
  for name in (".ci/run", ".ci/pythons", "pyproject.toml"):
    shutil.copy(ROOT / name, tmp_path / "project" / name)

  def script(name, text):
    path = (tmp_path if "/" in name else folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(stat.S_IRWXU)

  def call(command, pythons):
    for name, version in pythons.items():
      # What is asked for names the version that is wanted.
      script(name, f'[[ "$2" == *"\'{version}\'"* ]]')
    script("make", 'echo "make $*"')
    script("chromedriver", "")
    return subprocess.run(
      [str(tmp_path / "project" / ".ci" / command)],
      env={"PATH": str(folder), "HOME": str(tmp_path)},
      capture_output=True,
      text=True,
      check=False,
    )

  return call


@pytest.mark.parametrize(
  ("pythons", "chosen"),
  [
    ({"python3.11": "3.11"}, ["python3.11"]),
    ({"python3.11": "3.11", "python3": "3.11"}, ["python3.11"]),
    ({"python3": "3.12"}, ["python3"]),
    ({"python3.11": "3.11", "python3": "3.13"}, ["python3.11", "python3"]),
    (
      {f"python3.{minor}": f"3.{minor}" for minor in (9, 10, 11, 12, 14)},
      ["python3.11", "python3.14"],
    ),
    # Newer than is supported, and one without ensurepip.
    ({"python3.12": "3.12", "python3.15": "3.15"}, ["python3.12"]),
    ({"python3.12": "3.12", "python3.13": "none"}, ["python3.12"]),
    # Not on PATH, but installed by pyenv.
    ({"python3.11": "3.11", PYENV: "3.13"}, ["python3.11", PYENV]),
    ({"python3.13": "3.13", PYENV: "3.13"}, ["python3.13"]),
  ],
)
def test_the_oldest_and_the_newest_python_are_chosen(
  machine, pythons, chosen, tmp_path
):
  result = machine("pythons", pythons)
  assert result.returncode == 0, result.stderr
  assert result.stdout.replace(f"{tmp_path}/", "").split() == chosen


def test_without_a_supported_python_nothing_is_run(machine):
  result = machine("run", {"python3": "3.9", "python3.10": "3.10"})
  assert result.returncode == 1
  assert "no Python that pyproject.toml names" in result.stderr
  assert "make" not in result.stdout


def test_the_newest_python_runs_a_part_of_the_tests(machine):
  result = machine("run", {"python3.11": "3.11", "python3.13": "3.13"})
  assert result.returncode == 0, result.stderr
  venv, lint, test, short = result.stdout.splitlines()
  for line, target in ((venv, "venv"), (lint, "lint"), (test, "test")):
    assert line == f"make {target} PYTHON=python3.11"
  assert short.startswith("make test VENV=.venv-newest PYTHON=python3.13 ARGS=")
  files = re.findall(r"tests/\S+", short)
  assert len(files) > 5
  for file in files:
    assert (ROOT / file).exists(), file


def test_a_single_python_is_said_to_be_the_only_one(machine):
  result = machine("run", {"python3.12": "3.12"})
  assert result.returncode == 0, result.stderr
  *made, last = result.stdout.splitlines()
  assert len(made) == 3
  assert last == (
    "python3.12 is the only supported Python here: no other was tested"
  )


def test_this_python_is_supported():
  text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
  known = re.findall(r"Python :: (3\.\d+)", text)
  assert "{}.{}".format(*os.sys.version_info[:2]) in known
