"""The README says what the stored tables and the code say."""

import re
from pathlib import Path

import pytest

from experiments import readme
from experiments.errors import ExperimentError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", readme.DOCUMENTS)
def test_a_document_is_what_its_command_writes(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  assert readme.current(ROOT, name) == text, "run python -m experiments.readme"


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
