"""What a command costs before its work: imports, and compiling once only."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parents[1]

# Each takes longer to import than all of --help may take.
HEAVY = {"jax", "flax", "numpy", "scipy", "pandas", "matplotlib", "numba"}

COMMANDS = sorted(
  path.stem
  for path in (ROOT / "experiments").glob("*.py")
  if "\n  cli.run(main" in path.read_text(encoding="utf-8")
)


def python(*arguments, **environment):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )


def test_the_commands_are_found():
  assert {"train", "measure", "study", "report", "benchmark"} <= set(COMMANDS)


@pytest.mark.parametrize("argument", ["--help", "--no_such_flag=1"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_a_wrong_flag_import_nothing_heavy(name, argument):
  result = python("-X", "importtime", "-m", f"experiments.{name}", argument)
  assert result.returncode == (0 if argument == "--help" else 2)
  imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.M))
  assert "absl.app" in imported  # or the next line says nothing
  assert not HEAVY & {module.partition(".")[0] for module in imported}
  if argument == "--help":
    assert "Question:" in result.stdout
    assert "--compilation_cache:" in result.stdout


# --- compiled programs are kept ----------------------------------------------

_COMPILE = """
import collections, json, sys
import jax
from experiments import compilations
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name]))
compilations.keep(*sys.argv[1:])
assert jax.jit(lambda x: 2 * x + 1)(3.0) == 7
print(json.dumps(seen))
"""


def compiled(*arguments, **environment):
  """Programs read from a cache, and compiled and written, and stderr."""
  environment = {"JAX_COMPILATION_CACHE_DIR": "", **environment}
  result = python("-c", _COMPILE, *arguments, **environment)
  assert result.returncode == 0, result.stderr
  seen = json.loads(result.stdout)
  prefix = "/jax/compilation_cache/cache_"
  hits, misses = (seen.get(prefix + name, 0) for name in ("hits", "misses"))
  return hits, misses, result.stderr


@pytest.mark.parametrize("way", ["default", "flag", "variable"])
def test_a_second_process_compiles_nothing(way, tmp_path):
  arguments, environment = [], {"XDG_CACHE_HOME": str(tmp_path / "user")}
  folder = tmp_path / "user" / "partial-invariance"
  if way == "flag":
    folder = tmp_path / "mine"
    arguments = [str(folder)]
  elif way == "variable":
    folder = tmp_path / "told"
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  hits, misses, stderr = compiled(*arguments, **environment)
  assert (hits, stderr) == (0, "")
  assert misses > 0
  assert [p for p in folder.rglob("*") if p.is_file()]
  assert [p.name for p in tmp_path.iterdir()] == [
    folder.relative_to(tmp_path).parts[0]
  ]
  assert compiled(*arguments, **environment) == (misses, 0, "")


def test_without_a_cache_nothing_is_written(tmp_path):
  assert compiled("none", XDG_CACHE_HOME=str(tmp_path)) == (0, 0, "")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "variable", ["XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"]
)
def test_a_folder_that_cannot_be_written_is_a_warning(variable, tmp_path):
  (tmp_path / "file").write_text("in the way")
  folder = str(tmp_path / "file")
  hits, misses, stderr = compiled(**{variable: folder})
  assert (hits, misses) == (0, 0)
  assert re.fullmatch(
    rf"warning: compiled programs are not kept, {folder}\S* cannot be written"
    r" \([\w ]+\): give another --compilation_cache, or none\n",
    stderr,
  )


# --- no program is compiled twice --------------------------------------------

_STUDY = """
import collections, dataclasses, json, sys
import jax
from experiments import compilations, datasets, presets, studies
from pathlib import Path
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name]))
jax.monitoring.register_event_duration_secs_listener(
  lambda name, _, **__: seen.update([name])
)
workdir, changes, models = Path(sys.argv[1]), *map(json.loads, sys.argv[2:4])
compilations.keep(str(workdir / "compiled"))
if sys.argv[4:]:
  studies.collect = lambda *_: None
study = dataclasses.replace(
  presets.build("quick", {**changes, "seeds": (0, 1)}),
  cells=tuple(presets.Cell(name, model) for name, model in models.items()),
)
studies.run_study(study, datasets.load(study.data), workdir / "results")
print(json.dumps(seen))
"""

_TINY = {
  "width": 4,
  "epochs": 2,
  "batch_size": 60,
  "train_examples": 128,
  "test_examples": 40,
  "transforms": "translation:2,rotation:5/15,scaling:x1.1/x1.2",
  "shift_map": "2:2",
  "measure_examples": 12,
  "strategy": "loop",
}


def compiled_by_a_study(workdir, changes, models, *options):
  """Programs compiled, and those of them that were compiled before.

  The cache was empty before the process: a program that is found in it is one
  that the process has compiled itself.
  """
  arguments = [json.dumps(part) for part in (_TINY | changes, models)]
  arguments += options
  environment = {"JAX_COMPILATION_CACHE_DIR": ""}
  result = python("-c", _STUDY, str(workdir), *arguments, **environment)
  assert result.returncode == 0, result.stderr
  seen = json.loads(result.stdout)
  programs = seen["/jax/core/compile/backend_compile_duration"]
  again = seen.get("/jax/compilation_cache/cache_hits", 0)
  assert programs == again + seen["/jax/compilation_cache/cache_misses"]
  return programs, again


def test_a_study_compiles_no_program_twice(tmp_path):
  """Two networks, two seeds, two stages, four orbits."""
  networks = {n: {"model": "mlp", "depth": d} for n, d in [("a", 1), ("b", 2)]}
  programs, again = compiled_by_a_study(tmp_path, {}, networks, "no tables")
  assert programs > 20  # or nothing was counted
  assert again == 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_a_study_of_all_measures_compiles_no_program_twice(strategy, tmp_path):
  networks = {
    pooling: {"pooling": pooling, "depth": 2} for pooling in ("max", "none")
  }
  changes = {"measures": "all", "strategy": strategy}
  programs, again = compiled_by_a_study(tmp_path, changes, networks)
  assert programs > 40
  assert again == 0
