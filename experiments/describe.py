r"""Question: what does this architecture compute, layer by layer?

Prints output shape, kernel, stride, padding, sampling offset, receptive field,
parameters and floating-point operations of every layer, with totals that are
checked against the arrays and against XLA's own count; or the networks of a
matched family side by side.

  python -m experiments.describe --model=cnn --pooling=max_blur:3 --depth=4
  python -m experiments.describe --family=receptive_field --format=markdown

Expected time: a few seconds; no images are needed.
"""

from absl import flags

from experiments import cli, config
from experiments.errors import UsageError

flags.DEFINE_enum(
  "format", "text", ["text", "markdown", "json"], "how the table is printed"
)
flags.DEFINE_string(
  "family", "", "compare a family of models.zoo.FAMILIES instead of one network"
)
flags.DEFINE_integer(
  "canvas", 32, "width and height of the images, in pixels", lower_bound=1
)
flags.DEFINE_integer("channels", 1, "channels of the images", lower_bound=1)
flags.DEFINE_integer("num_classes", 10, "number of logits", lower_bound=1)
config.define_flags(config.ModelConfig)


def main() -> None:
  """Prints the table."""
  if flags.FLAGS.family:
    _family(flags.FLAGS.family)
  else:
    _network()


def _network() -> None:
  from experiments import building, describing

  values = flags.FLAGS
  canvas, channels = values.canvas, values.channels
  model = building.build_model(
    config.from_flags(config.ModelConfig),
    num_classes=values.num_classes,
    canvas=canvas,
  )
  rows = describing.layer_rows(model, canvas, channels)
  found = describing.totals(model, canvas, channels)
  if values.format == "json":
    layers = [row._asdict() for row in rows]
    content = {"layers": layers, "totals": found._asdict()}
    print(describing.as_json(content))
    return
  cells = [describing.layer_cells(row) for row in rows]
  as_table = {"text": describing.as_text, "markdown": describing.as_markdown}
  print(as_table[values.format](cells))
  print()
  print(f"parameters: {found.parameters:,}; the arrays hold {found.arrays:,}")
  note = f", {found.note}" if found.note else ""
  print(
    f"FLOPs for one image: {found.flops:,}; XLA counts"
    f" {found.xla_flops:,}{note}"
  )
  for line in describing.unshared_factor(model, canvas, channels):
    print(line)


def _family(name: str) -> None:
  from experiments import describing
  from models.zoo import FAMILIES

  if name not in FAMILIES:
    raise UsageError(
      f"--family={name} is unknown; known are {', '.join(FAMILIES)}"
    )
  canvas = flags.FLAGS.canvas
  try:
    rows = describing.family_rows(name, canvas)
  except ValueError as error:
    raise UsageError(f"--family={name}: {error}") from error
  if flags.FLAGS.format == "json":
    print(describing.as_json(rows))
    return
  cells = describing.family_cells(name, canvas)
  as_table = {"text": describing.as_text, "markdown": describing.as_markdown}
  print(as_table[flags.FLAGS.format](cells))


if __name__ == "__main__":
  cli.run(main)
