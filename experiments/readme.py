"""Question: do the documents say what the stored tables and the code say?

Rewrites the parts of README.md between `<!-- NAME -->` and `<!-- /NAME -->`:
verdicts and results from results/mnist, accuracy and lecture from the folders
with MNIST in their name, speed from results/benchmark.json, and the flags from
their definitions; likewise the families of networks in docs/architectures.md,
the costs in docs/performance.md, the claims in docs/claims.md and the published
findings in results/README.md. A test fails while a document is not what this
command would write.

  python -m experiments.readme

Expected time: 10 s.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, config
from experiments.errors import ExperimentError

flags.DEFINE_string("root", ".", "folder with README.md and results/")

_FLAG_SECTIONS = (
  config.DataConfig,
  config.ModelConfig,
  config.TrainConfig,
  config.MeasureConfig,
  config.HostConfig,
  config.LaunchConfig,
)


def main() -> None:
  """Rewrites the generated parts; prints the documents' paths."""
  from experiments import store

  root = Path(flags.FLAGS.root)
  for name in DOCUMENTS:
    store.write_text(root / name, current(root, name))
    print(root / name)


def current(root: Path, name: str) -> str:
  """A document with its generated parts made anew.

  Args:
    root: the folder with results/.
    name: the document, one of `DOCUMENTS`.

  Returns:
    Its text.

  Raises:
    ExperimentError: a stored table is missing, or a part's marks are.
  """
  path = root / name
  text = path.read_text(encoding="utf-8")
  for part, make in DOCUMENTS[name].items():
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    pattern = re.compile(f"{begin}.*?{end}", re.S)
    if not pattern.search(text):
      raise ExperimentError(f"{path} has no part {begin} ... {end}")
    whole = f"{begin}\n{make(root / 'results')}\n{end}"
    text = pattern.sub(lambda _, whole=whole: whole, text)
  return text


def _lead(results: Path) -> str:
  """The verdicts in a few lines, those that are not as claimed by name."""
  from analysis.claims.base import SUPPORTED, VERDICTS

  found = judged(results)
  rows = found.claims.to_dict("records")
  names = {
    verdict: [row for row in rows if row["verdict"] == verdict]
    for verdict in VERDICTS
  }
  counts = [f"{len(v)} {name}" for name, v in names.items() if v]
  lines = [
    f"Of {len(rows)} claims, on MNIST with"
    f" {int(found.claims['n_seeds'].max())} seeds a network:"
    f" {', '.join(counts)}. In brackets: 95 % intervals over seeds."
  ]
  for verdict in VERDICTS:
    if verdict != SUPPORTED and names[verdict]:
      lines += ["", f"**{verdict.capitalize()}:**", ""]
      lines += [
        f"* {row['statement']}{_parts(found.effects, row['claim'])}"
        for row in names[verdict]
      ]
  return "\n".join(lines)


def _parts(effects: Any, claim: str) -> str:
  """What each part of a claim says, if it has several."""
  from analysis.claims.verdicts import DECIDES

  own = effects[(effects["claim"] == claim) & (effects["role"] == DECIDES)]
  if len(own) < 2:
    return ""
  from experiments import summaries

  parts = [
    f"{row['label']} {summaries.with_interval(row)}, {row['verdict']}"
    for row in own.to_dict("records")
  ]
  return f": {'; '.join(parts)}"


def _verdicts(results: Path) -> str:
  from experiments import summaries

  table = summaries.verdict_table(judged(results).claims)
  return "\n".join([*table, "", summaries.POWER_NOTE])


def _against(results: Path) -> str:
  """What was measured beside supported claims and does not go along."""
  from analysis.claims.base import SUPPORTED
  from analysis.claims.verdicts import BESIDE
  from experiments import summaries

  found = judged(results)
  held = found.claims[found.claims["verdict"] == SUPPORTED]
  statements = dict(zip(held["claim"], held["statement"], strict=True))
  effects = found.effects
  rows = effects[
    effects["claim"].isin(list(statements))
    & (effects["role"] == BESIDE)
    & (effects["verdict"] != SUPPORTED)
  ]
  lines = ["| claim | beside it | effect (95 % interval) | n | says |"]
  lines += ["|---|---|---|---|---|"]
  for row in rows.to_dict("records"):
    cells = [statements[row["claim"]], row["label"]]
    cells += [summaries.with_interval(row), str(row["n_seeds"])]
    lines.append(f"| {' | '.join([*cells, row['verdict']])} |")
  return "\n".join(lines)


@functools.cache
def judged(results: Path) -> Any:
  """The verdicts that the stored measurements give, not those stored.

  Args:
    results: the folder with mnist/.
  """
  from experiments import reporting

  return reporting.judge(reporting.read(results / "mnist"))


def _catalogue(_: Path) -> str:
  """Every claim with its source, its rule and its margins."""
  from analysis.claims import CLAIMS

  lines = []
  for i, claim in enumerate(CLAIMS, start=1):
    lines += [
      f"### {i}. {claim.statement}",
      "",
      f"`{claim.id}`, from: {claim.source}. {claim.quantity}",
      "",
      f"Smallest effect of interest: {claim.reason}. Tested by"
      f" `--preset={claim.preset}`.",
      "",
    ]
    if claim.parts:
      lines += ["| part | rule | margin |", "|---|---|---|"]
    for part in claim.parts:
      margin = f"{part.margin:g} {part.unit}".strip()
      lines.append(f"| {part.label} | {part.rule} | {margin} |")
    lines += [""] if claim.parts else []
  return "\n".join(lines).rstrip()


def _pilot(results: Path) -> str:
  """How many seeds the pilot's spread asks for, effect by effect."""
  from analysis import statistics
  from analysis.claims.verdicts import DECIDES
  from experiments import store

  effects = store.read_table(results / "quick-mnist" / "effects.csv")
  claims = store.read_table(results / "mnist" / "claims.csv")
  tested = int(claims["p_holm"].notna().sum())
  lines = [
    "| claim | effect | spread over seeds | seeds for 80 % at 5 % |"
    f" at 5 % / {tested} |",
    "|---|---|---|---|---|",
  ]
  known = (
    effects["rule"].isin(["greater", "equivalent"]) & effects["sd"].notna()
  )
  for row in effects[known & (effects["role"] == DECIDES)].to_dict("records"):
    equivalent = row["rule"] == "equivalent"
    needed = [
      statistics.seeds_needed(
        row["sd"],
        row["margin"],
        # Two one-sided tests, each on its own side of a two-sided level.
        alpha / 2 if equivalent else alpha,
        equivalent=equivalent,
      )
      for alpha in (1 - statistics.LEVEL, (1 - statistics.LEVEL) / tested)
    ]
    seeds = " | ".join(f"{n:.0f}" for n in needed)
    spread = f"{row['sd']:.3g} {row['unit']}".strip()
    lines.append(f"| {row['claim']} | {row['label']} | {spread} | {seeds} |")
  return "\n".join(lines)


def _results(results: Path) -> str:
  from experiments import store, summaries

  folder = results / "mnist"
  summary = store.read_table(folder / "summary.csv")
  curves = store.read_table(folder / "training.csv")
  curves = curves[curves["run"].isin(summary["run"])]
  provenance = store.read_json(folder / "provenance.json")
  study = provenance["study"]
  minutes = sum(sum(m["seconds"].values()) for m in study["cells"]) / 60
  images = int(summary["n_images"].max())
  return "\n".join(
    [
      *summaries.output_table(summary, curves, study),
      "",
      f"MNIST, {study['data']['train_examples']:,} training images,"
      f" {study['train']['epochs']} epochs, {images} test images measured; mean"
      f" and 95 % t interval over n = {len(study['seeds'])} seeds, in brackets"
      f" the untrained networks. {_hardware(provenance)}; {minutes:.0f} min of"
      f" training and measuring all {len(study['cells'])} networks.",
    ]
  )


def _accuracy(results: Path) -> str:
  from analysis.statistics import t_interval
  from experiments import store
  from experiments.run_folder import RunFolder

  folder = results / "accuracy-mnist"
  lines = RunFolder(folder).metrics()
  last = max(line["epoch"] for line in lines)
  final = [line for line in lines if line["epoch"] == last]
  result = t_interval([100 * line["test_accuracy"] for line in final])
  speed = sum(line["images_per_second"] for line in final) / len(final)
  provenance = store.read_json(folder / "provenance.json")
  return (
    f"Full MNIST, depth 3, width 32, max pooling, {last} epochs: test accuracy"
    f" {result.mean:.2f} % ({result.low:.2f} to {result.high:.2f}, n ="
    f" {len(final)} seeds) at {speed:,.0f} images/s. {_hardware(provenance)}."
  )


def _hardware(provenance: dict[str, Any]) -> str:
  packages = provenance["packages"]
  return (
    f"{provenance['cpu_count']} cores of {provenance['processor']}, jax"
    f" {packages['jax']}, flax {packages['flax']}"
  )


def _speed(results: Path) -> str:
  from experiments import performance_page, store

  return performance_page.speed(store.read_json(results / "benchmark.json"))


def _performance(part: str) -> Callable[[Path], str]:
  """A part of docs/performance.md."""

  def make(results: Path) -> str:
    from experiments import performance_page

    return getattr(performance_page, part)(results)

  return make


def _flags(_: Path) -> str:
  lines = ["| flag | default | what |", "|---|---|---|"]
  for section in _FLAG_SECTIONS:
    title = (section.__doc__ or "").splitlines()[0].rstrip(".")
    lines.append(f"| **{title}** | | |")
    text = config.attribute_help(section)
    for name, default in config.field_defaults(section).items():
      shown = f"`{default}`" if default != "" else ""
      lines.append(f"| `--{name}` | {shown} | {text[name]} |")
  return "\n".join(lines)


def _lecture(results: Path) -> str:
  from experiments import lecture_page, store

  folder = results / "lecture-mnist"
  numbers = store.read_table(folder / "numbers.csv")
  shown = {
    line["quantity"]: lecture_page.shown(line)
    for line in numbers.to_dict("records")
  }
  lecture = store.read_json(folder / "provenance.json")["lecture"]
  of = "filters, share of edge detectors"
  return (
    "A filter counts as an edge detector if the best derivative of a Gaussian"
    " explains more of it than of 95 % of random filters (R-squared above"
    f" {shown['random filters, 95th percentile']}). Share of the learned 5x5"
    f" filters: {shown[f'trained {of}']}; of the same filters before training:"
    f" {shown[f'untrained {of}']}. The largest difference between the maps of a"
    " shifted digit and the shifted maps is"
    f" {shown[_SHIFT]}. {_name(lecture)}"
  )


_SHIFT = (
  "maps of the digit shifted by 4 px against maps shifted, largest difference"
)


def _name(lecture: dict[str, Any]) -> str:
  return (
    f"MNIST, {lecture['train_examples']:,} training images,"
    f" {lecture['epochs']} epochs; mean and 95 % t interval over seeds."
  )


def _reproduced(results: Path) -> str:
  from experiments import store

  lines = [
    "| statement | source | data | reproduced | effect that decided |",
    "|---|---|---|---|---|",
  ]
  for folder in sorted((results / "reproduce").iterdir()):
    name, _, dataset = folder.name.partition("-")
    data = {"mnist": "MNIST"}.get(dataset, "digits")
    data = "squares" if name == "red_green" else data
    for line in store.read_table(folder / "claims.csv").to_dict("records"):
      effect = f"{line['effect']:.3g}"
      if line["low"] == line["low"]:
        effect += f" ({line['low']:.3g} to {line['high']:.3g})"
      lines.append(
        f"| {line['statement']} | {line['source']} | {data}:"
        f" [{name}](reproduce/{folder.name}/summary.md) |"
        f" {line['outcome']} | {effect}, n = {line['n_seeds']} |"
      )
  return "\n".join(lines)


def _families(_: Path) -> str:
  from experiments import describing
  from models.zoo import FAMILIES

  tables = [
    f"**{name}**\n\n"
    + describing.as_markdown(describing.family_cells(name, 32))
    for name in FAMILIES
  ]
  return "\n\n".join(tables)


# The generated parts of each document, by name; from the results folder.
DOCUMENTS: dict[str, dict[str, Callable[[Path], str]]] = {
  "README.md": {
    "lead": _lead,
    "verdicts": _verdicts,
    "against": _against,
    "results": _results,
    "accuracy": _accuracy,
    "lecture": _lecture,
    "speed": _speed,
    "flags": _flags,
  },
  "docs/architectures.md": {"families": _families},
  "docs/performance.md": {
    part: _performance(part)
    for part in ("machine", "training", "measuring", "growth", "accelerator")
  },
  "docs/claims.md": {"pilot": _pilot, "catalogue": _catalogue},
  "results/README.md": {"reproduced": _reproduced},
}


if __name__ == "__main__":
  cli.run(main)
