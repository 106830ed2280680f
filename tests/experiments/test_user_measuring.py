"""Measuring what the user brings, by the command and by its functions."""

import json
import runpy

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import probing
from analysis.measures import MEASURES
from experiments import (
  user_activations,
  user_images,
  user_measuring,
  user_models,
)
from experiments.config import MeasureConfig
from experiments.errors import ExperimentError, UsageError
from tests.experiments.test_cli import assert_one_line, command

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(8) % 2

HEADER = """
import itertools
import jax
import jax.numpy as jnp
import numpy as np
def make_model():
  calls = itertools.count()
  def network(x):
    flat = x.mean(axis=(1, 2))
    logits = jnp.concatenate([flat, 1 - flat], axis=-1)
"""
GOOD = 'return logits, {"map": x, "logits": logits}'
QUICK = ("--transforms=translation:1", "--shift_map=")


@pytest.fixture
def write(tmp_path):
  """Writes a network whose last line is given; its flag."""

  def call(line=GOOD, geometry=""):
    path = tmp_path / "mine.py"
    path.write_text(f"{HEADER}    {line}\n  return network{geometry}\n")
    return f"--model={path}:make_model"

  return call


@pytest.fixture
def images(tmp_path):
  path = tmp_path / "mine.npz"
  np.savez(path, images=PIXELS, labels=LABELS)
  return f"--images={path}"


@pytest.fixture
def unlabelled(tmp_path):
  path = tmp_path / "mine.npy"
  np.save(path, PIXELS)
  return f"--images={path}"


@pytest.fixture
def measure(run, fresh_flags, tmp_path):
  """Runs the command: exit code, stdout, stderr and the folder it wrote."""
  before = set(fresh_flags)
  workdir = tmp_path / "out"

  def call(*arguments):
    for flag in set(fresh_flags) - before:
      delattr(fresh_flags, flag)
    main = runpy.run_module("experiments.measure")["main"]
    return (*run(main, f"--workdir={workdir}", *arguments), workdir)

  return call


# --- a network ---------------------------------------------------------------


def test_a_network_is_measured_on_a_folder_of_classes(measure, write, tmp_path):
  for i, (image, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
    path = tmp_path / "photos" / f"class{label}" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(path)
  code, out, err, workdir = measure(
    write(), f"--images={tmp_path / 'photos'}", *QUICK
  )
  assert code == 0, err
  assert out.splitlines()[-1] == str(workdir / "measurements.parquet")
  assert {"logits", "output"} == {
    line.split()[0] for line in out.splitlines()[1:-1]
  }
  assert sorted(p.name for p in workdir.iterdir()) == [
    "SHA256SUMS",
    "measurements.parquet",
    "provenance.json",
    "summary.csv",
  ]
  table = pd.read_parquet(workdir / "measurements.parquet")
  assert set(table["measure"]) >= {"accuracy", "invariance_error"}
  assert (table["run"] == "mine.py:make_model").all()
  assert (table["dataset"] == "photos").all()
  assert (table["n_images"] == 8).all()
  shifted = table[
    (table["measure"] == "equivariance_error")
    & (table["layer"] == "map")
    & (table["theta"] == "1,0")
  ]
  assert len(shifted) == 1
  assert shifted["value"].abs().max() < 1e-6
  provenance = json.loads((workdir / "provenance.json").read_text())
  assert provenance["data"]["classes"] == ["class0", "class1"]
  assert provenance["geometry_source"] == "probed"
  assert provenance["geometry"]["map"]["receptive_field"] == 1
  assert provenance["measure"]["measure_examples"] == 8
  assert str(tmp_path) not in json.dumps(provenance)


def test_without_labels_what_needs_them_is_left_out_and_said_so(
  measure, write, unlabelled
):
  code, _, err, workdir = measure(write(), unlabelled, *QUICK)
  assert code == 0, err
  assert "warning: no labels, so accuracy is left out\n" in err
  table = pd.read_parquet(workdir / "measurements.parquet")
  assert "consistency" in set(table["measure"])
  assert "accuracy" not in set(table["measure"])


def test_a_measure_asked_for_by_name_needs_its_labels(
  measure, write, unlabelled
):
  code, out, err, workdir = measure(
    write(), unlabelled, *QUICK, "--measures=consistency,accuracy"
  )
  assert (code, out) == (2, "")
  assert_one_line(err, "--measures: accuracy needs labels, and there are none")
  assert not workdir.exists()


def test_all_measures_but_those_that_need_labels_are_left():
  names = tuple(MEASURES)
  assert user_measuring.with_labels(names, True, False) == (names, [])
  kept, warnings = user_measuring.with_labels(names, False, False)
  assert set(names) - set(kept) == {
    name for name, m in MEASURES.items() if "labels" in m.needs
  }
  assert warnings == ["no labels, so accuracy is left out"]


def test_a_geometry_that_is_given_is_not_probed(
  measure, write, unlabelled, monkeypatch
):
  def forbidden(*args, **kwargs):
    raise AssertionError("there is a geometry")

  monkeypatch.setattr(probing, "find_geometry", forbidden)
  flags = (unlabelled, *QUICK, "--measures=equivariance_error")
  given = ", {'map': (1, 0.0, 3, (8, 8))}"
  code, _, err, workdir = measure(write(geometry=given), *flags)
  assert code == 0, err
  provenance = json.loads((workdir / "provenance.json").read_text())
  assert provenance["geometry_source"] == "given"
  assert provenance["geometry"]["map"]["receptive_field"] == 3

  wrong = ", {'mop': (1, 0.0, 3, (8, 8))}"
  code, _, err, _ = measure(write(geometry=wrong), *flags)
  assert code == 1
  assert_one_line(
    err, "mine.py:make_model: the geometry names a layer 'mop', the network has"
  )


def test_nothing_is_probed_that_no_measure_asks_for(
  measure, write, unlabelled, monkeypatch
):
  monkeypatch.setattr(probing, "find_geometry", None)
  code, _, err, _ = measure(
    write(), unlabelled, *QUICK, "--measures=invariance_error"
  )
  assert code == 0, err


def test_a_layer_that_is_not_located_says_why(write, tmp_path):
  line = 'return logits, {"all": x - x.mean(axis=(1, 2), keepdims=True)}'
  model = user_models.load(write(line).removeprefix("--model="))
  given = user_images.UserImages(PIXELS, None, (), "mine")
  config = MeasureConfig(
    measures="equivariance_error",
    transforms="translation:1",
    shift_map="",
    measure_examples=0,
  )
  table = user_measuring.measure_model(model, given, config).table
  (note,) = table["note"][table["layer"] == "all"]
  assert note == (
    "no geometry found: its receptive field covers the canvas of 8 px"
  )


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (
      "raise RuntimeError('no weights')",
      "the function raises RuntimeError: no",
    ),
    ('return logits, {"map": np.tanh(x)}', "the function is not jittable"),
    ("return logits", r"must return \(output, \{name: activation\}\), got arr"),
    ("return logits, {}", "returned no activation to measure"),
    ('return logits, {"map": [x]}', "layer 'map' is of type list"),
    ('return logits, {"map": x.sum()}', r"layer 'map' has shape \(\) for 2 im"),
    ('return logits, {"map": x > 0}', "layer 'map' is of type bool"),
    ('return logits, {"map": x / 0 - x / 0}', "'map' has 128 of 128 values"),
    (
      'return logits, {"map": x, f"n{next(calls)}": x}',
      "layers vary from call to call: 'n0' only in a call of 2 images and 'n1'",
    ),
    (
      'return logits, {"map": x - x.mean(axis=0, keepdims=True)}',
      "layer 'map' of one image depends on the other images of the batch",
    ),
  ],
)
def test_what_is_no_network_is_one_line_and_leaves_nothing(
  measure, write, images, line, message
):
  code, out, err, workdir = measure(write(line), images, *QUICK)
  assert (code, out) == (1, "")
  assert_one_line(err, f"^error: mine.py:make_model: .*{message}")
  assert not workdir.exists()


def test_activations_that_go_wrong_later_leave_nothing(
  measure, write, tmp_path
):
  """The first two images are fine, a later one is not."""
  pixels = PIXELS.copy()
  pixels[5] = 0
  path = tmp_path / "mine.npy"
  np.save(path, pixels)
  line = 'return logits, {"map": x / x.sum(axis=(1, 2, 3), keepdims=True)}'
  code, _, err, workdir = measure(write(line), f"--images={path}", *QUICK)
  assert code == 1
  assert "error: mine.py:make_model: layer 'map' has values that are not" in err
  assert "Traceback" not in err
  assert not workdir.exists()


def test_measuring_again_replaces_what_was_there(measure, write, unlabelled):
  flags = (unlabelled, *QUICK, "--measures=invariance_error")
  workdir = measure(write(), *flags)[-1]
  first = pd.read_parquet(workdir / "measurements.parquet")
  assert measure(write(), *flags, "--measure_examples=4")[0] == 0
  second = pd.read_parquet(workdir / "measurements.parquet")
  assert set(first["n_images"]) == {8}
  assert set(second["n_images"]) == {4}
  code, _, err, _ = measure(write("return 1"), *flags)
  assert code == 1
  pd.testing.assert_frame_equal(
    second, pd.read_parquet(workdir / "measurements.parquet")
  )
  assert "must return" in err


def test_a_run_is_not_overwritten(measure, write, images, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "config.json").write_text("{}")
  code, _, err, _ = measure(write(), images)
  assert code == 2
  assert_one_line(err, "holds a trained run, whose measurements would be")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--model=mine.py:f"], "--model needs --images"),
    (["--images=mine.npz"], "--images needs --model"),
    (["--layout=NCHW"], "--layout needs --activations"),
    (["--output=fc"], "--output needs --activations"),
    (
      ["--model=m.py:f", "--images=i.npz", "--activations=a.npz"],
      "--activations means nothing with --model",
    ),
    (
      ["--activations=a.npz", "--measure_examples=4"],
      "--measure_examples means nothing with --activations",
    ),
    (["--model=mine.py", "--images=no.npz"], "--images=no.npz does not exist"),
    (["--activations=no.npz"], "--activations=no.npz: there is no such file"),
    (
      ["--activations=no.npz", "--layout=CHWN"],
      "--layout=CHWN is not one of NHWC, NCHW",
    ),
  ],
)
def test_flags_that_do_not_go_together_are_code_2(measure, flags, message):
  code, out, err, workdir = measure(*flags)
  assert (code, out) == (2, "")
  assert_one_line(err, message)
  assert not workdir.exists()


def test_more_examples_than_images_are_code_2(measure, write, images):
  code, _, err, _ = measure(write(), images, "--measure_examples=9")
  assert code == 2
  assert_one_line(err, "--measure_examples=9 is not 0 .* and the 8 test images")


def test_the_command_line_of_a_user_fails_in_one_line(tmp_path, write, images):
  """In a process of its own, as a user sees it."""
  result = command(
    "experiments.measure",
    f"--workdir={tmp_path / 'out'}",
    write('return logits, {"map": np.tanh(x)}'),
    images,
  )
  assert result.returncode == 1
  assert_one_line(
    result.stderr, "^error: mine.py:make_model: the function is not jittable"
  )
  assert not (tmp_path / "out").exists()


# --- activations -------------------------------------------------------------

CONV = RNG.normal(size=(8, 4, 4, 3))
DENSE = RNG.normal(size=(8, 5))
MOVED = {
  "reference/conv": CONV,
  "transformed/conv": np.stack([CONV, CONV + 0.1, CONV[:, ::-1]]),
  "reference/block/fc": DENSE,
  "transformed/block/fc": np.stack([DENSE, DENSE + 0.1, -DENSE]),
}
GIVEN = MeasureConfig(measures="invariance_error,consistency")


@pytest.fixture
def save(tmp_path):
  def call(arrays):
    path = tmp_path / "activations.npz"
    np.savez(path, **arrays)
    return path

  return call


def measured(path, config=GIVEN, **options):
  return user_activations.measure_activations(path, config, **options)


def test_activations_are_measured_in_either_layout(save):
  table = measured(save(MOVED)).table
  first = {
    k: np.moveaxis(a, -1, -3) if "conv" in k else a for k, a in MOVED.items()
  }
  other = measured(save(first), layout="NCHW").table
  pd.testing.assert_frame_equal(table, other)
  assert set(table["layer"]) == {"conv", "block/fc", "output"}
  # The last layer is the output: the third element changes its sign.
  consistency = table["value"][table["measure"] == "consistency"].tolist()
  assert consistency == [1, 1, 0]


def test_the_output_can_be_named_and_the_transformations_known(save):
  arrays = {
    k.replace("conv", "logits"): a.reshape(*a.shape[:-3], -1)
    if "conv" in k
    else a
    for k, a in MOVED.items()
  }
  likely = measured(save(arrays)).provenance["data"]["output"]
  assert likely == "logits"
  config = MeasureConfig(measures="consistency", transforms="rotation:15")
  given = measured(save(arrays), config, output="block/fc", orbit_known=True)
  assert given.provenance["data"]["output"] == "block/fc"
  rows = given.table[given.table["measure"] == "consistency"]
  assert rows["theta"].tolist() == ["0", "15", "-15"]
  assert set(rows["transform"]) == {"rotation"}


def test_activations_are_measured_by_the_command(measure, save, tmp_path):
  path = save(MOVED | {"labels": LABELS})
  code, out, err, workdir = measure(
    f"--activations={path}", "--measures=invariance_error,accuracy"
  )
  assert code == 0, err
  assert out.splitlines()[-1] == str(workdir / "measurements.parquet")
  provenance = json.loads((workdir / "provenance.json").read_text())
  assert provenance["data"]["source"] == "the user's activations"
  assert provenance["data"]["dataset"] == "activations.npz"
  assert str(tmp_path) not in json.dumps(provenance)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"labels": LABELS}, "has no array reference/LAYER"),
    ({"conv": CONV}, "has an array 'conv'; expected reference/LAYER,"),
    ({"reference/conv": CONV}, r"reference has layers \['conv'\], transformed"),
    (MOVED | {"reference/conv": np.zeros(8)}, r"reference/conv has shape \(8,"),
    (
      MOVED | {"transformed/conv": CONV[:, 0, 0]},
      r"transformed/conv has shape \(8, 3\), expected \(t, n, ...\)",
    ),
    (MOVED | {"reference/conv": CONV > 0}, "reference/conv is of type bool"),
    (
      MOVED | {"transformed/conv": MOVED["transformed/conv"][:, :7]},
      r"transformed\['conv'\] has shape",
    ),
    (MOVED | {"labels": LABELS[1:]}, r"labels have shape \(7,\), expected"),
    (MOVED | {"reference/conv": CONV * np.nan}, "not finite"),
  ],
)
def test_arrays_that_are_no_activations_are_refused(save, arrays, message):
  path = save(arrays)
  with pytest.raises(ExperimentError, match=message) as caught:
    measured(path)
  assert str(path) in str(caught.value)


@pytest.mark.parametrize(
  ("config", "options", "message"),
  [
    (GIVEN, {"output": "fc"}, "--output=fc is not one of conv, block/fc"),
    (
      MeasureConfig(measures="accuracy"),
      {},
      "--measures: accuracy needs labels",
    ),
    (
      MeasureConfig(transforms="rotation:15,scaling:x2"),
      {"orbit_known": True},
      "are 2 orbits; the file holds one",
    ),
    (
      MeasureConfig(measures="accuracy"),
      {"by_name": False},
      "leaves nothing to measure: no labels, so accuracy is left out",
    ),
  ],
)
def test_flags_that_do_not_fit_the_file_are_refused(
  save, config, options, message
):
  with pytest.raises(UsageError, match=message):
    measured(save(MOVED), config, **options)


def test_a_wrong_number_of_transformations_is_refused(save):
  config = MeasureConfig(measures="consistency", transforms="rotation:15/30")
  with pytest.raises(ExperimentError, match=r"3.*5|5.*3"):
    measured(save(MOVED), config, orbit_known=True)
