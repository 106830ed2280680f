import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from analysis import figures
from analysis.claims import verdicts
from analysis.claims.base import Claim, Part, Select, Term, View
from analysis.claims.evidence import Evidence

RUNS = {"one": "run-one", "two": "run-two"}
ORBITS = {
  "translation": ["0,0", "2,0", "-2,0", "4,0", "-4,0"],
  "rotation": ["0", "15", "-15", "30", "-30"],
}


def row(run, seed, stage, orbit, theta, layer, index, measure, value):
  numbers = [0.0] if theta == "all" else [float(v) for v in theta.split(",")]
  magnitude = 30.0 if theta == "all" else float(np.linalg.norm(numbers))
  return {
    "run": run,
    "dataset": "digits",
    "model": "cnn",
    "pooling": run,
    "depth": 1,
    "padding": "same",
    "head": "dense",
    "augmentation": "none",
    "width": 4,
    "seed": seed,
    "stage": stage,
    "layer": layer,
    "layer_index": index,
    "orbit": orbit,
    "transform": orbit,
    "theta": theta,
    "magnitude": magnitude,
    "unit": "u",
    "displacement_px": magnitude / (1 if orbit == "translation" else 8),
    "lost_intensity": 0.0,
    "measure": measure,
    "value": value,
    "floor": 0.1 if measure == "equivariance_error" else np.nan,
    "n_images": 16,
    "dead_fraction": 0.0,
    "total_variance": 1.0,
    "note": "",
  }


@pytest.fixture(scope="module")
def measurements():
  rng = np.random.default_rng(0)
  rows = []
  for run in RUNS.values():
    for seed in range(4):
      for stage in ("init", "trained"):
        for orbit, thetas in ORBITS.items():
          for i, layer in enumerate(("conv1", "relu1", "logits")):
            key = (run, seed, stage, orbit)
            for theta in thetas:
              value = float(rng.uniform(0.1, 0.9))
              for measure in ("invariance_error", "equivariance_error"):
                rows.append(row(*key, theta, layer, i, measure, value))
            for measure in ("normalized_variance", "goodfellow"):
              rows.append(row(*key, "all", layer, i, measure, rng.uniform()))
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def drawn(measurements):
  """Draws the figure of a claim with some view."""

  def draw(view, *, rule="greater", margin=0.05, table=measurements):
    select = Select("one", at=(), layers=("logits",))
    terms = (
      Term(1.0, select._replace(cell="two", measure="test_accuracy")),
      Term(-1.0, select._replace(measure="test_accuracy")),
    )
    part = Part("two less one", terms, rule, margin, "points")
    claim = Claim(
      "a-claim",
      "A claim",
      "a book",
      "A number.",
      "a reason",
      (part,),
      view=view,
    )
    networks = pd.DataFrame(
      {
        "cell": ["one"] * 4 + ["two"] * 4,
        "seed": [*range(4), *range(4)],
        "stage": "trained",
        "test_accuracy": [90.0, 91, 92, 93, 95, 95, 97, 99],
      }
    )
    exact = pd.DataFrame(
      columns=["check", "what", "expected", "obtained", "counted"]
    )
    evidence = Evidence(measurements, networks, exact, RUNS)
    found = verdicts.judge([claim], evidence)
    return figures.claim_figure(claim, found.effects, found.values, table, RUNS)

  return draw


VIEWS = {
  "effects": View(),
  "layer": View("layer", ("one", "two"), layers=(), stages=("trained", "init")),
  "floor": View("layer", ("one",), "equivariance_error", layers=()),
  "two measures": View(
    *("layer", ("one", "two"), "normalized_variance|goodfellow"),
    transforms=("rotation",),
    layers=(),
  ),
  "dose": View("dose", ("one", "two"), layers=("relu1", "logits")),
  "displacement": View(
    "displacement", ("one", "two"), transforms=("translation", "rotation")
  ),
  "absent": View("dose", ("three",)),
}
PANELS = {
  "effects": 0,
  "layer": 2,
  "floor": 2,
  "two measures": 2,
  "dose": 2,
  "displacement": 2,
  "absent": 0,
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_figure_has_its_panels_above_its_effects(drawn, name):
  figure = drawn(VIEWS[name])
  *panels, effects = figure.axes
  assert len(panels) == PANELS[name]  # scaling was not measured
  assert all(axis.lines for axis in panels)
  (label,) = effects.get_yticklabels()
  assert label.get_text() == "two less one  [> 0]"
  picture = imread(io.BytesIO(figures.render(figure)[".png"]))
  assert picture.std() > 0.05


def test_effects_are_in_multiples_of_their_margin(drawn):
  effects = drawn(View(), margin=2.0).axes[-1]
  dots = next(li for li in effects.lines if li.get_marker() == ".")
  assert list(dots.get_xdata()) == [2.5, 2.0, 2.5, 3.0]
  numbers = [text.get_text() for text in effects.texts]
  assert numbers == ["5 points (3.7 to 6.3), n = 4"]


@pytest.mark.parametrize(
  ("rule", "sign"),
  [
    ("at_least", "≥ 0.3"),
    ("at_most", "≤ 0.3"),
    ("equivalent", "within ±0.3"),
  ],
)
def test_a_label_says_what_is_asked(drawn, rule, sign):
  (label,) = drawn(View(), rule=rule, margin=0.3).axes[-1].get_yticklabels()
  assert label.get_text() == f"two less one  [{sign}]"


def test_networks_that_are_the_same_before_training_are_drawn_once(
  drawn, measurements
):
  view = View("dose", ("one", "two"), stages=("trained", "init"))
  names = [text.get_text() for text in drawn(view).legends[0].get_texts()]
  assert names == [
    f"{cell}, {stage}" for cell in RUNS for stage in ("trained", "untrained")
  ]
  before = measurements["stage"] == "init"
  kept = measurements[~(before & (measurements["run"] == "run-two"))]
  same = measurements[before & (measurements["run"] == "run-one")]
  same = same.assign(run="run-two", value=same["value"] * (1 + 1e-6))
  figure = drawn(view, table=pd.concat([kept, same]))
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == ["one, trained", "one, untrained", "two, trained"]


def test_a_scale_that_is_no_longer_linear_says_so(drawn):
  label = "effect, in multiples of its smallest effect of interest"
  assert drawn(View(), margin=5.0).axes[-1].get_xlabel() == label
  assert drawn(View(), margin=0.5).axes[-1].get_xlabel() == (
    f"{label} (beyond 3 on a logarithmic scale)"
  )


def test_numbers_are_drawn_as_claimed_and_as_counted():
  claim = Claim("a", "A.", "s", "q", "r", exact=("sizes",))
  exact = pd.DataFrame(
    [
      ("sizes", "one", 208, 208, 1),
      ("sizes", "other", 0, 3, 225),
      ("else", "third", 1, 1, 1),
    ],
    columns=["check", "what", "expected", "obtained", "counted"],
  )
  figure = figures.exact_figure(claim, exact)
  (axis,) = figure.axes
  numbers = [int(np.asarray(line.get_xdata())[0]) for line in axis.lines]
  assert numbers == [208, 208, 0, 3]
  right, wrong = (axis.lines[i].get_color() for i in (1, 3))
  assert right != wrong
  assert [text.get_text() for text in axis.texts] == [
    "claimed 208, counted 208",
    "claimed 0, counted 3, 225 layers",
  ]
  names = [label.get_text() for label in axis.get_yticklabels()]
  assert names == ["one", "other"]
  assert axis.get_xlim()[1] >= 208


def test_a_figure_is_the_same_twice(drawn):
  one, other = (figures.render(drawn(VIEWS["dose"])) for _ in range(2))
  assert one == other


def test_layers_have_their_floor_dotted(drawn):
  with_floor = drawn(VIEWS["floor"]).axes[0]
  assert any(line.get_linestyle() == ":" for line in with_floor.lines)
  without = drawn(VIEWS["layer"]).axes[0]
  assert not any(line.get_linestyle() == ":" for line in without.lines)
