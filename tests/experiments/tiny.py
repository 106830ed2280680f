"""A study of two shallow networks, for tests: seconds, not minutes.

As a program it is `experiments.study` with that study for the quick preset:

  python -m tests.experiments.tiny --workdir=DIR
"""

import dataclasses
import sys

from experiments import presets
from experiments.presets import Study

CHANGES = {
  "width": 4,
  "epochs": 1,
  "train_examples": 200,
  "test_examples": 60,
  # Five elements each: orbits of one size share a compiled program.
  "transforms": "translation:2,rotation:5/15,scaling:x1.1/x1.2",
  "shift_map": "2:2",
  "measure_examples": 16,
  "strategy": "loop",
  "seeds": (0, 1),
}


def study() -> Study:
  """The quick preset: 200 images, one epoch, two seeds, two networks."""
  return _shallow(presets.build("quick", CHANGES))


def _shallow(study: Study) -> Study:
  """The shallow half, by the names of the deep one, which claims are about.

  Deep networks take long to compile.
  """
  cells = tuple(
    dataclasses.replace(cell, name=cell.name.removeprefix("shallow "))
    for cell in study.cells
    if cell.name.startswith("shallow ")
  )
  names = tuple(cell.name for cell in cells)
  return dataclasses.replace(study, cells=cells, overview=names)


def _main() -> None:
  from experiments import cli, study

  presets.PRESETS["quick"] = _shallow(presets.PRESETS["quick"])
  changes = CHANGES | {"seeds": len(CHANGES["seeds"])}
  sys.argv[1:1] = [f"--{name}={value}" for name, value in changes.items()]
  cli.run(study.main)


if __name__ == "__main__":
  _main()
