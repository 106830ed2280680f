"""The catalogue of claims, and reading values off tables made by hand."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from analysis.claims import CLAIMS
from analysis.claims.base import (
  RULES,
  At,
  Part,
  Select,
  Term,
  difference,
  value,
)
from analysis.claims.evidence import Evidence, NotTestedError, UndefinedError
from analysis.claims.verdicts import compares_trained
from analysis.measures import MEASURES, ROWS
from analysis.orbits import measure
from experiments import building, measuring
from experiments.presets import PRESETS, changed
from tests.analysis import networks as toys

_BY_ID = {claim.id: claim for claim in CLAIMS}
_OF_NETWORKS = {"test_accuracy", "edge_detectors"}


# --- the catalogue -----------------------------------------------------------


def _selects(parts):
  return [term.select for part in parts for term in part.terms]


def _refusals(parts, preset):
  """What the preset cannot tell of the parts."""
  study = PRESETS[preset]
  cells = {cell.name: cell for cell in study.cells}
  for select in _selects(parts):
    if select.cell not in cells:
      yield f"{preset} has no {select.cell!r}"
      continue
    if select.measure in _OF_NETWORKS:
      continue
    cell = cells[select.cell]
    model = building.build_model(
      changed(study.model, cell.model), num_classes=10, canvas=32
    )
    layers = {*model.geometry(32), "output"}
    if not set(select.layers) <= layers:
      yield f"{select.cell!r} has no {select.layers}"
    measuring_flags = changed(study.measure, cell.measure)
    name = ROWS.get(select.measure, select.measure)
    if name not in MEASURES or name not in measuring_flags.measures.split(","):
      yield f"no {select.measure} of {select.cell!r}"
    orbits = {o.name: o for o in measuring.parse_orbits(measuring_flags)}
    for at in select.at:
      if at.transform not in orbits:
        yield f"no {at.transform} of {select.cell!r}"
      elif at.dose is not None:
        o = orbits[at.transform]
        doses = [o.family.magnitude(t) for t in o.thetas]
        if not np.isclose(doses, at.dose, atol=1e-3).any():
          yield f"no {at} of {select.cell!r}"


def test_claims_have_short_names_of_their_own():
  assert len(CLAIMS) >= 18
  assert len(_BY_ID) == len(CLAIMS)
  for name in _BY_ID:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)
  assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=_BY_ID)
def test_a_claim_says_what_is_claimed_by_whom_and_how_it_is_decided(claim):
  assert all([claim.statement, claim.source, claim.quantity, claim.reason])
  assert bool(claim.parts) != bool(claim.exact)
  for part in (*claim.parts, *claim.beside):
    assert part.rule in RULES
    assert part.margin > 0
    assert part.terms
    assert all(term.weight and term.select.at for term in part.terms)
    assert {s.stage for s in _selects([part])} <= {"trained", "init"}
  labels = [part.label for part in (*claim.parts, *claim.beside)]
  assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("claim", CLAIMS, ids=_BY_ID)
def test_the_preset_of_a_claim_tests_it(claim):
  assert claim.preset in PRESETS
  assert not list(_refusals(claim.parts, claim.preset))


@pytest.mark.parametrize("claim", CLAIMS, ids=_BY_ID)
def test_the_preset_mnist_tests_all_and_what_stands_beside(claim):
  parts = (*claim.parts, *claim.beside)
  assert not list(_refusals(parts, "mnist"))
  cells = {cell.name for cell in PRESETS["mnist"].cells}
  assert set(claim.view.cells) <= cells


@pytest.mark.parametrize("claim", CLAIMS, ids=_BY_ID)
def test_where_accuracy_confounds_the_claim_says_so(claim):
  """Trained networks against each other, in anything but accuracy itself."""
  parts = [part for part in claim.parts if compares_trained(part)]
  others = [
    part
    for part in parts
    if {s.measure for s in _selects([part])} != {"test_accuracy"}
  ]
  assert claim.confounded == bool(others)


def test_what_a_preset_lacks_is_found():
  wrong = (
    *(Select("nobody"), Select("depth 2", layers=("relu3",))),
    *(Select("pooled", "no_measure"), Select("averaged", "goodfellow")),
    *(Select("wrapped"), Select("pooled", at=(At("rotation", 16.0),))),
  )
  for select in wrong:
    assert list(_refusals((Part("", value(select)),), "mnist"))


def test_bounds_of_differences_are_not_asked_for_as_values():
  # A difference is signed so that what is predicted is positive.
  for claim in CLAIMS:
    for part in claim.parts:
      total = sum(term.weight for term in part.terms)
      assert total == (1 if part.rule.startswith("at_") else 0), part.label


def test_every_measure_of_the_catalogue_has_rows_where_it_is_read():
  selects = _selects(p for c in CLAIMS for p in (*c.parts, *c.beside))
  selects = [s for s in selects if s.measure not in _OF_NETWORKS]
  images = np.random.default_rng(0).random((6, 16, 16, 1), dtype=np.float32)
  table = measure(
    toys.plain,
    images,
    {"rotation": [0.0, 15.0, -15.0]},
    sorted({ROWS.get(s.measure, s.measure) for s in selects}),
    geometry=toys.PLAIN_GEOMETRY,
    labels=np.asarray(toys.plain(images)[0]).argmax(1),
  ).assign(run="toy", stage="trained", seed=0)
  evidence = Evidence(table, pd.DataFrame(), pd.DataFrame(), {"toy": "toy"})
  read = {
    (s.measure, at.dose is None and at.displacement is None, layer == "output")
    for s in selects
    for at, layer in itertools.product(s.at, s.layers)
  }
  assert len(read) >= 9
  for name, whole, output in read:
    layer = "output" if output else "relu1"
    at = At("rotation", None if whole else 15.0)
    found = evidence.select(Select("toy", name, (at,), (layer,)))
    assert np.isfinite(found).all()


# --- evidence ----------------------------------------------------------------


def _row(seed, number, **more):
  row = {
    "run": "run of a",
    "stage": "trained",
    "measure": "invariance_error",
    "layer": "logits",
    "transform": "rotation",
    "theta": "15",
    "magnitude": 15.0,
    "displacement_px": 2.0,
    "value": number,
    "floor": 0.0,
    "note": "",
    "seed": seed,
  } | more
  return {"orbit": row["transform"]} | row


def _evidence(rows, networks=()):
  return Evidence(
    pd.DataFrame(rows),
    pd.DataFrame(
      list(networks), columns=["cell", "seed", "stage", "test_accuracy"]
    ),
    pd.DataFrame(),
    {"a": "run of a", "b": "run of b"},
  )


_ROTATION = At("rotation", 15.0)
_A, _B = Select("a", at=(_ROTATION,)), Select("b", at=(_ROTATION,))


def test_a_selection_is_the_mean_over_layers_and_transformations():
  places = itertools.product(("conv1", "conv2"), ("rotation", "shear"))
  rows = [
    _row(seed, 10.0**i + seed, layer=layer, transform=transform)
    for i, (layer, transform) in enumerate(places)
    for seed in (3, 1)
  ]
  select = Select(
    *("a", "invariance_error", (_ROTATION, At("shear", 15.0))),
    layers=("conv1", "conv2"),
  )
  found = _evidence(rows).select(select)
  assert found.to_dict() == {3: 1111 / 4 + 3, 1: 1111 / 4 + 1}
  one = select._replace(layers=("conv2",), at=(_ROTATION,))
  assert _evidence(rows).select(one).to_dict() == {3: 103.0, 1: 101.0}


def test_contrasts_are_paired_by_seed():
  rows = [
    *(_row(seed, v) for seed, v in ((2, 9.0), (0, 5.0), (1, 7.0))),
    *(_row(s, v, run="run of b") for s, v in ((4, 1.0), (1, 3.0), (2, 2.0))),
  ]
  found = _evidence(rows).contrast(difference(_A, _B))
  assert list(found.items()) == [(1, 4.0), (2, 7.0)]
  halves = (Term(0.5, _A), Term(-2.0, _B))
  assert _evidence(rows).contrast(halves).tolist() == [-2.5, 0.5]


def test_a_floor_is_taken_away_where_asked_for():
  evidence = _evidence([_row(0, 0.75, floor=0.5), _row(1, 1.0, floor=0.5)])
  above = _A._replace(above_floor=True)
  assert evidence.select(above).tolist() == [0.25, 0.5]
  assert evidence.select(_A).tolist() == [0.75, 1.0]


def test_the_floor_of_a_contrast_is_the_contrast_of_floors():
  rows = [
    *(_row(0, 0.75, floor=0.5), _row(1, 1.0, floor=0.6)),
    *(_row(s, 0.5, run="run of b", floor=0.2) for s in (0, 1)),
  ]
  evidence = _evidence(rows)
  assert evidence.floor(value(_A)) == pytest.approx(0.55)
  assert evidence.floor(difference(_A, _B)) == pytest.approx(0.35)
  # One that is taken away is named all the same.
  above = value(_A._replace(above_floor=True))
  assert evidence.floor(above) == pytest.approx(0.55)


def test_what_has_no_floor_has_none():
  evidence = _evidence([_row(0, 0.75, floor=np.nan), _row(1, 1.0)])
  assert np.isnan(evidence.floor(value(_A)))
  evidence.networks["score"] = []
  assert np.isnan(evidence.floor(value(Select("a", "score"))))


def test_directions_are_averaged_and_other_doses_left_out():
  rows = [
    *(_row(0, 1.0), _row(0, 3.0, theta="-15")),
    *(_row(0, 50.0, theta="30", magnitude=30.0), _row(0, 70.0, theta="all")),
    _row(0, 90.0, orbit="translation_map"),
  ]
  assert _evidence(rows).select(_A).tolist() == [2.0]
  whole = _A._replace(at=(At("rotation"),))
  assert _evidence(rows).select(whole).tolist() == [70.0]


def test_magnifying_is_not_averaged_with_shrinking():
  scaling = {"transform": "scaling", "magnitude": 0.263}
  rows = [
    _row(0, 1.0, theta="0.263034", **scaling),
    _row(0, 3.0, theta="-0.263034", **scaling),
  ]
  for dose, expected in ((np.log2(1.2), 1.0), (-np.log2(1.2), 3.0)):
    at = At("scaling", float(dose))
    assert _evidence(rows).select(Select("a", at=(at,))).tolist() == [expected]


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_a_value_without_one_direction_is_undefined(missing):
  rows = [
    *(_row(0, 1.0), _row(0, missing, theta="-15", note="the image is lost")),
    *(_row(1, 1.0), _row(1, 2.0, theta="-15")),
  ]
  with pytest.raises(UndefinedError, match=r"at 15 is undefined.*is lost"):
    _evidence(rows).select(_A)


def test_stages_are_told_apart():
  evidence = _evidence([_row(0, 1.0), _row(0, 2.0, stage="init")])
  assert evidence.select(_A).tolist() == [1.0]
  assert evidence.select(_A._replace(stage="init")).tolist() == [2.0]


@pytest.mark.parametrize(
  ("select", "message"),
  [
    (Select("nobody"), "no network 'nobody'"),
    (_A._replace(measure="cka"), "no cka of logits under rotation of 'a'"),
    (_A._replace(layers=("relu9",)), "no invariance_error of relu9 under"),
    (_A._replace(stage="init"), "no invariance_error of logits"),
    (_A._replace(at=(At("shear", 0.1),)), "under shear of 'a'"),
    (_A._replace(at=(At("rotation", 16.0),)), "under rotation at 16 of 'a'"),
    (_A._replace(at=(At("rotation"),)), "at the whole orbit of 'a'"),
    (_B, "of 'b'"),
    (Select("a", "test_accuracy", (At(),), stage="init"), "no test_accuracy"),
  ],
)
def test_what_was_not_measured_is_named(select, message):
  accuracies = [("a", 0, "init", np.nan), ("a", 0, "trained", 97.0)]
  with pytest.raises(NotTestedError, match=message):
    _evidence([_row(0, 1.0)], accuracies).select(select)


def test_a_network_without_a_line_in_the_table_of_networks_is_not_tested():
  evidence = _evidence([_row(0, 1.0)], [("a", 0, "trained", 97.0)])
  with pytest.raises(NotTestedError, match="no test_accuracy of 'b'"):
    evidence.select(Select("b", "test_accuracy", (At(),)))


# --- displacement ------------------------------------------------------------


def _line(seed, points, **more):
  """Both directions of doses with such displacements and mean values."""
  return [
    _row(
      seed,
      v + sign * 0.01,
      theta=f"{sign * dose}",
      magnitude=float(dose),
      displacement_px=px,
      **more,
    )
    for dose, px, v in points
    for sign in (-1, 1)
  ]


def _moved(px):
  return Select("a", at=(At("rotation", displacement=px),))


def test_values_are_read_between_doses_at_equal_displacement():
  points = [(20, 3.0, 0.7), (5, 1.0, 0.2), (0, 0.0, 0.0), (10, 1.5, 0.3)]
  rows = _line(0, points) + _line(1, [(5, 2.0, 0.4), (10, 4.0, 0.6)])
  rows.append(_row(0, 99.0, theta="all", displacement_px=3.0))
  for px in (0.5, 1.0, 1.2, 2.0, 3.0):
    found = _evidence(rows).select(_moved(px))
    expected = [
      np.interp(px, [0, 1, 1.5, 3], [0, 0.2, 0.3, 0.7]),
      np.interp(px, [0, 2, 4], [0, 0.4, 0.6]),
    ]
    assert found.tolist() == pytest.approx(expected)


def test_beyond_the_grid_nothing_is_known():
  rows = _line(0, [(5, 2.0, 0.2)]) + _line(1, [(5, 1.9, 0.2)])
  with pytest.raises(
    UndefinedError, match=r"2 px of displacement .* the grid ends before"
  ):
    _evidence(rows).select(_moved(2.0))
  assert _evidence(rows).select(_moved(1.9)).tolist() == pytest.approx(
    [0.19, 0.2]
  )


def test_a_dose_without_value_is_undefined_at_its_displacement():
  rows = _line(0, [(5, 1.0, np.nan), (10, 3.0, 0.2)], note="no reason")
  with pytest.raises(UndefinedError, match="no reason"):
    _evidence(rows).select(_moved(2.0))


def test_a_dose_without_one_direction_is_undefined_at_its_displacement():
  rows = _line(0, [(5, 1.0, 0.1), (10, 3.0, 0.2)])
  rows[0]["value"] = np.nan
  with pytest.raises(UndefinedError):
    _evidence(rows).select(_moved(1.0))


def test_the_reason_is_that_of_the_value_that_is_missing():
  rows = [
    _row(0, 1.0, theta="5", magnitude=5.0, note="another dose's"),
    _row(0, np.nan, note="its own"),
  ]
  with pytest.raises(UndefinedError, match="its own"):
    _evidence(rows).select(_A)
