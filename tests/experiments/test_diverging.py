"""Training that explodes: found, recorded, left out, said, and not retried."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import (
  datasets,
  diverging,
  presets,
  reporting,
  runs,
  store,
  studies,
  training,
)
from experiments.cells import plan
from experiments.config import TrainConfig
from experiments.diverging import Divergence, NonFiniteLossError
from experiments.errors import ExperimentError
from experiments.presets import Cell
from experiments.run_folder import RunFolder

EXPLOSIVE = {"optimizer": "sgd", "schedule": "constant", "learning_rate": 1e30}
NAN, INF = float("nan"), float("inf")
TINY = (
  *("--model=mlp", "--depth=1", "--width=8", "--strategy=loop"),
  *("--train_examples=256", "--test_examples=96", "--batch_size=60"),
)


@pytest.mark.parametrize(
  ("losses", "test", "expected"),
  [
    ([1.0, 2.0, 3.0], 1.0, None),
    ([1.0, INF, NAN], NAN, (7, 2, 5, 0.1, "inf", "train")),
    ([NAN, 1.0, 1.0], 1.0, (7, 2, 4, 0.1, "nan", "train")),
    ([1.0, 1.0, -INF], NAN, (7, 2, 6, 0.1, "-inf", "train")),
    ([1.0, 1.0, 1.0], NAN, (7, 2, 6, 0.1, "nan", "test")),
  ],
)
def test_the_first_step_that_is_not_finite_is_named(losses, test, expected):
  lines, tests = np.array([[1.0] * 3, losses]), np.array([1.0, test])
  found = diverging.find(lines, tests, [3, 7], 2, 0.1)
  assert found == ([Divergence(*expected)] if expected else [])


@pytest.fixture
def hot_seed(monkeypatch):
  """Seed 1 starts from parameters so large that its loss overflows."""
  make_trainer = training.make_trainer

  def hot(*args):
    trainer = make_trainer(*args)

    def create_train_state(seeds):
      state = trainer.create_train_state(seeds)
      factor = 1 + 1e38 * (seeds == 1).astype("float32")
      scaled = jax.tree.map(
        lambda a: (
          a * factor.reshape(factor.shape + (1,) * (a.ndim - 1))
          if factor.ndim
          else a * factor
        ),
        state.params,
      )
      return state._replace(params=scaled)

    return trainer._replace(create_train_state=create_train_state)

  monkeypatch.setattr(training, "make_trainer", hot)


@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_one_seed_that_explodes_does_not_end_the_others(
  mlp, small, hot_seed, strategy
):
  config = TrainConfig(epochs=2, batch_size=60, strategy=strategy)
  found, epochs = [], []
  results = list(
    training.train(
      mlp,
      small,
      config,
      [0, 1, 2],
      progress=epochs.append,
      diverged=found.append,
    )
  )
  assert [one[:3] for one in found] == [(1, 1, 1)]
  assert [result.seed for result in results] == [0, 2]
  assert sum(epochs) == 6  # the bar gets to its end
  alone = training.train(mlp, small, config, [0, 2])
  for result, other in zip(results, alone, strict=True):
    losses = [[m.train_loss for m in r.metrics] for r in (result, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
      result.trained,
      other.trained,
    )


@pytest.mark.parametrize("strategy", ["loop", "scan"])
def test_the_last_update_can_be_the_one_that_explodes(mlp, small, strategy):
  """One step: its loss is finite, but not what it leaves."""
  config = TrainConfig(epochs=1, batch_size=256, strategy=strategy, **EXPLOSIVE)
  found = []
  assert not list(
    training.train(mlp, small, config, [5], diverged=found.append)
  )
  assert found == [Divergence(5, 1, 1, 1e30, found[0].loss, "test")]
  with pytest.raises(NonFiniteLossError, match="the test loss of seed 5 is "):
    list(training.train(mlp, small, config, [5]))


# --- the command train -------------------------------------------------------


def forbidden(*args, **kwargs):
  raise AssertionError("this was done already")


def test_train_says_so_each_time_and_tries_again_with_other_flags_only(
  command, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  arguments = ["train", f"--workdir={workdir}", *TINY, "--epochs=1"]
  flags = [f"--{name}={value}" for name, value in EXPLOSIVE.items()]
  first = command(*arguments, *flags, "--seeds=2")
  assert first[:2] == (1, "")
  line = first[2].splitlines()[-1]
  assert line.startswith(
    "error: 2 trainings failed: mlp-d1-w8: the train loss of seed 0 is nan at"
    " step 2 (epoch 1, learning rate 1e+30); mlp-d1-w8: the train loss of seed"
    " 1 is "
  )
  assert line.endswith("try a smaller --learning_rate, in another --workdir")
  lines = (workdir / "failures.jsonl").read_text().splitlines()
  assert [json.loads(text)["seed"] for text in lines] == [0, 1]
  assert not (workdir / "metrics.jsonl").exists()

  with monkeypatch.context() as patch:
    patch.setattr(training, "train", forbidden)
    again = command(*arguments, *flags, "--seeds=2")
    assert again == (1, "", line + "\n")
    measured = command(
      "measure", f"--workdir={workdir}", "--measure_examples=8"
    )
    assert measured[0] == 1
    assert "2 trainings failed" in measured[2]

  assert command(*arguments, "--seeds=2")[0] == 0
  assert RunFolder(workdir).trained_seeds() == [0, 1]
  assert not (workdir / "failures.jsonl").exists()


def test_a_damaged_list_of_failures_is_named(tmp_path):
  for text in ("{", '{"seed": 1}\n'):
    (tmp_path / "failures.jsonl").write_text(text)
    with pytest.raises(ExperimentError, match=r"failures\.jsonl cannot be"):
      RunFolder(tmp_path).failures()


# --- a study -----------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
  """Two networks, one of which cannot be trained."""
  changes = {
    **{"width": 8, "epochs": 1, "train_examples": 200, "test_examples": 60},
    **{"transforms": "translation:2", "shift_map": "", "diagonal": 0},
    **{"measures": "invariance_error", "measure_examples": 8},
    **{"strategy": "loop", "seeds": (0, 1)},
  }
  mlp = {"model": "mlp", "depth": 1}
  cells = (
    Cell("pooled", mlp),
    Cell("unpooled", mlp | {"width": 6}, train=EXPLOSIVE),
  )
  return dataclasses.replace(
    presets.build("quick", changes),
    cells=cells,
    overview=("pooled", "unpooled"),
  )


@pytest.mark.parametrize(
  "figures", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_study_goes_on_reports_what_is_left_and_fails_in_the_end(
  study, tmp_path, monkeypatch, figures
):
  if not figures:
    monkeypatch.setattr(reporting, "_draw", lambda *args: {})
  dataset = datasets.load(study.data)
  with pytest.raises(NonFiniteLossError) as caught:
    studies.run_study(study, dataset, tmp_path)
  message = str(caught.value)
  assert message.startswith("2 trainings failed: unpooled: the train loss of")
  assert f"the rest is in {tmp_path / 'report.html'}" in message

  table = store.read_table(tmp_path / "measurements.parquet")
  assert set(table["run"]) == {"mlp-d1-w8"}
  assert set(table["seed"]) == {0, 1}
  failures = store.read_table(tmp_path / "failures.csv")
  assert list(failures["cell"]) == ["unpooled", "unpooled"]
  assert list(failures["step"]) == [2, 2]
  claims = store.read_table(tmp_path / "claims.csv").set_index("claim")
  row = claims.loc["max-pooling-helps"]
  assert row["verdict"] == "not tested"
  assert row["note"].endswith("training of 'unpooled' failed for seeds 0, 1")
  page = (tmp_path / "report.html").read_text()
  assert "2 trainings\n    of this run failed" in page
  assert '<h2 id="failed">Failed</h2>' in page
  summary = (tmp_path / "summary.md").read_text()
  assert "| unpooled | 1 | 1 | 2 | 1e+30 | nan (train) |" in summary
  assert "failed" in studies.dry_run(study, dataset, tmp_path)

  monkeypatch.setattr(training, "train", forbidden)
  monkeypatch.setattr(reporting, "write_report", lambda workdir: [])
  with pytest.raises(NonFiniteLossError) as caught:
    studies.run_study(study, dataset, tmp_path)
  assert str(caught.value) == message


def test_what_is_left_is_shown_if_the_overview_failed(
  study, tmp_path, monkeypatch
):
  monkeypatch.setattr(reporting, "_draw", lambda *args: {})
  study = dataclasses.replace(study, overview=("unpooled",))
  with pytest.raises(NonFiniteLossError, match="the rest is in"):
    studies.run_study(study, datasets.load(study.data), tmp_path)
  assert reporting.read(tmp_path).overview == ["mlp-d1-w8"]
  assert "| fully connected, depth 1 |" in (tmp_path / "summary.md").read_text()


def test_a_study_without_any_trained_network_writes_no_report(study, tmp_path):
  study = dataclasses.replace(study, cells=study.cells[1:], overview=())
  with pytest.raises(NonFiniteLossError, match="nothing is left to report on"):
    studies.run_study(study, datasets.load(study.data), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_claims_use_the_seeds_that_are_left_in_both_networks(
  copied, monkeypatch
):
  """One seed of one network, of two: no interval, and the reason is there."""
  monkeypatch.setattr(reporting, "_draw", lambda *args: {})
  run = next(
    c.run
    for c in plan(copied.study, copied.dataset, copied.workdir)
    if c.name == "unpooled"
  )
  lines = [line for line in run.folder.metrics() if line["seed"] != 1]
  store.write_text(
    run.folder.path / "metrics.jsonl",
    "".join(json.dumps(line) + "\n" for line in lines),
    record=run.folder.sums.record,
  )
  run.folder.add_failure(Divergence(1, 1, 3, 0.004, "nan", "train"))
  assert runs.missing_seeds(run, [0, 1]) == []
  with pytest.raises(NonFiniteLossError, match="1 training failed: unpooled: "):
    studies.run_study(copied.study, copied.dataset, copied.workdir)
  claims = store.read_table(copied.workdir / "claims.csv").set_index("claim")
  row = claims.loc["max-pooling-helps"]
  assert (row["verdict"], row["n_seeds"]) == ("inconclusive", 1)
  assert row["note"] == (
    "fewer than two seeds; training of 'unpooled' failed for seed 1"
  )
  values = store.read_table(copied.workdir / "effect_values.csv")
  of_claim = values[values["claim"] == "max-pooling-helps"]
  assert set(of_claim["seed"]) == {0}
  assert (
    "1 training\n    of this run failed"
    in (copied.workdir / "report.html").read_text()
  )
