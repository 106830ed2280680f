"""Stored numbers are derived again, and altered ones are found."""

import json
import runpy

import pandas as pd
import pytest

from experiments import checksums, store, verifying

RUN = "cnn-max-d1-w4-k3-same-dense"
ORBITS = ("translation", "rotation", "scaling", "translation_map")


@pytest.fixture
def verify(run, fresh_flags):
  """Runs the command: exit code, lines and stderr."""

  def call(folder, *arguments):
    for flag in {"sample", "sample_seed", "data_dir"} & set(fresh_flags):
      delattr(fresh_flags, flag)
    main = runpy.run_module("experiments.verify")["main"]
    code, out, err = run(lambda: main(str(folder)), *arguments)
    return code, out.splitlines(), err

  return call


def of(word, lines):
  return [line for line in lines if line.startswith(word)]


def rewrite_table(path, change):
  """Changes a table and its checksum, so that only its numbers are wrong."""
  table = store.read_table(path)
  changed = change(table)
  table = table if changed is None else changed
  folder = path.parent
  if folder.name == "measurements":
    folder = folder.parent
  store.write_table(path, table, record=checksums.Sums(folder).record)


def test_a_study_holds_to_the_last_bit(verify, finished):
  code, lines, err = verify(finished.workdir, "--sample=3")
  assert (code, err) == (0, "")
  assert lines[0] == "3 of 32 tests and orbits, to the last bit"
  held = of("holds", lines)
  # Two runs' tables, the study's, its curves, and the sample.
  assert len(held) == 2 + 1 + 1 + 3
  assert all(line.endswith("difference 0") for line in held)
  assert "test_loss" in " ".join(held)
  assert lines[-1].startswith("all ")


def test_all_that_was_stored_is_there_to_be_derived(finished):
  stored = verifying.read(finished.workdir / "runs" / RUN)
  assert len(stored) == 1
  names = {item.name for item in verifying.items(stored[0])}
  expected = {f"{RUN} seed {s} trained, training" for s in (0, 1)}
  for stage in ("init", "trained"):
    for orbit in ORBITS if stage == "trained" else ORBITS[:3]:
      expected |= {f"{RUN} seed {seed} {stage}, {orbit}" for seed in (0, 1)}
  assert names == expected


def test_the_sample_is_seeded_and_holds_both_kinds(finished):
  (stored,) = verifying.read(finished.workdir / "runs" / RUN)
  found = verifying.items(stored)
  samples = [
    [item.name for item in verifying.sample(found, 4, seed)]
    for seed in (0, 0, 1)
  ]
  assert samples[0] == samples[1] != samples[2]
  for names in samples:
    assert len(set(names)) == 4
    tests = sum(name.endswith("training") for name in names)
    assert 0 < tests < 4
  assert verifying.sample(found, 0, 0) == found
  assert verifying.sample(found, 100, 0) == found


def test_altered_parameters_are_found(verify, copied):
  folder = copied.workdir / "runs" / RUN
  path = folder / "params" / "seed1_trained.npz"
  params = store.load_params(path)
  params["params"]["conv1"]["kernel"][0, 0, 0, 0] += 0.5
  store.save_params(path, params, record=checksums.Sums(folder).record)
  code, lines, err = verify(folder, "--sample=0")
  assert code == 1
  failed = of("FAILS", lines)
  named = f"{RUN} seed 1 trained, "
  for what in ("training", *ORBITS):
    assert any(named + what in line for line in failed), what
  assert not [line for line in failed if "seed 0" in line or " init" in line]
  assert err.startswith(f"error: {len(failed)} of ")
  assert f"{named}rotation" in err


def test_a_file_that_does_not_match_its_checksum_is_named(verify, copied):
  folder = copied.workdir / "runs" / RUN
  path = folder / "params" / "seed0_init.npz"
  path.write_bytes(path.read_bytes()[:-7])
  code, lines, err = verify(folder, "--sample=1")
  assert code == 1
  assert (
    of("FAILS", lines)[0] == f"FAILS  {path}: it does not match its checksum"
  )
  assert str(path) in err


def test_altered_measurements_are_found(verify, copied):
  folder = copied.workdir / "runs" / RUN

  def alter(table):
    chosen = (table["orbit"] == "rotation") & (table["layer"] == "logits")
    at = table.index[chosen & (table["measure"] == "invariance_error")][-1]
    table.loc[at, "value"] += 2**-20

  rewrite_table(folder / "measurements" / "seed0_init.parquet", alter)
  code, lines, err = verify(folder, "--sample=0")
  assert code == 1
  failed = of("FAILS", lines)
  # The joined table is not of that part any more.
  assert any("measurements.parquet" in line for line in failed)
  (line,) = [x for x in failed if f"{RUN} seed 0 init, rotation: 1 of" in x]
  assert "logits rotation" in line
  assert "invariance_error" in line
  assert line.endswith("difference 9.54e-07")
  assert "seed 0 init, rotation" in err


def test_altered_joined_tables_are_found(verify, copied):
  def raise_accuracy(table):
    table.loc[len(table) - 1, "test_accuracy"] += 0.01

  def drop_row(table):
    return table.drop(index=3)

  rewrite_table(copied.workdir / "training.csv", raise_accuracy)
  rewrite_table(copied.workdir / "measurements.parquet", drop_row)
  code, lines, err = verify(copied.workdir, "--sample=1")
  assert code == 1
  failed = of("FAILS", lines)
  assert [("training.csv" in x, "parquet" in x) for x in failed] == [
    (False, True),
    (True, False),
  ]
  assert "training.csv" in err


def test_an_altered_accuracy_is_found(verify, copied):
  folder = copied.workdir / "runs" / RUN
  path = folder / "metrics.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[0]["test_accuracy"] += 1 / 60
  text = "".join(json.dumps(line) + "\n" for line in lines)
  store.write_text(path, text, record=checksums.Sums(folder).record)
  code, printed, _ = verify(folder, "--sample=0")
  assert code == 1
  assert any("seed 0 trained, training" in x for x in of("FAILS", printed))


def test_elsewhere_numbers_hold_to_a_tolerance(verify, copied):
  folder = copied.workdir / "runs" / RUN
  provenance = store.read_json(folder / "provenance.json")
  provenance["NPROC"] = "96"
  store.write_json(folder / "provenance.json", provenance)

  def alter(table):
    table.loc[table["measure"] == "invariance_error", "value"] += 3e-5

  for seed in (0, 1):
    for stage in ("init", "trained"):
      part = folder / "measurements" / f"seed{seed}_{stage}.parquet"
      rewrite_table(part, alter)
  rewrite_table(folder / "measurements.parquet", alter)
  code, lines, _ = verify(folder, "--sample=3")
  assert code == 0
  assert lines[0] == "3 of 16 tests and orbits, to 1e-4: NPROC differ"
  assert any("difference 3e-05" in line for line in lines)


def test_other_images_are_refused(verify, copied):
  folder = copied.workdir / "runs" / RUN
  provenance = store.read_json(folder / "provenance.json")
  provenance["data"]["test_sha256"] = "0" * 64
  store.write_json(folder / "provenance.json", provenance)
  code, _, err = verify(folder)
  assert code == 1
  assert "was made of other images than are here: their test_sha256" in err


def test_a_folder_without_parameters_is_one_line(verify, tmp_path):
  code, lines, err = verify(tmp_path)
  assert (code, lines) == (1, [])
  assert err.startswith(f"error: {tmp_path} holds neither a run (config.json)")


@pytest.mark.parametrize(
  ("value", "exact", "share", "failed"),
  [
    (0.5, True, 0.0, 0),
    (0.5 + 1e-9, True, 0.0, 1),
    (0.5 + 9e-5, False, 0.0, 0),
    (0.5 + 2e-4, False, 0.0, 1),
    (0.5 + 0.01, False, 0.01, 0),
    (0.5 + 0.03, False, 0.01, 1),
    (float("nan"), False, 0.01, 1),
  ],
)
def test_numbers_are_compared_by_their_tolerance(value, exact, share, failed):
  before, after = (
    pd.DataFrame({"measure": ["accuracy"], "value": [x]}) for x in (0.5, value)
  )
  tolerance = 0.0 if exact else verifying.TOLERANCE
  outcome = verifying.compare(
    "x", before, after, tolerance=tolerance, share=share
  )
  assert (outcome.failed, outcome.holds) == (failed, not failed)
