"""The numbers of docs/performance.md, from the stored tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.costs import rates
from analysis.statistics import t_interval
from experiments import pairing, store

_NETWORKS = {"max": "max pooling", "none": "no pooling"}
_NOT_RUN = (
  "The accelerator suite has not been run: no accelerator was at hand, so"
  " nothing is known of this code's speed on one."
)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed(rows: Sequence[dict[str, Any]]) -> str:
  """Lines of results/benchmark.json as tables, one for each hardware.

  Args:
    rows: the lines, as of `experiments.pairing`.

  Returns:
    Markdown.
  """
  header = ("job", "ours", "peer", "ratio (95 % interval, rounds)")
  by_hardware: dict[str, list[list[str]]] = {}
  for row in rows:
    *start, ratio, interval = pairing.cells(row)
    line = [*start, f"{ratio} ({interval})" if interval else ratio]
    by_hardware.setdefault(row.get("hardware", ""), []).append(line)
  return "\n\n".join(
    f"{_table(header, lines)}\n\nOn {where or 'hardware that was not noted'}."
    for where, lines in by_hardware.items()
  )


def accelerator(results: Path) -> str:
  """The table of the accelerator suite, or that it has not been run."""
  path = results / "benchmark-accelerator.json"
  return speed(store.read_json(path)) if path.exists() else _NOT_RUN


def machine(results: Path) -> str:
  """What was measured where, and the machine's limits."""
  folder = results / "performance"
  provenance = store.read_json(folder / "provenance.json")
  rows = rates(store.read_table(folder / "roofline.csv"))
  (peak,) = rows[rows["kind"] == "peak"]["rate"]
  bandwidth = {
    kind: (item["bytes"] / item["seconds"]).max() / 1e9
    for kind, item in rows[rows["kind"].isin(["memory", "cache"])].groupby(
      "kind"
    )
  }
  packages = provenance["packages"]
  return (
    f"{provenance['cpu_count']} cores of {provenance['processor']}, jax"
    f" {packages['jax']}: {peak / 1e9:.0f} GFLOP/s in a matrix product of"
    f" float32, {bandwidth['memory']:.0f} GB/s from memory and"
    f" {bandwidth['cache']:.0f} GB/s from the cache. A kernel of fewer than"
    f" {peak / bandwidth['memory'] / 1e9:.0f} operations a byte cannot reach"
    " the peak from memory."
  )


def training(results: Path) -> str:
  """Where the time of a training step goes, layer by layer."""
  table = store.read_table(results / "performance" / "roofline.csv")
  rows = rates(table)
  (peak,) = rows[rows["kind"] == "peak"]["rate"]
  blocks = []
  for step in rows[rows["kind"] == "step"].to_dict("records"):
    kernels = rows[
      (rows["kind"] == "kernel") & (rows["network"] == step["network"])
    ]
    blocks.append(_step(step, kernels, peak, table))
  return "\n\n".join(blocks)


def _step(
  step: dict[Any, Any], kernels: pd.DataFrame, peak: float, table: pd.DataFrame
) -> str:
  alone = (kernels["seconds"] / kernels["images"]).sum()
  lines = []
  for name, both in kernels.groupby("name", sort=False):
    cells = [str(name)]
    for direction in ("forward", "backward"):
      (item,) = both[both["direction"] == direction].to_dict("records")
      each = item["seconds"] / item["images"]
      cells += [f"{1e6 * each:.1f}", f"{item['rate'] / 1e9:.1f}"]
    share = (both["seconds"] / both["images"]).sum() / alone
    lines.append([*cells, f"{100 * share:.0f} %"])
  header = ("layer", "forward (us an image)", "GFLOP/s")
  header += ("backward (us an image)", "GFLOP/s", "of all kernels")
  own = table[(table["kind"] == "step") & (table["network"] == step["network"])]
  rates = t_interval(list(own["images"] / own["seconds"]))
  whole = step["seconds"] / step["images"]
  return (
    f"**{_NETWORKS[step['network']]}**: {rates.mean:,.0f} images/s"
    f" ({rates.low:,.0f} to {rates.high:,.0f}, n = {len(own)} repeats), which"
    f" is {step['rate'] / 1e9:.0f} GFLOP/s or"
    f" {100 * step['rate'] / peak:.0f} % of the peak. A step takes"
    f" {1e6 * whole:.0f} us an image, its kernels one by one"
    f" {1e6 * alone:.0f}.\n\n{_table(header, lines)}"
  )


def measuring(results: Path) -> str:
  """The pass with measures over the bare network."""
  table = store.read_table(results / "performance" / "roofline.csv")
  passes = table[table["kind"] == "pass"]
  bare = passes[passes["name"] == "network alone"].sort_values("repeat")
  lines = []
  for name, own in passes.groupby("name", sort=False):
    each = own.sort_values("repeat")["seconds"].to_numpy()
    ratio = t_interval(list(np.log(each / bare["seconds"].to_numpy())))
    rate = (own["images"] / own["seconds"]).median()
    cells = [str(name), f"{rate:,.0f}"]
    low, mean, high = np.exp([ratio.low, ratio.mean, ratio.high])
    text = f"{mean:.2f} ({low:.2f} to {high:.2f}, n = {len(own)})"
    lines.append([*cells, "1" if name == "network alone" else text])
  header = ("what", "transformed images/s", "time over the network's")
  return _table(header, lines)


def growth(results: Path) -> str:
  """How much longer everything takes when one kind of work doubles."""
  table = store.read_table(results / "performance" / "scaling.csv")
  timed = table[table["repeat"] > 0]
  lines = []
  for (part, axis), own in timed.groupby(["part", "axis"], sort=False):
    slopes = [
      float(np.polyfit(np.log2(one["value"]), np.log2(one["seconds"]), 1)[0])
      for _, one in own.groupby("repeat")
    ]
    # Twice the work takes 2^slope times as long.
    found = t_interval(slopes)
    mean, low, high = 2 ** np.array([found.mean, found.low, found.high])
    first = table[
      (table["repeat"] == 0) & (table["part"] == part) & (table["axis"] == axis)
    ]
    steady = own.groupby("value")["seconds"].median()
    compiling = first.set_index("value")["seconds"] - steady
    lines.append(
      [
        str(part),
        str(axis),
        f"{own['value'].min()} to {own['value'].max()}",
        f"{steady.iloc[0]:.3g} to {steady.iloc[-1]:.3g}",
        f"{mean:.2f} ({low:.2f} to {high:.2f}, n = {len(slopes)})",
        f"{compiling.iloc[0]:.1f} to {compiling.iloc[-1]:.1f}",
      ]
    )
  header = ("what", "by", "from", "seconds", "each doubling multiplies it by")
  return _table((*header, "first time more (s)"), lines)
