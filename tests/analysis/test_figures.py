import io
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from analysis import figures
from analysis.figures import layers, style
from models.cnn import CNN

RUNS = [("max", 1), ("none", 1), ("max", 2), ("none", 2)]
ORBITS = {
  "translation": ["0,0", "2,0", "-2,0", "4,0"],
  "rotation": ["0", "15", "-15"],
  "scaling": ["0", "0.263034", "-0.263034"],
  "translation_map": [f"{x},{y}" for y in (-2, 0, 2) for x in (-2, 0, 2)],
}


def _run(pooling, depth):
  return {
    "run": f"{pooling}-{depth}",
    "dataset": "digits",
    "model": "cnn",
    "pooling": pooling,
    "depth": depth,
    "padding": "same",
    "head": "dense",
    "augmentation": "none",
    "width": 4,
  }


def _layers(depth):
  names = [f"{k}{i}" for i in range(1, depth + 1) for k in ("conv", "relu")]
  return [*names, "logits"]


@pytest.fixture(scope="module")
def table():
  """A made-up study of the right form."""
  rng = np.random.default_rng(0)
  rows = []
  for pooling, depth in RUNS:
    for seed in range(3):
      for stage in ("init", "trained"):
        for orbit, thetas in ORBITS.items():
          for theta in thetas:
            numbers = [float(v) for v in theta.split(",")]
            magnitude = float(np.linalg.norm(numbers))
            common = _run(pooling, depth) | {
              "seed": seed,
              "stage": stage,
              "orbit": orbit,
              "transform": orbit.removesuffix("_map"),
              "theta": theta,
              "magnitude": magnitude,
              "unit": "u",
              "displacement_px": magnitude,
              "lost_intensity": 0.0,
              "floor": np.nan,
              "n_images": 16,
              "dead_fraction": 0.0,
              "total_variance": 1.0,
              "note": "",
            }
            for i, layer in enumerate(_layers(depth)):
              value = magnitude / 10 + rng.uniform(0, 0.1)
              rows.append(
                common
                | {"layer": layer, "layer_index": i, "value": value}
                | {"measure": "invariance_error"}
              )
              rows.append(
                common
                | {"layer": layer, "layer_index": i, "floor": 0.01}
                | {"measure": "equivariance_error", "value": magnitude / 20}
              )
              rows.append(
                common
                | {"layer": layer, "layer_index": i, "theta": "all"}
                | {"measure": "normalized_variance", "value": 0.5 + i / 10}
                | {"magnitude": 4.0}
              )
            for measure in ("accuracy", "consistency"):
              rows.append(
                common
                | {"layer": "output", "layer_index": 9, "measure": measure}
                | {"value": 1 - magnitude / 100}
              )
  return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def curves():
  rng = np.random.default_rng(1)
  return pd.DataFrame(
    [
      _run(pooling, depth)
      | {"seed": seed, "epoch": epoch, "train_loss": rng.uniform()}
      | {"test_loss": rng.uniform(), "test_accuracy": rng.uniform()}
      for pooling, depth in RUNS
      for seed in range(3)
      for epoch in (1, 2, 3)
    ]
  )


DRAWN = {
  "invariance_by_layer": figures.invariance_by_layer,
  "dose_response": figures.dose_response,
  "sensitivity_map": figures.sensitivity_map,
  "measures_by_layer": figures.measures_by_layer,
  "accuracy_and_consistency": figures.accuracy_and_consistency,
  "training_curves": figures.training_curves,
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_redrawn_from_the_same_table_has_the_same_bytes(
  name, table, curves
):
  source = curves if name == "training_curves" else table
  first, again = (figures.render(DRAWN[name](source.copy())) for _ in range(2))
  assert first == again
  pixels = imread(io.BytesIO(first[".png"]))
  assert min(pixels.shape[:2]) > 300
  assert pixels.std() > 0.02  # something is drawn
  svg = first[".svg"].decode()
  ET.fromstring(svg)
  assert "dc:date" not in svg
  moved = source.copy()
  column = "test_loss" if name == "training_curves" else "value"
  moved[column] = moved[column] * 0.5
  assert figures.render(DRAWN[name](moved)) != first


def test_invariance_by_layer_has_a_panel_a_family_and_a_line_a_stage(table):
  figure = figures.invariance_by_layer(table)
  assert [axis.get_title() for axis in figure.axes] == [
    "translation by 2 px",
    "rotation by 15°",
    "scaling by factor 1.2",
  ]
  for axis in figure.axes:
    lines = [a for a in axis.lines if a.get_marker() in style.MARKERS]
    lines = [a for a in lines if np.asarray(a.get_xdata())[0] == 0]
    assert len(lines) == len(RUNS) * 2
    dashed = [line for line in lines if line.get_linestyle() == "--"]
    assert len(dashed) == len(RUNS)
    assert axis.get_xlabel() == "layer"
  assert figure.axes[0].get_ylabel() == "invariance error"


def test_what_is_drawn_is_the_mean_over_seeds_and_directions(table):
  figure = figures.dose_response(table)
  axis = next(
    a for a in figure.axes if a.get_title() == "max pooling, depth 1: rotation"
  )
  line = next(a for a in axis.lines if a.get_label() == "conv1")
  rows = table[
    (table["run"] == "max-1")
    & (table["layer"] == "conv1")
    & (table["measure"] == "invariance_error")
    & (table["stage"] == "trained")
    & (table["orbit"] == "rotation")
  ]
  assert np.asarray(line.get_xdata()).tolist() == [0, 15]
  expected = rows.groupby("magnitude")["value"].mean()
  np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)


def test_scaling_is_drawn_with_its_sign(table):
  figure = figures.accuracy_and_consistency(table)
  axis = next(a for a in figure.axes if a.get_title() == "scaling")
  x = np.asarray(axis.lines[0].get_xdata())
  np.testing.assert_allclose(x, [-0.263034, 0, 0.263034])


def test_other_measures_have_a_row_each_and_say_what_they_are_of(table):
  assert figures.other_measures(table) == [
    "equivariance_error",
    "normalized_variance",
  ]
  figure = figures.measures_by_layer(table)
  assert [axis.get_title() for axis in figure.axes] == [
    "translation by 2 px",
    "rotation by 15°",
    "scaling by factor 1.2",
    *(
      f"{name}: whole orbit" for name in ("translation", "rotation", "scaling")
    ),
  ]
  for row in (figure.axes[:3], figure.axes[3:]):
    assert len({axis.get_ylim() for axis in row}) == 1
    values = [np.asarray(line.get_ydata()) for a in row for line in a.lines]
    low, high = row[0].get_ylim()
    assert low <= min(v.min() for v in values)
    assert high >= max(v.max() for v in values)
  assert "equivariance error" in figure.axes[0].get_ylabel()
  floors = [a for a in figure.axes[0].lines if a.get_linestyle() == ":"]
  assert len(floors) == len(RUNS)
  assert set(np.concatenate([line.get_ydata() for line in floors])) == {0.01}


def test_a_derivative_alone_has_a_figure_too(table):
  rows = table[table["measure"] == "normalized_variance"]
  rows = rows.assign(
    measure="lie_derivative", magnitude=np.nan, theta="d/dangle_deg"
  )
  rows = rows[rows["orbit"] == "rotation"]
  (axis,) = figures.measures_by_layer(rows).axes
  assert axis.get_title() == "rotation: derivative"


@pytest.mark.parametrize(
  ("names", "text"),
  [
    (
      ["translation", "rotation", "scaling"],
      "Translation is averaged over right, left, down and up, rotation over"
      " both directions; scaling magnifies. ",
    ),
    (["scaling", "quarter_turn"], "Scaling magnifies. "),
    (["reflection"], ""),
    (
      ["shear", "mine"],
      "Shear is averaged over both axes and directions, mine over all as far"
      " from the identity. ",
    ),
  ],
)
def test_captions_speak_of_the_families_that_are_shown(names, text):
  assert style.directions(names) == text


@pytest.mark.parametrize(
  ("names", "text"),
  [
    (["rotation"], "Rotation is averaged over directions. "),
    (
      ["translation", "rotation", "scaling"],
      "Translation and rotation are averaged over directions. ",
    ),
    (
      ["translation", "shear", "reflection", "mine"],
      "Translation, shear and mine are averaged over directions. ",
    ),
    (["scaling", "reflection"], ""),
  ],
)
def test_captions_of_all_doses_do_too(names, text):
  assert style.averaged(names) == text


def test_the_sensitivity_map_shows_the_deepest_networks_side_by_side(table):
  figure = figures.sensitivity_map(table, layers=["logits"])
  titles = [a.get_title() for a in figure.axes if a.get_title()]
  assert titles == [
    "logits: max pooling, depth 2",
    "logits: no pooling, depth 2",
  ]
  assert figure.axes[0].yaxis_inverted()  # + is down, as in images


@pytest.mark.parametrize("name", DRAWN)
def test_captions_say_how_many_seeds(name, table, curves):
  source = curves if name == "training_curves" else table
  text = DRAWN[name](source).get_supxlabel().replace("\n", " ")
  assert "n = 3 seeds" in text
  assert "on scikit-learn's digits" in text
  if name != "training_curves":
    assert "16 test images" in text


def test_one_seed_is_drawn_and_said_to_have_no_interval(table, curves):
  for name, draw in DRAWN.items():
    source = curves if name == "training_curves" else table
    text = draw(source[source["seed"] == 0]).get_supxlabel()
    if name != "sensitivity_map":
      assert "1 seed, so no interval" in text.replace("\n", " ")


@pytest.mark.parametrize(
  ("model", "pooling", "label"),
  [
    ("cnn", "max", "max pooling, depth 2"),
    ("cnn", "max_blur:3", "max + blur 3 pooling, depth 2"),
    ("cnn", "aps", "adaptive polyphase, depth 2"),
    ("local", "none", "untied weights, no pooling, depth 2"),
    ("p4mcnn", "avg", "p4m group, avg pooling, depth 2"),
    ("mlp", "", "fully connected, depth 2"),
  ],
)
def test_labels_say_what_a_network_is(model, pooling, label):
  rows = pd.DataFrame([_run(pooling, 2) | {"model": model}])
  assert [s.label for s in style.architectures(rows)] == [label]


def test_layers_of_a_block_stand_in_forward_order():
  names = CNN(
    depth=2, norm="group", residual=True, pooling="max_blur", activation="gelu"
  ).layer_names
  table = pd.DataFrame({"layer": sorted(names)})
  assert tuple(layers.layer_positions(table)) == names


def test_colours_differ_in_lightness_so_that_grey_prints_work(table):
  styles = style.architectures(table)
  by_depth = {s.depth: [] for s in styles}
  for s in styles:
    red, green, blue = (int(s.colour[i : i + 2], 16) for i in (1, 3, 5))
    by_depth[s.depth].append(0.299 * red + 0.587 * green + 0.114 * blue)
  for grey in by_depth.values():
    assert abs(grey[0] - grey[1]) > 50  # of 255
  assert len({s.marker for s in styles}) == 2
