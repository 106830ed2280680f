import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import experiments
from analysis import claims
from experiments import reporting, store
from experiments.checksums import Sums
from experiments.errors import ExperimentError
from tests.experiments.test_studies import COUNTED, TESTED, content

ROOT = Path(experiments.__file__).parents[1]

WRITTEN = (
  *("claims.csv", "effects.csv", "effect_values.csv", "controls.csv"),
  *("summary.csv", "summary.md", "report.html"),
)


def test_a_report_restores_every_byte_without_loading_a_network(copied):
  """In a process of its own, to see what it imports."""
  before = content(copied.workdir)
  shutil.rmtree(copied.workdir / "figures")
  for name in WRITTEN:
    (copied.workdir / name).unlink()
  code = (
    "import atexit, runpy, sys\n"
    "atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))\n"
    "runpy.run_module('experiments.report', run_name='__main__')\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code, f"--workdir={copied.workdir}"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  *written, last = result.stdout.splitlines()
  assert last == str(copied.workdir)
  figures = 6 + len(COUNTED) + len(TESTED)
  assert len(written) == 2 * figures + len(WRITTEN)
  assert content(copied.workdir) == before
  assert "'pandas'" in result.stderr  # or the next lines say nothing
  for module in ("flax", "models.cnn", "experiments.training", "optax"):
    assert f"'{module}'" not in result.stderr


def test_pictures_are_pictures(finished):
  for name in reporting.FIGURES:
    path = finished.workdir / "figures" / name
    png = path.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    assert "</svg>" in path.with_suffix(".svg").read_text()


def test_the_summary_table_has_intervals_over_seeds(finished):
  table = store.read_table(finished.workdir / "measurements.parquet")
  summary = store.read_table(finished.workdir / "summary.csv")
  row = summary[
    (summary["run"] == "cnn-max-d1-w4-k3-same-dense")
    & (summary["stage"] == "trained")
    & (summary["layer"] == "logits")
    & (summary["orbit"] == "rotation")
    & (summary["dose"] == 15)
    & (summary["measure"] == "invariance_error")
  ]
  assert len(row) == 1
  values = (
    table[
      (table["run"] == "cnn-max-d1-w4-k3-same-dense")
      & (table["stage"] == "trained")
      & (table["layer"] == "logits")
      & (table["orbit"] == "rotation")
      & (table["magnitude"] == 15)
      & (table["measure"] == "invariance_error")
    ]
    .groupby("seed")["value"]
    .mean()
  )
  assert row["n_seeds"].item() == len(values) == 2
  assert row["mean"].item() == pytest.approx(values.mean(), rel=1e-5)
  # Student's t with one degree of freedom.
  half = 12.7062 * abs(values[0] - values[1]) / 2
  assert row["low"].item() == pytest.approx(values.mean() - half, abs=1e-4)
  assert row["high"].item() == pytest.approx(values.mean() + half, abs=1e-4)


def test_the_short_summary_says_what_ran(finished):
  text = (finished.workdir / "summary.md").read_text()
  curves = store.read_table(finished.workdir / "training.csv")
  accuracy = curves["test_accuracy"][:2].mean() * 100
  assert text.startswith("# quick: digits\n")
  assert "2 networks, seeds 0, 1; 200 training and 60 test images" in text
  line = next(li for li in text.splitlines() if li.startswith("| max pooling"))
  assert f"| 10,290 | {accuracy:.2f} (" in line
  for name in reporting.FIGURES:
    assert f"(figures/{name}.png)" in text
  for dose in ("translation by 2 px", "rotation by 15°", "factor 1.2"):
    assert dose in text


def test_the_report_follows_the_tables(copied):
  """Fewer seeds, and neither sensitivity map nor consistency."""
  before = content(copied.workdir)
  shutil.rmtree(copied.workdir / "figures")
  path = copied.workdir / "measurements.parquet"
  table = store.read_table(path)
  kept = (table["seed"] == 0) & (table["orbit"] != "translation_map")
  kept &= table["measure"] != "consistency"
  store.write_table(path, table[kept], record=Sums(copied.workdir).record)
  written = {path.name for path in reporting.write_report(copied.workdir)}
  names = ("invariance_by_layer", "dose_response", "measures_by_layer")
  names += ("training_curves",)
  names += tuple(f"claim_{name}" for name in (*COUNTED, *TESTED))
  assert written == {
    *WRITTEN,
    *(f"{name}{suffix}" for name in names for suffix in (".png", ".svg")),
  }
  after = content(copied.workdir)
  for name in ("summary.csv", "summary.md", "figures/dose_response.png"):
    assert after[name] != before[name]
  unchanged = "figures/training_curves.png"
  assert after[unchanged] == before[unchanged]
  assert "sensitivity_map" not in (copied.workdir / "summary.md").read_text()


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("measurements.parquet", "holds no measurements.parquet: give the --work"),
    ("training.csv", r"training\.csv cannot be read"),
    ("networks.csv", r"networks\.csv cannot be read"),
    ("exact.csv", r"exact\.csv cannot be read"),
    ("provenance.json", r"provenance\.json cannot be read"),
  ],
)
def test_a_missing_table_is_named(copied, name, message):
  (copied.workdir / name).unlink()
  with pytest.raises(ExperimentError, match=message):
    reporting.write_report(copied.workdir)


def test_a_damaged_table_is_named(copied):
  path = copied.workdir / "measurements.parquet"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(
    ExperimentError, match=r"measurements\.parquet is damaged"
  ):
    reporting.write_report(copied.workdir)


def test_numbers_of_the_summary_have_six_digits(finished):
  text = (finished.workdir / "summary.csv").read_text()
  summary = pd.read_csv(finished.workdir / "summary.csv", dtype=str)
  assert "e" in text
  for value in summary["mean"].dropna():
    mantissa = value.split("e")[0].lstrip("-0.").replace(".", "")
    assert len(mantissa) <= 6


def test_the_verdict_table_is_complete(finished):
  table = store.read_table(finished.workdir / "claims.csv")
  assert list(table.columns[:9]) == [
    *("claim", "statement", "verdict", "effect", "low", "high", "p_holm"),
    *("n_seeds", "figure"),
  ]
  assert list(table["claim"]) == [claim.id for claim in claims.CLAIMS]
  verdict = dict(zip(table["claim"], table["verdict"], strict=True))
  exact = [claim.id for claim in claims.CLAIMS if claim.exact]
  assert [verdict[name] for name in exact] == ["supported"] * 3
  notes = dict(zip(table["claim"], table["note"], strict=True))
  # Rotations go to 15 degrees here, which moves content by less than 2 px.
  assert verdict["translation-first"] == "inconclusive"
  assert notes["translation-first"].endswith("undefined: the grid ends before")
  rest = set(verdict) - {*exact, *TESTED, "translation-first"}
  for name in rest:
    assert verdict[name] == "not tested"
    tested_by = r"^no .*: --preset=(mnist|quick) tests it$"
    assert re.search(tested_by, notes[name])
  for name in TESTED:
    assert verdict[name] != "not tested"


def test_a_changed_value_changes_the_verdict(copied):
  path = copied.workdir / "measurements.parquet"
  table = store.read_table(path)
  unpooled = table["run"].str.contains("none")
  logits = (table["layer"] == "logits") & (table["stage"] == "trained")
  error = table["measure"] == "invariance_error"
  seeds = table["seed"].to_numpy()

  def verdict_with(added):
    value = table["value"].where(
      ~(unpooled & logits & error), 0.5 + added + 1e-4 * seeds
    )
    value = value.where(~(~unpooled & logits & error), 0.5)
    store.write_table(
      path, table.assign(value=value), record=Sums(copied.workdir).record
    )
    found = reporting.judge(reporting.read(copied.workdir)).claims
    return found.set_index("claim")["verdict"]["max-pooling-helps"]

  assert verdict_with(0.3) == "supported"
  assert verdict_with(0.0) == "equivalent"
  assert verdict_with(-0.3) == "refuted"
  reporting.write_report(copied.workdir)
  found = store.read_table(copied.workdir / "claims.csv")
  assert found.set_index("claim")["verdict"]["max-pooling-helps"] == "refuted"


def test_controls_of_the_run_are_stored(finished):
  table = store.read_table(finished.workdir / "controls.csv")
  assert table["holds"].all()
  assert {"the identity: invariance error, all networks and layers"} <= set(
    table["control"]
  )


def test_a_failing_control_is_said_aloud(copied, capsys):
  path = copied.workdir / "measurements.parquet"
  table = store.read_table(path)
  still = (table["magnitude"] == 0) & (table["theta"] != "all")
  rows = table.index[still & (table["measure"] == "invariance_error")]
  table.loc[rows[0], "value"] = 0.25
  store.write_table(path, table, record=Sums(copied.workdir).record)
  reporting.write_report(copied.workdir)
  message = capsys.readouterr().err
  assert "warning: control fails" in message
  assert "is 0.25, expected at most 0.0001" in message


def test_a_study_of_an_older_format_is_refused(copied):
  path = copied.workdir / "provenance.json"
  provenance = store.read_json(path)
  del provenance["study"]["cells"]
  store.write_json(path, provenance, record=Sums(copied.workdir).record)
  with pytest.raises(ExperimentError, match="not a study of this version: 'ce"):
    reporting.write_report(copied.workdir)
