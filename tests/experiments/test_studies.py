import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from analysis import filters
from analysis.claims import CLAIMS
from experiments import (
  exact,
  measuring,
  presets,
  reporting,
  runs,
  store,
  studies,
  training,
)
from experiments.cells import plan
from experiments.errors import ExperimentError, UsageError
from experiments.reporting import FIGURES
from tests.experiments.test_measuring import PROMISED

# Those of the claims that need no more than two networks of depth 1.
TESTED = ("invariant-only-partly", "max-pooling-helps")
COUNTED = tuple(claim.id for claim in CLAIMS if claim.exact)

RUNS = ["cnn-max-d1-w4-k3-same-dense", "cnn-none-d1-w4-k3-same-dense"]


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def forbidden(*args, **kwargs):
  raise AssertionError("this was done already")


@pytest.fixture
def no_report(monkeypatch):
  """Saves the seconds that drawing takes."""
  monkeypatch.setattr(reporting, "write_report", lambda workdir: [])


@pytest.fixture
def nothing_to_do(monkeypatch):
  """Training and measuring fail."""
  monkeypatch.setattr(training, "train", forbidden)
  monkeypatch.setattr(measuring, "measure_network", forbidden)


def test_a_study_leaves_all_its_results(finished):
  expected = {
    *("measurements.parquet", "training.csv", "networks.csv", "exact.csv"),
    *("claims.csv", "effects.csv", "effect_values.csv", "controls.csv"),
    *("summary.csv", "summary.md", "provenance.json", "report.html"),
    "SHA256SUMS",
  }
  claims = [f"claim_{name}" for name in (*COUNTED, *TESTED)]
  expected |= {
    f"figures/{name}{suffix}"
    for name in [*FIGURES, *claims]
    for suffix in (".png", ".svg")
  }
  found = {name for name in content(finished.workdir) if "runs/" not in name}
  assert found == expected
  assert len(FIGURES) == 6
  assert sorted(p.name for p in (finished.workdir / "runs").iterdir()) == RUNS


def test_a_run_folder_holds_what_it_should(finished):
  for name in RUNS:
    assert set(content(finished.workdir / "runs" / name)) == {
      "config.json",
      "provenance.json",
      "metrics.jsonl",
      "measurements.parquet",
      "measurements/config.json",
      "seconds.json",
      "SHA256SUMS",
      *(
        f"{folder}/seed{seed}_{stage}.{suffix}"
        for folder, suffix in (("params", "npz"), ("measurements", "parquet"))
        for seed in (0, 1)
        for stage in ("init", "trained")
      ),
    }


def test_metrics_have_exactly_the_promised_keys(finished):
  for name in RUNS:
    path = finished.workdir / "runs" / name / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["seed"], line["epoch"]) for line in lines] == [(0, 1), (1, 1)]
    for line in lines:
      assert list(line) == [
        "seed",
        "epoch",
        "step",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "images_per_second",
      ]
      assert line["step"] == 3  # 200 images in batches of 64
      assert 0 <= line["test_accuracy"] <= 1


def test_the_table_holds_every_run_seed_stage_and_orbit(finished):
  table = store.read_table(finished.workdir / "measurements.parquet")
  assert set(PROMISED.split()) <= set(table.columns)
  families = ["rotation", "scaling", "translation"]
  orbits = {"init": families, "trained": [*families, "translation_map"]}
  found = table[["run", "seed", "stage", "orbit"]].drop_duplicates()
  assert sorted(found.itertuples(index=False, name=None)) == [
    (run, seed, stage, orbit)
    for run in RUNS
    for seed in (0, 1)
    for stage in ("init", "trained")
    for orbit in orbits[stage]
  ]
  assert set(table["dataset"]) == {"digits"}
  assert set(table["pooling"]) == {"max", "none"}
  assert set(table["n_images"]) == {16}
  assert not table.duplicated(
    ["run", "seed", "stage", "orbit", "theta", "layer", "measure"]
  ).any()


def test_training_curves_are_the_runs_metrics(finished):
  curves = store.read_table(finished.workdir / "training.csv")
  assert list(curves["run"]) == [RUNS[0]] * 2 + [RUNS[1]] * 2
  path = finished.workdir / "runs" / RUNS[1] / "metrics.jsonl"
  lines = pd.read_json(path, lines=True)
  for name in ("train_loss", "test_accuracy"):
    assert list(curves[name][2:]) == pytest.approx(list(lines[name]))


def test_provenance_has_the_study_but_no_path(finished):
  text = (finished.workdir / "provenance.json").read_text()
  study = json.loads(text)["study"]
  assert study["preset"] == "quick"
  assert study["seeds"] == [0, 1]
  assert study["measure"]["transforms"] == finished.study.measure.transforms
  assert [cell["cell"] for cell in study["cells"]] == ["pooled", "unpooled"]
  assert [cell["run"] for cell in study["cells"]] == RUNS
  assert study["overview"] == ["pooled", "unpooled"]
  # 3x3 kernels and biases of 4 channels; 16 x 16 positions after pooling.
  assert study["cells"][0]["parameters"] == 40 + (16 * 16 * 4 + 1) * 10
  assert "data_dir" not in text
  assert str(finished.workdir.parent) not in text


@pytest.mark.usefixtures("nothing_to_do")
def test_a_rerun_does_nothing_and_leaves_the_same_bytes(copied):
  before = content(copied.workdir)
  studies.run_study(copied.study, copied.dataset, copied.workdir)
  assert content(copied.workdir) == before


@pytest.mark.usefixtures("nothing_to_do", "no_report")
def test_fewer_seeds_are_a_part_of_the_study(copied):
  study = dataclasses.replace(copied.study, seeds=(1,))
  studies.run_study(study, copied.dataset, copied.workdir)
  table = store.read_table(copied.workdir / "measurements.parquet")
  assert set(table["seed"]) == {1}
  curves = store.read_table(copied.workdir / "training.csv")
  assert set(curves["seed"]) == {1}


@pytest.mark.usefixtures("no_report")
def test_only_a_lost_part_is_measured_again(copied, monkeypatch):
  monkeypatch.setattr(training, "train", forbidden)
  path = copied.workdir / "runs" / RUNS[1] / "measurements/seed1_init.parquet"
  before = store.read_table(path)
  path.unlink()
  measured = []
  measure = measuring.measure_network

  def counted(model, params, dataset, config, stage, **options):
    measured.append(stage)
    return measure(model, params, dataset, config, stage, **options)

  monkeypatch.setattr(measuring, "measure_network", counted)
  studies.run_study(copied.study, copied.dataset, copied.workdir)
  assert measured == ["init"]
  pd.testing.assert_frame_equal(store.read_table(path), before)


@pytest.mark.usefixtures("no_report")
def test_a_lost_seed_is_trained_again_to_the_same_parameters(
  copied, monkeypatch
):
  folder = copied.workdir / "runs" / RUNS[0]
  path = folder / "params" / "seed1_trained.npz"
  before = path.read_bytes()
  path.unlink()
  trained = []
  train = runs.train

  def noted(run, dataset, seeds, bar):
    trained.append((run.name, list(seeds)))
    train(run, dataset, seeds, bar)

  monkeypatch.setattr(runs, "train", noted)
  studies.run_study(copied.study, copied.dataset, copied.workdir)
  assert trained == [(RUNS[0], [1])]
  assert path.read_bytes() == before


@pytest.mark.usefixtures("nothing_to_do")
@pytest.mark.parametrize(
  ("section", "field", "value"),
  [("train", "epochs", 2), ("data", "canvas", 40)],
)
def test_a_study_with_other_flags_needs_another_folder(
  copied, section, field, value
):
  before = content(copied.workdir)
  part = dataclasses.replace(getattr(copied.study, section), **{field: value})
  study = dataclasses.replace(copied.study, **{section: part})
  message = f"{section}.{field}=.*, not {value}: use another --workdir"
  with pytest.raises(ExperimentError, match=message):
    studies.run_study(study, copied.dataset, copied.workdir)
  assert content(copied.workdir) == before


@pytest.mark.usefixtures("nothing_to_do")
def test_what_cannot_be_measured_is_refused_before_training(finished, tmp_path):
  measure = dataclasses.replace(finished.study.measure, measure_examples=61)
  study = dataclasses.replace(finished.study, measure=measure)
  with pytest.raises(UsageError, match="--measure_examples=61"):
    studies.run_study(study, finished.dataset, tmp_path / "results")
  assert not (tmp_path / "results").exists()


def tree(folder):
  return sorted(folder.rglob("*"))


@pytest.mark.usefixtures("nothing_to_do")
def test_a_dry_run_says_what_is_done_and_writes_nothing(copied, tmp_path):
  fresh = tmp_path / "fresh"
  text = studies.dry_run(copied.study, copied.dataset, fresh)
  assert not fresh.exists()
  first, _, last = text.splitlines()
  assert first.startswith("pooled ")
  assert f"{RUNS[0]} " in first
  assert "trained 0/2, measured 0/4," in first
  assert last.startswith("2 cells, seeds 0, 1: about ")
  before, files = content(copied.workdir), tree(copied.workdir)
  more = dataclasses.replace(copied.study, seeds=(0, 1, 2))
  text = studies.dry_run(more, copied.dataset, copied.workdir)
  assert "trained 2/3, measured 4/6," in text.splitlines()[0]
  other = dataclasses.replace(copied.study.measure, measure_examples=8)
  study = dataclasses.replace(copied.study, measure=other)
  text = studies.dry_run(study, copied.dataset, copied.workdir)
  assert "trained 2/2, measured 0/4," in text.splitlines()[0]
  assert content(copied.workdir) == before
  assert tree(copied.workdir) == files


def test_a_cell_gets_another_ones_number_of_parameters(small, tmp_path):
  study = presets.build("mnist", {"dataset": "digits", "measure_examples": 16})
  names = ("depth 4", "depth 2, matched", "depth 6, matched")
  cells = tuple(cell for cell in study.cells if cell.name in names)
  study = dataclasses.replace(study, cells=cells)
  planned = plan(study, small, tmp_path / "results")
  counts = [
    sum(cell.run.model.parameter_counts(32).values()) for cell in planned
  ]
  assert counts[1:] == pytest.approx([counts[0]] * 2, rel=0.05)
  assert [cell.run.config.depth for cell in planned] == [4, 2, 6]
  assert not (tmp_path / "results").exists()


def test_a_width_that_matches_nothing_names_the_cell(small, tmp_path):
  study = presets.build("mnist", {"dataset": "digits", "measure_examples": 16})
  one = presets.Cell("small", {"depth": 1, "width": 1, "head": "gap"})
  two = presets.Cell("other", {"depth": 4, "head": "gap"}, match="small")
  study = dataclasses.replace(study, cells=(one, two))
  with pytest.raises(UsageError, match="cell 'other': no width gives"):
    plan(study, small, tmp_path)


def test_cells_that_flags_make_the_same_are_refused(finished, tmp_path):
  cells = tuple(
    dataclasses.replace(cell, model={"depth": 1})
    for cell in finished.study.cells
  )
  study = dataclasses.replace(finished.study, cells=cells)
  with pytest.raises(UsageError, match="'pooled' and 'unpooled' are the same"):
    plan(study, finished.dataset, tmp_path)


def test_networks_are_described_one_a_row(finished):
  table = store.read_table(finished.workdir / "networks.csv")
  assert list(table["cell"]) == ["pooled"] * 4 + ["unpooled"] * 4
  trained = table[table["stage"] == "trained"]
  curves = store.read_table(finished.workdir / "training.csv")
  accuracy = 100 * curves["test_accuracy"]
  assert list(trained["test_accuracy"]) == pytest.approx(list(accuracy))
  assert table["test_accuracy"][table["stage"] == "init"].isna().all()
  # 3x3 filters have hardly more weights than an edge detector parameters.
  assert table["edge_detectors"].isna().all()


def test_first_filters_are_counted_where_they_are_wide_enough():
  edge = filters.derivative_of_gaussian(5, 30.0, 1.0)
  noise = np.random.default_rng(1).normal(size=(5, 5))
  kernel = np.stack([edge, noise], axis=-1)[:, :, None]
  level = filters.random_level(5)
  assert filters.fit_edge(noise).r_squared < level  # or the next says nothing
  share = studies.edge_detectors({"conv1": {"kernel": kernel}})
  assert share == 0.5


def test_exact_checks_come_out_as_claimed():
  table = exact.table()
  assert set(table["check"]) == {
    "parameters",
    "output size",
    "pooling parameters",
  }
  assert list(table["expected"]) == list(table["obtained"])
  assert {208, 7840, 28} <= set(table["expected"])
  assert table["counted"].max() == 225
