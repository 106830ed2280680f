import dataclasses
import json

import pandas as pd
import pytest

from experiments import measuring, reporting, runs, store, studies, training
from experiments.errors import ExperimentError, UsageError
from experiments.reporting import FIGURES
from tests.experiments.test_measuring import PROMISED

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
    "measurements.parquet",
    "training.csv",
    "summary.csv",
    "summary.md",
    "provenance.json",
  }
  expected |= {
    f"figures/{name}{suffix}" for name in FIGURES for suffix in (".png", ".svg")
  }
  found = {name for name in content(finished.workdir) if "runs/" not in name}
  assert found == expected
  assert len(FIGURES) == 5
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
  assert [model["run"] for model in study["models"]] == RUNS
  # 3x3 kernels and biases of 4 channels; 16 x 16 positions after pooling.
  assert study["models"][0]["parameters"] == 40 + (16 * 16 * 4 + 1) * 10
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
  assert trained == [(RUNS[0], [1]), (RUNS[1], [])]
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
