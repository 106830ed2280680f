"""Shears, mirrors, matrices and compositions from the flag to the figures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import figures, statistics, transforms
from analysis.figures import style
from experiments import building, measuring
from experiments.config import MeasureConfig, ModelConfig, TrainConfig
from experiments.errors import UsageError
from models import platform

FORMS = (
  "translation:1,shear:0.2,reflection,quarter_turn,scaling:x1.2+rotation:9"
)
CONFIG = MeasureConfig(
  measures="invariance_error,accuracy,consistency",
  transforms=FORMS,
  shift_map="",
  measure_examples=8,
)


def changed(**fields):
  return dataclasses.replace(CONFIG, **fields)


# --- flags -------------------------------------------------------------------


def test_orbits_take_border_and_order():
  orbits = measuring.parse_orbits(changed(border="circular", order=3))
  assert {(o.border, o.order) for o in orbits} == {("circular", 3)}
  assert [o.name for o in orbits] == [o.family.name for o in orbits]
  grid = measuring.parse_shift_map(changed(border="reflect", shift_map="2:1"))
  assert grid is not None
  assert (grid.border, grid.name) == ("reflect", "translation_map")
  assert measuring.parse_orbits(CONFIG)[0].border == "zero"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"border": "wrap"}, "--border=wrap is not one of .*'circular', 'refl"),
    ({"order": 2}, r"--order=2 is not one of \(1, 3\)"),
    ({"transforms": "matrix:x.csv"}, "--transforms=matrix:x.csv: x.csv cannot"),
    ({"transforms": "scaling:2000"}, "--transforms=scaling:2000: element 2 of"),
  ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_cannot_be_measured_is_refused(fields, message):
  with pytest.raises(UsageError, match=f"^{message}"):
    measuring.parse_orbits(changed(**fields))


# --- augmentation ------------------------------------------------------------


def test_images_can_be_sheared_at_random(monkeypatch):
  monkeypatch.setattr(transforms, "affine_warp", lambda images, matrix: matrix)
  augment = building.make_augmentation(TrainConfig(augment="shear:0.2"))
  assert augment is not None
  matrices = np.asarray(augment(jax.random.key(0), jnp.zeros((64, 4, 4, 1))))
  sheared = matrices[:, [0, 1], [1, 0]]
  assert 0.19 < np.abs(sheared).max() <= 0.2
  assert (sheared.min(axis=0) < -0.15).all()
  np.testing.assert_array_equal(
    matrices, transforms.shear.matrix(jnp.asarray(sheared))
  )


@pytest.mark.parametrize(
  "augment",
  ["reflection", "quarter_turn", "matrix:a.csv", "scaling:x1.2+rotation:9"],
)
def test_what_has_no_size_is_not_drawn_at_random(augment):
  with pytest.raises(
    UsageError, match=f"^--augment={augment}".replace("+", r"\+")
  ):
    building.make_augmentation(TrainConfig(augment=augment))


# --- tables and figures ------------------------------------------------------


@pytest.fixture(scope="module")
def table(mlp, small, tmp_path_factory):
  """A trained network, so to say, on a circular canvas."""
  path = tmp_path_factory.mktemp("matrices") / "mine.csv"
  # Four elements, as reflections: orbits of one size share a program.
  path.write_text("1,0.1,0,0,1,0\n0.8,0,1,0,0.8,0\n1,0.3,0,0,1,0\n")
  config = changed(transforms=f"{FORMS},matrix:{path}", border="circular")
  columns = measuring.run_columns(
    "mlp", "digits", ModelConfig(model="mlp", depth=1, width=8), ""
  )
  params = platform.jit(mlp.init, once=True)(
    jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  measured = measuring.measure_network(mlp, params, small, config, "trained")
  return measuring.tagged(measured, columns, 0, "trained")


NAMES = [
  "translation",
  "shear",
  "reflection",
  "quarter_turn",
  "scaling+rotation",
  "mine",
]


def test_every_family_has_finite_values_and_an_exact_identity(table):
  rows = table[table["measure"] == "invariance_error"]
  assert list(rows["orbit"].unique()) == NAMES
  assert (rows["orbit"] == rows["transform"]).all()
  assert np.isfinite(rows["value"]).all()
  still = rows["magnitude"] == 0
  assert set(rows["orbit"][still]) == set(NAMES)
  np.testing.assert_allclose(rows["value"][still], 0, atol=1e-6)
  assert (rows["value"][~still] > 0.01).all()


def test_summaries_tell_mirrors_and_signs_of_compositions_apart(table):
  summary = statistics.summarize(table)
  rows = summary[summary["measure"] == "consistency"].set_index("transform")
  doses = {name: sorted(set(rows["dose"][[name]])) for name in NAMES}
  assert doses["reflection"] == doses["quarter_turn"] == [0, 1, 2, 3]
  np.testing.assert_allclose(doses["shear"], [0, 0.2])
  assert len(doses["scaling+rotation"]) == 3  # magnified, shrunk, neither
  np.testing.assert_allclose(doses["mine"], [0, 0.1, 0.3, 1.08**0.5])


@pytest.mark.parametrize(
  "draw",
  [
    figures.invariance_by_layer,
    figures.dose_response,
    figures.accuracy_and_consistency,
  ],
)
def test_every_family_has_a_panel_and_no_other_is_spoken_of(draw, table):
  figure = draw(table)
  caption = " ".join(figure.get_supxlabel().split()).lower()
  assert "shear" in caption
  assert "scaling+rotation" in caption
  assert "scaling magnifies" not in caption
  assert " rotation" not in caption
  titles = [axis.get_title() for axis in figure.axes]
  for name in NAMES:
    assert any(name in title for title in titles)


def test_reference_doses_are_named(table):
  summary = statistics.summarize(table)

  def named(family, rows=summary):
    return style.at_reference(rows, family)[1]

  assert named("reflection") == "left-right mirror"
  assert named("reflection", summary[summary["dose"] > 1]) == "up-down mirror"
  assert named("quarter_turn") == "90°"
  assert named("shear") == "0.2 px per px"
  assert named("mine") == "0.1 matrix distance"


def test_rows_without_a_dose_have_no_panel(table):
  given = table.assign(transform="given", magnitude=np.nan)
  assert style.families(given) == []
