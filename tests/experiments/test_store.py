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
from experiments.errors import ExperimentError

# --- files written whole or not at all ---------------------------------------


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
  path = tmp_path / "new" / "file.txt"
  for text in ("first", "second"):
    store.write_text(path, text)
    assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["_write_to_disk", "record", "replace"])
def test_an_exception_keeps_the_old_file_and_leaves_nothing(
  tmp_path, monkeypatch, step
):
  def interrupted(*_):
    raise KeyboardInterrupt

  path = tmp_path / "file.txt"
  path.write_text("old")
  record = interrupted if step == "record" else None
  if step == "_write_to_disk":
    monkeypatch.setattr(store, step, interrupted)
  elif step == "replace":
    monkeypatch.setattr(store.os, step, interrupted)
  with pytest.raises(KeyboardInterrupt):
    store.write_text(path, "new", record=record)
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_recorded_before_it_has_its_name(tmp_path):
  path, seen = tmp_path / "file.txt", []
  store.write_text(
    path, "text", record=lambda p, c: seen.append((p, c, p.exists()))
  )
  assert seen == [(path, b"text", False)]


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
  path = tmp_path / "results" / "params" / "file.txt"
  with pytest.raises(ExperimentError, match="was removed or unmounted") as e:
    store.write_text(path, "text")
  assert str(path) in str(e.value)
  assert not list(tmp_path.iterdir())


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

# Two dots alone would lead out of an archive: they are refused, see below.
names = st.text("abcxyz0123456789_.", min_size=1, max_size=4).filter(
  lambda name: name != ".."
)
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


@pytest.mark.parametrize("name", ["..", "", "a/../b", "a\\..\\b"])
def test_a_name_that_reading_refuses_is_not_written(tmp_path, name):
  path = tmp_path / "seed0.npz"
  with pytest.raises(ValueError, match="cannot be an array's name"):
    store.save_params(path, {"params": {name: {"kernel": np.ones(2)}}})
  assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
  ("flags", "name"),
  [
    ("fpu avx avx2 avx512f", "Fast Thing (AVX-512)"),
    ("fpu avx avx2", "Fast Thing (AVX2)"),
    ("fpu", "Fast Thing"),
  ],
)
def test_a_processor_is_named_with_its_vectors(monkeypatch, flags, name):
  text = f"model name\t: Fast Thing\nflags\t\t: {flags}\n" * 2
  monkeypatch.setattr(store.Path, "read_text", lambda self: text)
  assert store.processor() == name


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
