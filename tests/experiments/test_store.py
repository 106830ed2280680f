import json
import re
import stat

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments import store
from experiments.config import DataConfig, ModelConfig, TrainConfig
from experiments.errors import ExperimentError
from experiments.store import RunFolder

# --- files written whole or not at all ---------------------------------------


def test_a_file_is_replaced_when_the_block_succeeds(tmp_path):
  path = tmp_path / "new" / "file.txt"
  with store.replacing(path) as temporary:
    temporary.write_text("first")
    assert temporary.parent == path.parent
    assert not path.exists()
  store.write_text(path, "second")
  assert path.read_text() == "second"
  assert list(path.parent.iterdir()) == [path]


def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path):
  path = tmp_path / "file.txt"
  path.write_text("old")
  with pytest.raises(KeyboardInterrupt), store.replacing(path) as temporary:  # noqa: PT012
    temporary.write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_files_are_as_readable_as_any_other(tmp_path):
  (tmp_path / "other").touch()
  store.write_text(tmp_path / "ours", "")
  modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
  assert len(modes) == 1


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_tables_keep_words_that_look_like_missing_values(tmp_path, suffix):
  table = pd.DataFrame(
    {
      "pooling": ["none", "", "max"],
      "value": [0.1, float("nan"), 1e-9],
      "seed": [0, 1, 2],
    }
  )
  path = tmp_path / f"table{suffix}"
  store.write_table(path, table)
  pd.testing.assert_frame_equal(
    store.read_table(path), table, check_dtype=False
  )


def test_equal_tables_are_equal_bytes(tmp_path):
  table = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
  for name in ("1.parquet", "2.parquet"):
    store.write_table(tmp_path / name, table)
  assert (tmp_path / "1.parquet").read_bytes() == (
    tmp_path / "2.parquet"
  ).read_bytes()


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_damaged_tables_are_named(tmp_path, name):
  path = tmp_path / name
  message = f"^{re.escape(str(path))} cannot be read: "
  with pytest.raises(ExperimentError, match=message):
    store.read_table(path)
  path.write_bytes(b"")
  with pytest.raises(ExperimentError, match=message):
    store.read_table(path)
  path.write_bytes(b'PAR1\xff\xfe"\0\n\0,,')
  with pytest.raises(ExperimentError, match=message):
    store.read_table(path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path, content):
  path = tmp_path / "file.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ExperimentError, match=r"file\.json cannot be read: "):
    store.read_json(path)


# --- parameters --------------------------------------------------------------

names = st.text("abcxyz0123456789_.", min_size=1, max_size=4)
arrays = hnp.arrays(
  st.sampled_from([np.float32, np.int32, np.uint8]),
  hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
)
trees = st.recursive(
  st.dictionaries(names, arrays, min_size=1, max_size=3),
  lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
  max_leaves=5,
)


def flat(tree, prefix=()):
  if isinstance(tree, dict):
    return {
      k: v for n, t in tree.items() for k, v in flat(t, (*prefix, n)).items()
    }
  return {prefix: tree}


@given(trees)
def test_parameters_survive_the_file(tmp_path_factory, tree):
  path = tmp_path_factory.mktemp("params") / "seed0.npz"
  params = {"params": tree}
  store.save_params(path, params)
  expected, read = flat(params), flat(store.load_params(path))
  assert set(read) == set(expected)
  for name, array in expected.items():
    assert read[name].dtype == array.dtype
    np.testing.assert_array_equal(read[name], array)


def test_equal_parameters_are_equal_bytes_in_any_order(tmp_path):
  a, b = np.ones(3, np.float32), np.zeros((2, 2), np.float32)
  store.save_params(tmp_path / "1.npz", {"params": {"a": a, "b": b}})
  store.save_params(tmp_path / "2.npz", {"params": {"b": b, "a": a}})
  assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def damage_missing(content):
  del content


def damage_empty(content):
  del content
  return b""


def damage_cut(content):
  return content[: len(content) // 2]


def damage_a_byte(content):
  middle = len(content) // 2
  return (
    content[:middle] + bytes([content[middle] ^ 255]) + (content[middle + 1 :])
  )


def damage_text(content):
  del content
  return b"not a zip file"


@pytest.mark.parametrize(
  "damage",
  [damage_missing, damage_empty, damage_cut, damage_a_byte, damage_text],
)
def test_damaged_parameters_are_named(tmp_path, damage):
  path = tmp_path / "seed0_init.npz"
  store.save_params(path, {"params": {"kernel": np.ones(1000, np.float32)}})
  content = damage(path.read_bytes())
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  message = f"^{re.escape(str(path))} cannot be read: "
  with pytest.raises(ExperimentError, match=message):
    store.load_params(path)


def test_nothing_is_unpickled(tmp_path):
  path = tmp_path / "params.npz"
  np.savez(path, kernel=np.array([{}], dtype=object))
  with pytest.raises(ExperimentError, match="cannot be read"):
    store.load_params(path)


# --- run folders -------------------------------------------------------------


def flags_of(**changes):
  sections = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
  return store.as_config(
    **{name: cls(**changes.get(name, {})) for name, cls in sections.items()}
  )


SOURCE = {"data": {"train_sha256": "abc", "test_sha256": "def"}}


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


def test_a_folder_with_damaged_flags_is_refused(trained):
  (trained.path / "config.json").write_text("{")
  with pytest.raises(ExperimentError, match=r"config\.json cannot be read"):
    trained.claim(flags_of(), SOURCE)


def test_measurements_made_with_other_flags_are_dropped(folder):
  table = pd.DataFrame({"value": [1.0]})
  first, other = {"measure": {"order": 1}}, {"measure": {"order": 3}}
  folder.claim_measurements(first)
  store.write_table(folder.part_path(0, "init"), table)
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
    store.write_table(
      folder.part_path(seed, "init"), pd.DataFrame({"seed": [seed, seed]})
    )
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
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(store, "write_text", interrupted)
  with pytest.raises(KeyboardInterrupt):
    folder.add_seed(0, PARAMS, PARAMS, [line(0, 1)])
  assert folder.params_path(0, "trained").exists()
  assert folder.trained_seeds() == []


def test_damaged_metrics_are_named(folder):
  folder.add_seed(0, PARAMS, PARAMS, [line(0, 1)])
  path = folder.path / "metrics.jsonl"
  path.write_text(path.read_text()[:-5])
  with pytest.raises(ExperimentError, match=r"metrics\.jsonl cannot be read"):
    folder.metrics()


def test_seconds_add_up(folder):
  assert folder.seconds() == {}
  folder.add_seconds("train", 1.25)
  folder.add_seconds("train", 2.5)
  folder.add_seconds("measure", 4.0)
  assert folder.seconds()["train"] == pytest.approx(3.75, abs=0.1)
  assert folder.seconds()["measure"] == 4.0


# --- provenance --------------------------------------------------------------


def strings(value):
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    return [s for item in value for s in strings(item)]
  return [value] if isinstance(value, str) else []


def test_provenance_says_what_a_result_depends_on():
  found = store.provenance({"dataset": "digits", "train_sha256": "abc"})
  assert found["packages"]["jax"] == __import__("jax").__version__
  assert found["packages"]["numpy"] == np.__version__
  assert len(found["devices"]) == 2  # those of tests/conftest.py
  assert found["cpu_count"] >= 1
  assert found["data"] == {"dataset": "digits", "train_sha256": "abc"}
  assert {"python", "machine", "processor", "git_commit", "NPROC"} <= set(found)
  assert json.loads(json.dumps(found)) == found


def test_provenance_is_the_same_again_and_holds_no_path():
  found = store.provenance({})
  assert found == store.provenance({})
  assert not any(text.startswith(("/", "~")) for text in strings(found))
  home = str(store.Path.home())
  assert not any(home in text for text in strings(found) if len(home) > 1)


def test_the_commit_is_that_of_the_source(monkeypatch, tmp_path):
  commit = store.provenance({})["git_commit"]
  monkeypatch.chdir(tmp_path)
  assert store.provenance({})["git_commit"] == commit
  if commit is None:
    pytest.skip("not a git checkout")
  assert re.fullmatch(r"([0-9a-f]{12,40}|.*-g[0-9a-f]{12})(-dirty)?", commit)


def test_without_git_there_is_no_commit(monkeypatch):
  monkeypatch.setenv("PATH", "")
  assert store.provenance({})["git_commit"] is None
