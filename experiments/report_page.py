"""What a study's report says: its tables put into words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import claims, statistics, wording
from analysis.claims.accuracy import MATCHED_POINTS
from analysis.claims.base import Claim
from analysis.claims.verdicts import Verdicts
from analysis.figures import style
from analysis.figures.claims import MEASURES
from analysis.report import Report

_CAPTIONS = {
  "invariance_by_layer": "Invariance error of every layer at the reference"
  " transformations, before and after training, one panel a transformation",
  "dose_response": "Invariance error against the size of the transformation,"
  " one line a layer, one row a network",
  "sensitivity_map": "Invariance error for every shift of a grid, one map a"
  " layer and network",
  "measures_by_layer": "Every other measure of layers, before and after"
  " training, one row a measure, one panel a transformation",
  "accuracy_and_consistency": "Accuracy, and share of unchanged answers,"
  " against the size of the transformation",
  "training_curves": "Training loss, test loss and test accuracy by epoch",
}

_FILES = (
  ("claims.csv", "the verdict table"),
  ("effects.csv", "every effect of every claim"),
  ("effect_values.csv", "the same, seed by seed"),
  ("controls.csv", "the controls"),
  ("exact.csv", "what is counted, not estimated"),
  ("networks.csv", "every network: accuracy, edge detectors"),
  (
    "summary.csv",
    "means and intervals of the overview's networks, every layer",
  ),
  ("training.csv", "loss and accuracy by epoch"),
)
_FAILURES = (("failures.csv", "trainings that failed"),)


class Content(NamedTuple):
  """What a report is written from.

  Attributes:
    verdicts: on all claims.
    summary: means over seeds, of the overview's networks.
    controls: of `analysis.claims.controls.check`.
    networks: one row a cell, seed and stage.
    pictures: PNG files by name.
    provenance: of the study.
    lost: the sentence on lost intensity; may be empty.
    failures: one row a training that failed; may be empty.
  """

  verdicts: Verdicts
  summary: pd.DataFrame
  controls: pd.DataFrame
  networks: pd.DataFrame
  pictures: Mapping[str, bytes]
  provenance: Mapping[str, Any]
  lost: str
  failures: pd.DataFrame


def assemble(content: Content) -> Report:
  """The report's content, in the order of the page."""
  study = content.provenance["study"]
  name = style.DATASETS.get(study["data"]["dataset"], study["data"]["dataset"])
  catalogue = {c.id: c for c in claims.CLAIMS}
  captions = dict(_CAPTIONS)
  for picture in content.pictures:
    claim = picture.removeprefix("claim_")
    if claim in catalogue:
      captions[picture] = _caption(catalogue[claim], content)
  return Report(
    title=f"How invariant are CNNs? The study {study['preset']} on {name}",
    claims=content.verdicts.claims,
    effects=content.verdicts.effects,
    catalogue=claims.CLAIMS,
    pictures=content.pictures,
    captions=captions,
    controls=content.controls,
    floors=_floors(content),
    networks=_networks(content),
    methods=_methods(content, name),
    limits=_limits(content),
    provenance=content.provenance,
    files=_FILES + (_FAILURES if len(content.failures) else ()),
    failures=_failures(content.failures),
  )


def _caption(claim: Claim, content: Content) -> str:
  """What a claim's figure shows, for those who do not see it."""
  if claim.exact:
    return f"{claim.statement}: numbers claimed and numbers counted"
  runs = {c["cell"] for c in content.provenance["study"]["cells"]}
  view = claim.view
  cells = [cell for cell in view.cells if cell in runs]
  below = "effects with their intervals and seeds, as in the table"
  if not view.x or not cells:
    return f"{claim.statement}: {below}"
  measures = " and ".join(
    MEASURES.get(m, m) for m in view.measure.split("|")
  ).capitalize()
  against = {
    "layer": "layer by layer",
    "dose": "against the size of the transformation",
    "displacement": "against displacement",
  }[view.x]
  stages = ", trained and untrained" if len(view.stages) > 1 else ""
  return (
    f"{measures} {against}, under {_listed(view.transforms)}, of the networks"
    f" {_listed(cells)}{stages}; below, {below}"
  )


def _listed(words: Sequence[str]) -> str:
  """As in a, b and c."""
  return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _failures(table: pd.DataFrame) -> list[dict[str, str]]:
  """As words: no number of these is to be rounded or grouped."""
  rows = table.to_dict("records")
  return [
    {str(k): str(v) for k, v in row.items()}
    | {"learning_rate": f"{row['learning_rate']:g}"}
    for row in rows
  ]


def _floors(content: Content) -> pd.DataFrame:
  """Equivariance error and floor of the convolutions at reference doses."""
  cells = {c["run"]: c["cell"] for c in content.provenance["study"]["cells"]}
  rows = content.summary[
    (content.summary["measure"] == "equivariance_error")
    & (content.summary["stage"] == "trained")
    & content.summary["layer"].str.startswith("conv")
  ]
  lines = []
  for run in dict.fromkeys(rows["run"]):
    own = rows[rows["run"] == run]
    for family in style.families(own):
      at, dose = style.at_reference(own, family)
      for row in at.sort_values("layer_index").to_dict("records"):
        lines.append(
          (
            cells[run],
            row["layer"],
            f"{family} by {dose}",
            row["mean"],
            wording.interval(row["low"], row["high"]),
            row["floor"],
            row["n_seeds"],
          )
        )
  columns = ["cell", "layer", "transform", "equivariance_error", "interval"]
  columns += ["floor", "n_seeds"]
  return pd.DataFrame(lines, columns=columns)


def _networks(content: Content) -> pd.DataFrame:
  """One row a network: what it is, its size and its accuracy over seeds."""
  lines = []
  for cell in content.provenance["study"]["cells"]:
    rows = content.networks
    rows = rows[(rows["cell"] == cell["cell"]) & (rows["stage"] == "trained")]
    text = _accuracy(list(rows["test_accuracy"]))
    what = cell["run"]
    if cell["train"]:
      what += f"; {_flags(cell['train'])}"
    lines.append((cell["cell"], what, cell["parameters"], text))
  columns = ["cell", "what", "parameters", "test_accuracy"]
  return pd.DataFrame(lines, columns=columns)


def _accuracy(values: Sequence[float]) -> str:
  if not values:
    return "none: all trainings failed"
  found = statistics.t_interval(list(values))
  text = f"{found.mean:.2f} %"
  if not np.isnan(found.low):
    text += f" ({found.low:.2f} to {found.high:.2f})"
  return f"{text}, n = {len(values)}"


def _flags(changes: Mapping[str, Any]) -> str:
  return " ".join(f"--{name}={value}" for name, value in changes.items())


def _methods(content: Content, name: str) -> list[str]:
  provenance = content.provenance
  study, data = provenance["study"], provenance["data"]
  train, measure = study["train"], study["measure"]
  seconds = sum(sum(c["seconds"].values()) for c in study["cells"])
  tested = content.verdicts.claims["p_holm"].notna().sum()
  n, failed = len(study["seeds"]), len(content.failures)
  return [
    f"Data: {name} ({data['source']}, order: {data['order']}),"
    f" {data['train_examples']:,} training and {data['test_examples']:,} test"
    f" images on a canvas of {study['data']['canvas']} px."
    f" {len(study['cells'])} networks, each trained with {n} seeds for"
    f" {train['epochs']} epochs of {train['optimizer']} in batches of"
    f" {train['batch_size']}. Measured before and after training on"
    f" {measure['measure_examples'] or data['test_examples']:,} test images,"
    " evenly spread, the same for all."
    f"{f' {failed} of these trainings failed.' if failed else ''}"
    f" {seconds / 60:.0f} minutes of training and measuring.",
    "Invariance error: root mean square distance between a layer's activation"
    " of the transformed and of the original image, over that between two"
    " different images. 0 is invariant, 1 as far as another image."
    " Equivariance error: the same after the transformation is undone on the"
    " feature map; its floor is what an ideal layer of the same resolution"
    " would score, since undoing costs resampling.",
    "Seeds are the replicates: every number is first averaged over images and"
    " directions within a seed, and networks are compared seed by seed. An"
    " effect is a weighted sum of such numbers, signed so that the predicted"
    " one is positive; its interval is Student's t over seeds (BCa bootstrap"
    f" from {statistics.BOOTSTRAP_SEEDS} seeds on).",
    "Verdicts are read off corrected intervals, by a rule and a smallest"
    " effect of interest that were fixed before the runs: support off the"
    " interval at the level that Holm's procedure gives the claim among the"
    f" {tested} tested together, refutation and equivalence off a wider one, at"
    " 5 % over the number of all deciding effects. greater: supported if the"
    " interval lies above 0, equivalent if it lies within plus and minus the"
    " smallest effect, refuted if it lies below the smallest effect. at_least,"
    " at_most: on one side of the bound or the other. equivalent: supported if"
    " the interval lies within the margin (two one-sided tests). Where a claim"
    " has several parts all have to hold; the table shows what decided.",
    "Beside each effect is the exact sign-flip permutation p. With n seeds it"
    f" cannot be smaller than 2^-n: {2.0**-n:.3g} here, while the first step of"
    f" Holm's procedure over {tested} claims asks for"
    f" {0.05 / max(tested, 1):.3g}. With fewer than 9 seeds it can therefore"
    " not pass, and no verdict rests on it.",
    "Power is that of the t test at the claim's corrected level, for a true"
    " effect as large as the smallest of interest and the spread seen over"
    " seeds; beside it the number of seeds that would give 80 %. Where a value"
    " is held against a bound there is no effect of a known size to find:"
    " there the distance from the bound is given that is found with 80 %.",
    "Where networks of different accuracy are compared, the effect is repeated"
    " accuracy-adjusted (analysis of covariance: what goes with accuracy"
    " within networks is subtracted; the slope's own uncertainty is in the"
    " interval) and accuracy-matched (seeds whose test"
    f" accuracies lie within {MATCHED_POINTS} points only).",
  ]


def _limits(content: Content) -> list[str]:
  study = content.provenance["study"]
  limits = [
    "Small networks, one kind of images, short training: a verdict is about"
    " these, and is worth repeating on others (presets fashion_mnist and"
    " kmnist, --dataset, or a network of one's own).",
    "The images measured are the same for every seed, so that intervals are"
    " over training, not over the choice of images.",
    "An interval over seeds says nothing of learning rates or numbers of"
    " epochs that were not tried.",
  ]
  if len(study["seeds"]) < 9:
    limits.append(
      f"{len(study['seeds'])} seeds: see the power of each claim before"
      " reading an inconclusive verdict as no effect."
    )
  return [*limits, content.lost] if content.lost else limits
