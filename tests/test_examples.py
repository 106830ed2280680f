"""The examples do what their docstrings say, by the commands given there."""

import importlib
import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from examples import digits, pytorch_export
from experiments import user_activations
from experiments.config import MeasureConfig
from tests.experiments.conftest import fresh_flags, run  # noqa: F401 (fixtures)

ROOT = Path(__file__).parent.parent
MODELS = ("flax_linen_module", "flax_nnx_module", "equinox_module")


@pytest.fixture(autouse=True)
def users_settings():
  """Stock layers promote types and ranks, as users' settings let them."""
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  path = tmp_path_factory.mktemp("images") / "digits.npz"
  digits.write(path)
  return path


def arguments(docstring, places):
  """The flags of the docstring's command, its files being elsewhere."""
  text = docstring.replace("\\\n", " ")
  (line,) = re.findall(r"^ +python -m experiments\.measure (.*)$", text, re.M)
  flags = dict(flag.split("=", 1) for flag in line.split())
  return [f"{name}={places.get(name, value)}" for name, value in flags.items()]


def printed_table(text):
  """The words of each line of a printed table."""
  lines = [line.split() for line in text.splitlines()]
  start = next(i for i, line in enumerate(lines) if line[:1] == ["layer"])
  end = next(
    i for i, line in enumerate(lines) if "measurements" in "".join(line)
  )
  return lines[start:end]


def measured(run, *flags):  # noqa: F811
  code, out, err = run(runpy.run_module("experiments.measure")["main"], *flags)
  assert code == 0, err
  return out


@pytest.mark.parametrize("name", MODELS)
def test_a_module_is_measured_as_its_docstring_says(
  name,
  images,
  run,  # noqa: F811
  tmp_path,
):
  if name == "equinox_module":
    pytest.importorskip("equinox")
  docstring = importlib.import_module(f"examples.{name}").__doc__
  workdir = tmp_path / "out"
  places = {
    "--workdir": workdir,
    "--images": images,
    "--model": ROOT / "examples" / f"{name}.py:make_model",
  }
  out = measured(run, *arguments(docstring, places))
  assert out.splitlines()[-1] == str(workdir / "measurements.parquet")
  expected, found = printed_table(docstring), printed_table(out)
  assert [line[:-1] for line in found] == [line[:-1] for line in expected]
  for line, other in zip(found[1:], expected[1:], strict=True):
    # Rounding decides which class wins for few images.
    assert float(line[-1]) == pytest.approx(float(other[-1]), abs=0.02), line

  provenance = json.loads((workdir / "provenance.json").read_text())
  table = pd.read_parquet(workdir / "measurements.parquet")
  rows = table[table["measure"] == "equivariance_error"]
  located = provenance["geometry"]
  assert provenance["geometry_source"] == "probed"
  assert len(located) >= 3
  assert set(located) == set(rows["layer"][rows["value"].notna()])
  # A shift by a whole number of strides is exact away from the border.
  for layer, where in located.items():
    if where["stride"] == 1:
      values = rows["value"][rows["layer"] == layer]
      np.testing.assert_allclose(values, 0, atol=1e-5)


# --- PyTorch -----------------------------------------------------------------


def by_numpy(images):
  """What a torch network would give, channels first, without torch."""
  x = np.moveaxis(images, -1, 1)
  pool = x.reshape(len(x), 1, 16, 2, 16, 2).max(axis=(3, 5))
  pool = np.concatenate([pool, -pool], axis=1)
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(pool[0].size, 10)).astype(np.float32)
  return {"pool": pool, "logits": pool.reshape(len(x), -1) @ weights}


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "activations.npz"
  with np.load(images) as arrays:
    pixels = arrays["images"][:16].astype(np.float32) / 255
    pytorch_export.save(path, by_numpy, pixels, arrays["labels"][:16])
  return path


def test_exported_activations_are_measured_as_the_docstring_says(
  exported,
  run,  # noqa: F811
  tmp_path,
):
  places = {"--workdir": tmp_path / "out", "--activations": exported}
  out = measured(run, *arguments(pytorch_export.__doc__, places))
  table = printed_table(out)
  expected = printed_table(pytorch_export.__doc__)
  assert [line[:-1] for line in table] == [line[:-1] for line in expected]
  assert ["output", "translation", "0", "px", "consistency", "1.0000"] in table


def test_the_transformations_are_those_that_the_flags_name():
  config = MeasureConfig(transforms="translation:1")
  orbit = user_activations.known_orbit(config)
  assert orbit.thetas == tuple(map(tuple, pytorch_export.ELEMENTS))


def test_a_torch_network_is_exported(images, tmp_path):
  pytest.importorskip("torch")
  path = tmp_path / "activations.npz"
  with np.load(images) as arrays:
    pixels = arrays["images"][:4].astype(np.float32) / 255
    pytorch_export.save(
      path, pytorch_export.torch_forward(), pixels, arrays["labels"][:4]
    )
  with np.load(path) as arrays:
    assert list(arrays)[:2] == ["labels", "reference/conv"]
    assert arrays["transformed/conv"].shape == (5, 4, 8, 32, 32)
    assert arrays["transformed/logits"].shape == (5, 4, 10)
    np.testing.assert_allclose(
      arrays["transformed/conv"][0], arrays["reference/conv"], atol=1e-6
    )
