"""Question: do the documents say what the stored tables and the code say?

Rewrites the parts of README.md between `<!-- NAME -->` and `<!-- /NAME -->`:
results, accuracy and lecture from the folders of results/ with MNIST in their
name, speed from results/benchmark.json, and the flags from their definitions;
and in docs/architectures.md the families of networks. A test fails while a
document is not what this command would write.

  python -m experiments.readme

Expected time: 10 s.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, config, store
from experiments.errors import ExperimentError

flags.DEFINE_string("root", ".", "folder with README.md and results/")

_FLAG_SECTIONS = (
  config.DataConfig,
  config.ModelConfig,
  config.TrainConfig,
  config.MeasureConfig,
)


def main() -> None:
  """Rewrites the generated parts; prints the documents' paths."""
  for name in DOCUMENTS:
    path = Path(flags.FLAGS.root) / name
    store.write_text(path, current(path))
    print(path)


def current(path: Path) -> str:
  """A document with its generated parts made anew.

  Args:
    path: the document, called as one of `DOCUMENTS`; the README has results/
      beside it.

  Returns:
    Its text.

  Raises:
    ExperimentError: a stored table is missing, or a part's marks are.
  """
  text = path.read_text(encoding="utf-8")
  document = next(name for name in DOCUMENTS if Path(name).name == path.name)
  for name, make in DOCUMENTS[document].items():
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{begin}.*?{end}", re.S)
    if not pattern.search(text):
      raise ExperimentError(f"{path} has no part {begin} ... {end}")
    whole = f"{begin}\n{make(path.parent / 'results')}\n{end}"
    text = pattern.sub(lambda _, whole=whole: whole, text)
  return text


def _results(results: Path) -> str:
  from experiments import reporting

  folder = results / "quick-mnist"
  summary = store.read_table(folder / "summary.csv")
  curves = store.read_table(folder / "training.csv")
  provenance = store.read_json(folder / "provenance.json")
  study = provenance["study"]
  minutes = sum(sum(m["seconds"].values()) for m in study["models"]) / 60
  images = int(summary["n_images"].max())
  return "\n".join(
    [
      *reporting.output_table(summary, curves, study),
      "",
      f"MNIST, {study['data']['train_examples']:,} training images,"
      f" {study['train']['epochs']} epochs, {images} test images measured; mean"
      f" and 95 % t interval over n = {len(study['seeds'])} seeds, in brackets"
      f" the untrained networks. {_hardware(provenance)}; {minutes:.0f} min of"
      " training and measuring.",
    ]
  )


def _accuracy(results: Path) -> str:
  from analysis.statistics import t_interval

  folder = results / "accuracy-mnist"
  lines = store.RunFolder(folder).metrics()
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
  lines = [
    "| job | ours | peer | ratio (95 % interval, rounds) |",
    "|---|---|---|---|",
  ]
  for row in store.read_json(results / "benchmark.json"):
    ratio = f"{row['ratio']:.2f}"
    if row["rounds"] > 1:
      low, high = row["ratio_low"], row["ratio_high"]
      ratio += f" ({low:.2f} to {high:.2f}, n = {row['rounds']})"
    cells = [
      row["name"],
      f"{row['ours']:,g} {row['unit']}",
      f"{row['peer_name']}: {row['peer']:,g}",
      ratio,
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


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
  from experiments import lecture_page

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
        f" [{name}](results/reproduce/{folder.name}/summary.md) |"
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
    "results": _results,
    "accuracy": _accuracy,
    "lecture": _lecture,
    "reproduced": _reproduced,
    "speed": _speed,
    "flags": _flags,
  },
  "docs/architectures.md": {"families": _families},
}


if __name__ == "__main__":
  cli.run(main)
