"""A small report with every verdict, made by the study's own judge."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import figures
from analysis.claims import verdicts
from analysis.claims.base import Claim, Part, Select, difference, value
from analysis.claims.evidence import Evidence
from analysis.figures import style
from analysis.report import Report

HOSTILE = "<script>alert('run')</script>"

SCORES = {
  "low": (0.0, 0.002, -0.002, 0.001, -0.001),
  "high": (0.5, 0.502, 0.498, 0.51, 0.49),
  "wide": (-0.9, 0.8, -0.3, 0.4, 0.1),
}


def _score(cell: str) -> Select:
  return Select(cell, "score", at=())


def _claim(name: str, statement: str, *parts: Part, **more) -> Claim:
  return Claim(
    name,
    statement,
    f"source of {name}",
    f"Quantity of {name}.",
    f"reason of {name}",
    parts,
    **more,
  )


CLAIMS = (
  Claim(
    "counted",
    "Numbers that are counted",
    "arithmetic",
    "Quantity of counted.",
    "exact: a single wrong number refutes it",
    exact=("numbers",),
  ),
  _claim(
    "high-beats-low",
    "High is above low",
    Part("high less low", difference(_score("high"), _score("low"))),
    beside=(
      Part("low less high", difference(_score("low"), _score("high"))),
      Part("low alone", value(_score("low")), "at_most", 0.1, "points"),
    ),
    confounded=True,
  ),
  _claim(
    "low-is-large",
    f"Low is large, says {HOSTILE}",
    Part("low", value(_score("low")), "at_least", 0.25),
    Part("high", value(_score("high")), "at_least", 0.25),
  ),
  _claim(
    "low-is-above-zero", "Low is above 0", Part("low", value(_score("low")))
  ),
  _claim(
    "wide-is-small",
    "Wide is small",
    Part("wide", value(_score("wide")), "equivalent", 0.3, "points"),
  ),
  _claim(
    "nobody-measured",
    "What nobody measured",
    Part("absent", value(_score("absent"))),
    preset="mnist",
  ),
)


def evidence(scores: Mapping[str, Sequence[float]]) -> Evidence:
  """One network a name, with a score a seed."""
  networks = pd.DataFrame(
    [
      (cell, seed, "trained", score, 97.0 + 0.1 * seed)
      for cell, by_seed in scores.items()
      for seed, score in enumerate(by_seed)
    ],
    columns=["cell", "seed", "stage", "score", "test_accuracy"],
  )
  keys = ("run", "stage", "measure", "layer", "transform", "orbit", "theta")
  measurements = pd.DataFrame({name: pd.Series(dtype=str) for name in keys})
  measurements["magnitude"] = pd.Series(dtype=np.float64)
  exact = pd.DataFrame(
    [("numbers", "some", 7, 7, 40)],
    columns=["check", "what", "expected", "obtained", "counted"],
  )
  return Evidence(
    measurements, networks, exact, {cell: cell for cell in scores}
  )


def picture(inches: float = 9.0) -> bytes:
  """A real figure as PNG."""
  figure, axes = style.new_figure(1, 1, (inches, 3.0))
  axes[0, 0].plot([0, 1], [0, 1])
  return figures.render(figure)[".png"]


def example() -> Report:
  """A report whose names are out to do harm."""
  found = verdicts.judge(CLAIMS, evidence(SCORES))
  png = picture()
  shown = found.claims["claim"][found.claims["figure"] != ""]
  pictures = {f"claim_{name}": png for name in shown}
  pictures |= {"invariance_by_layer": png, "training_curves": png}
  captions = {f"claim_{name}": f"What {name} rests on" for name in shown}
  captions["invariance_by_layer"] = f'Layers of "{HOSTILE}"'
  controls = pd.DataFrame(
    [("identity", "at most 0.0001", 2.5e-7, True), ("other", 1.0, 0.5, False)],
    columns=["control", "expected", "obtained", "holds"],
  )
  floors = pd.DataFrame(
    [
      ("low", "conv1", "rotation by 15°", 0.21234, "0.2 to 0.225", 0.2, 5),
      ("low", "conv2", *[None] * 5),
    ],
    columns=[
      *("cell", "layer", "transform", "equivariance_error", "interval"),
      *("floor", "n_seeds"),
    ],
  )
  networks = pd.DataFrame(
    [("low", HOSTILE, 7370, "97.00 %"), ("high", "no run", 168650, None)],
    columns=["cell", "what", "parameters", "test_accuracy"],
  )
  return Report(
    title=f"The study of {HOSTILE}",
    claims=found.claims,
    effects=found.effects,
    catalogue=CLAIMS,
    pictures=pictures,
    captions=captions,
    controls=controls,
    floors=floors,
    networks=networks,
    methods=["One paragraph.", f"Another on {HOSTILE}."],
    limits=["Small networks only.", "A limit & another."],
    provenance={"data": HOSTILE, "seeds": [0, 1], "spread": float("nan")},
    files=(("claims.csv", "the verdict table"), ("effects.csv", "effects")),
  )
