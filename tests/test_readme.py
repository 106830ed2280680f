"""The README says what the stored tables and the code say."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from experiments import readme, reporting, store
from experiments.errors import ExperimentError
from experiments.presets import PRESETS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", readme.DOCUMENTS)
def test_a_document_is_what_its_command_writes(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  assert readme.current(ROOT, name) == text, "run python -m experiments.readme"


@pytest.mark.parametrize("name", ["mnist", "quick-mnist"])
def test_stored_verdicts_are_those_of_the_stored_measurements(name, tmp_path):
  folder = ROOT / "results" / name
  found = reporting.judge(reporting.read(folder))
  for file, table in (("claims", found.claims), ("effects", found.effects)):
    store.write_table(tmp_path / f"{file}.csv", table)
    pd.testing.assert_frame_equal(
      store.read_table(folder / f"{file}.csv"),
      store.read_table(tmp_path / f"{file}.csv"),
      check_dtype=False,
      rtol=1e-4,  # stored with six digits
      atol=1e-9,
      obj=f"{name}/{file}.csv: run python -m experiments.report",
    )


def test_every_file_that_the_readmes_show_or_link_is_there():
  for path in (ROOT / "README.md", ROOT / "results" / "README.md"):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
      if not target.startswith("http"):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_a_readme_without_marks_is_refused(tmp_path):
  (tmp_path / "results").symlink_to(ROOT / "results")
  (tmp_path / "README.md").write_text("nothing")
  with pytest.raises(ExperimentError, match="has no part <!-- lead -->"):
    readme.current(tmp_path, "README.md")


def test_the_number_of_seeds_is_the_pilots():
  """As docs/claims.md says: enough for each effect by itself, but for one."""
  lines = readme.DOCUMENTS["docs/claims.md"]["pilot"](ROOT / "results")
  rows = [line.strip("| ").split(" | ") for line in lines.splitlines()[2:]]
  seeds = len(PRESETS["mnist"].seeds)
  alone = {row[1]: int(row[3]) for row in rows}
  more = [label for label, needed in alone.items() if needed > seeds]
  assert more == ["built in: unpooled less pooled, untrained"]
  assert sum(int(row[4]) > seeds for row in rows) > 1


def test_a_changed_measurement_changes_the_readme(tmp_path):
  """Max pooling without its advantage, in a copy of the stored table."""
  (tmp_path / "results" / "mnist").mkdir(parents=True)
  for path in (ROOT / "results").iterdir():
    if path.name != "mnist":
      (tmp_path / "results" / path.name).symlink_to(path)
  for path in (ROOT / "results" / "mnist").iterdir():
    (tmp_path / "results" / "mnist" / path.name).symlink_to(path)
  shutil.copy(ROOT / "README.md", tmp_path)
  assert readme.current(tmp_path, "README.md") == (
    tmp_path / "README.md"
  ).read_text("utf-8")
  name = "results/mnist/measurements.parquet"
  table = store.read_table(ROOT / name)
  changed = (table["layer"] == "logits") & (
    table["measure"] == "invariance_error"
  )
  table.loc[changed, "value"] = 0.3 + 1e-4 * table["seed"][changed]
  (tmp_path / name).unlink()
  store.write_table(tmp_path / name, table)
  readme.judged.cache_clear()
  text = readme.current(tmp_path, "README.md")
  line = "| Max pooling makes a network more invariant | **{}** |"
  assert line.format("equivalent") in text
  assert line.format("supported") in (ROOT / "README.md").read_text("utf-8")
  readme.judged.cache_clear()
