import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import checksums, store
from experiments.config import DataConfig, ModelConfig, TrainConfig
from experiments.errors import ExperimentError
from experiments.run_folder import RunFolder


def flags_of(**changes):
  sections = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
  return store.as_config(
    **{name: cls(**changes.get(name, {})) for name, cls in sections.items()}
  )


SOURCE = {"data": {"train_sha256": "abc", "test_sha256": "def"}}


def flip(path, at=None):
  """Alters one byte of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2 if at is None else at] ^= 1
  path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
  result = RunFolder(tmp_path / "run")
  result.claim(flags_of(), SOURCE)
  return result


@pytest.fixture
def trained(folder):
  """A folder with a seed, which no other run may take."""
  params = {"params": {"a": np.zeros(2)}}
  folder.add_seed(0, params, params, [{"seed": 0, "epoch": 1}])
  return folder


def test_a_run_that_left_no_seed_does_not_keep_its_folder(folder):
  other = flags_of(train={"learning_rate": 0.1})
  folder.claim(other, SOURCE)
  assert json.loads((folder.path / "config.json").read_text()) == other


def test_a_claimed_folder_says_all_flags(folder):
  config = json.loads((folder.path / "config.json").read_text())
  assert config == flags_of()
  assert config["train"]["learning_rate"] == 0.0
  assert json.loads((folder.path / "provenance.json").read_text()) == SOURCE


def test_the_same_run_may_claim_again_from_another_data_dir(trained):
  before = (trained.path / "config.json").read_bytes()
  trained.claim(flags_of(data={"data_dir": "/elsewhere"}), SOURCE)
  assert (trained.path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": {"pooling": "avg"}}, "model.pooling=max, not avg"),
    ({"train": {"epochs": 6}}, "train.epochs=5, not 6"),
    ({"data": {"canvas": 40}}, "data.canvas=32, not 40"),
  ],
)
def test_a_run_with_other_flags_is_refused(trained, changes, message):
  with pytest.raises(ExperimentError, match=re.escape(message)) as caught:
    trained.claim(flags_of(**changes), SOURCE)
  assert str(trained.path) in str(caught.value)
  assert "--workdir" in str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_run_on_other_data_is_refused(trained, split):
  other = {"data": SOURCE["data"] | {f"{split}_sha256": "123"}}
  was = SOURCE["data"][f"{split}_sha256"]
  with pytest.raises(ExperimentError, match=f"{split}_sha256={was}, not 123"):
    trained.claim(flags_of(), other)


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"data": 1}', None])
def test_damaged_flags_are_written_again_by_the_same_run_only(
  trained, capsys, name, content
):
  path = trained.path / name
  before = path.read_bytes()
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ExperimentError, match="run of other flags"):
    trained.claim(flags_of(train={"epochs": 6}), SOURCE)
  trained.claim(flags_of(), SOURCE)
  assert "config.json or provenance.json is damaged" in capsys.readouterr().err
  assert path.read_bytes() == before
  assert trained.trained_seeds() == [0]


def test_flags_changed_after_the_training_are_refused(trained):
  path = trained.path / "config.json"
  path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 6'))
  with pytest.raises(ExperimentError, match=r"config\.json says, which was ch"):
    trained.claim(json.loads(path.read_text()), SOURCE)
  trained.claim(flags_of(), SOURCE)
  assert json.loads(path.read_text())["train"]["epochs"] == 5


def test_moved_data_may_be_written_into_the_flags(trained, capsys):
  path = trained.path / "config.json"
  text = path.read_text().replace('"data_dir": ""', '"data_dir": "/new"')
  path.write_text(text)
  trained.claim(flags_of(), SOURCE)
  assert path.read_text() == text
  assert not capsys.readouterr().err


def test_a_run_of_unknown_flags_is_refused(trained):
  for name in ("config.json", checksums.NAME):
    flip(trained.path / name, 1)
  with pytest.raises(ExperimentError, match="holds a run of unknown flags"):
    trained.claim(flags_of(), SOURCE)


def test_a_folder_without_checksums_is_of_an_older_format(trained):
  (trained.path / checksums.NAME).unlink()
  message = (
    f"^{re.escape(str(trained.path))} is of an older format: .*--workdir"
  )
  with pytest.raises(ExperimentError, match=message):
    trained.claim(flags_of(), SOURCE)
  assert trained.params_path(0, "init").exists()


def test_an_older_folder_is_kept_as_the_document_says(trained):
  """The command of docs/faults.md, whose lines lack what ours have."""
  (trained.path / checksums.NAME).unlink()
  text = (Path(checksums.__file__).parents[1] / "docs/faults.md").read_text()
  command = re.search(r"^cd FOLDER && (sha256sum [^-].*)$", text, re.M)
  assert command is not None
  subprocess.run(command[1], shell=True, cwd=trained.path, check=False)
  trained.claim(flags_of(), SOURCE)
  assert trained.trained_seeds() == [0]
  assert trained.damaged() == []


def test_seeds_of_before_a_flag_existed_are_another_run(folder):
  older = flags_of()
  del older["model"]["norm"]
  folder.claim(older, SOURCE)
  params = {"params": {"a": np.zeros(2)}}
  folder.add_seed(0, params, params, [{"seed": 0, "epoch": 1}])
  with pytest.raises(ExperimentError, match=r"model\.norm=None, not none"):
    folder.claim(flags_of(), SOURCE)


def test_measurements_made_with_other_flags_are_dropped(folder):
  table = pd.DataFrame({"value": [1.0]})
  first, other = {"measure": {"order": 1}}, {"measure": {"order": 3}}
  folder.claim_measurements(first)
  folder.add_part(0, "init", table)
  folder.join_measurements([(0, "init")])

  folder.claim_measurements(first)
  assert folder.part_path(0, "init").exists()
  assert (folder.path / "measurements.parquet").exists()

  folder.claim_measurements(other)
  assert not folder.part_path(0, "init").exists()
  assert not (folder.path / "measurements.parquet").exists()
  claimed = folder.path / "measurements" / "config.json"
  assert json.loads(claimed.read_text()) == other


def test_parts_are_joined_in_the_order_asked(folder):
  for seed in (0, 1):
    folder.add_part(seed, "init", pd.DataFrame({"seed": [seed, seed]}))
  joined = folder.join_measurements([(1, "init"), (0, "init")])
  assert list(joined["seed"]) == [1, 1, 0, 0]
  assert list(joined.index) == [0, 1, 2, 3]
  stored = store.read_table(folder.path / "measurements.parquet")
  pd.testing.assert_frame_equal(stored, joined)
  with pytest.raises(ExperimentError, match=r"seed2_init\.parquet cannot be r"):
    folder.join_measurements([(2, "init")])


def line(seed, epoch, loss=1.0):
  return {"seed": seed, "epoch": epoch, "train_loss": loss}


PARAMS = {"params": {"kernel": np.ones(2, np.float32)}}


def test_seeds_are_kept_in_order_and_once(folder):
  folder.add_seed(1, PARAMS, PARAMS, [line(1, 1), line(1, 2)])
  folder.add_seed(0, PARAMS, PARAMS, [line(0, 1), line(0, 2)])
  folder.add_seed(1, PARAMS, PARAMS, [line(1, 1, 0.5), line(1, 2, 0.4)])
  assert folder.trained_seeds() == [0, 1]
  assert folder.metrics() == [
    line(0, 1),
    line(0, 2),
    line(1, 1, 0.5),
    line(1, 2, 0.4),
  ]


def test_a_seed_without_its_parameters_is_not_complete(folder):
  assert folder.trained_seeds() == []
  folder.add_seed(0, PARAMS, PARAMS, [line(0, 1)])
  assert folder.trained_seeds() == [0]
  folder.params_path(0, "trained").unlink()
  assert folder.trained_seeds() == []


def test_a_seed_is_not_complete_before_its_metrics(folder, monkeypatch):
  write_text = store.write_text

  def interrupted(path, *rest, **options):
    if path.name == "metrics.jsonl":
      raise KeyboardInterrupt
    write_text(path, *rest, **options)

  monkeypatch.setattr(store, "write_text", interrupted)
  with pytest.raises(KeyboardInterrupt):
    folder.add_seed(0, PARAMS, PARAMS, [line(0, 1)])
  assert folder.params_path(0, "trained").exists()
  assert folder.trained_seeds() == []


def cut(path):
  path.write_bytes(path.read_bytes()[:-5])


@pytest.fixture
def measured(folder):
  """A folder with two seeds, both measured once."""
  for seed in (0, 1):
    folder.add_seed(seed, PARAMS, PARAMS, [line(seed, 1)])
  folder.claim_measurements({"measure": {}})
  for seed in (0, 1):
    folder.add_part(seed, "init", pd.DataFrame({"seed": [seed]}))
  folder.join_measurements([(0, "init"), (1, "init")])
  folder.add_seconds("train", 1.0)
  return folder


KINDS = [
  "params/seed0_init.npz",
  "params/seed0_trained.npz",
  "metrics.jsonl",
  "measurements/seed0_init.parquet",
  "measurements/config.json",
  "measurements.parquet",
  "seconds.json",
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_file_is_named_put_aside_and_missing(
  measured, capsys, name, damage
):
  path = measured.path / name
  damage(path)
  damaged = path.read_bytes()
  assert measured.damaged() == [path]
  measured.claim(flags_of(), SOURCE)
  warning = f"warning: {path} is damaged: it does not match its checksum; kept"
  assert capsys.readouterr().err.startswith(warning)
  assert not path.exists()
  assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
  assert measured.damaged() == []


def test_what_is_damaged_is_not_complete(measured):
  flip(measured.params_path(0, "trained"))
  assert measured.trained_seeds() == [1]
  flip(measured.part_path(1, "init"))
  assert [measured.has_part(s, "init") for s in (0, 1)] == [True, False]
  with pytest.raises(ExperimentError, match=r"seed1_init\.parquet is damaged"):
    measured.join_measurements([(0, "init"), (1, "init")])
  flip(measured.path / "seconds.json")
  assert measured.seconds() == {}
  flip(measured.path / "metrics.jsonl")
  assert measured.trained_seeds() == []
  with pytest.raises(ExperimentError, match=r"metrics\.jsonl is damaged"):
    measured.metrics()


def test_a_file_from_elsewhere_is_not_a_result(measured):
  path = measured.params_path(7, "init")
  path.write_bytes(measured.params_path(0, "init").read_bytes())
  assert measured.damaged() == [path]


def test_damage_of_the_checksums_makes_no_damaged_file_whole(measured):
  """Whatever byte of them is altered: at worst a good file is made again."""
  path = measured.path / checksums.NAME
  content = path.read_bytes()
  flip(measured.params_path(0, "init"))
  for at in range(0, len(content), 7):
    flip(path, at)
    assert 0 not in measured.trained_seeds()
    path.write_bytes(content)
  path.write_bytes(b"")
  assert measured.trained_seeds() == []


def test_seconds_add_up(folder):
  assert folder.seconds() == {}
  folder.add_seconds("train", 1.25)
  folder.add_seconds("train", 2.5)
  folder.add_seconds("measure", 4.0)
  assert folder.seconds()["train"] == pytest.approx(3.75, abs=0.1)
  assert folder.seconds()["measure"] == 4.0
