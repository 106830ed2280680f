"""A convolution and its gradients, an image at a time.

Shapes: x (h, w, c), kernel (k, k, c, o), y and its gradient g (p, q, o), all
contiguous float32. A room is memory for a map with its padding. Weights are
packed into blocks of `BLOCK` output channels, filled up with zeros:
(o / BLOCK, k * k * c, BLOCK).

Tiles are whole: beyond a map's last position, or an array's last channel, they
compute numbers that nobody keeps, from memory that is there to be read.
"""

from typing import Any

from llvmlite import ir

from models.kernels.tiles import BLOCK, POSITIONS, WEIGHTS
from models.kernels.writer import FLOAT, Word, Writer

# Rows of positions that a tile of the gradient adds up: what the nearest cache
# holds of both maps.
_ROWS = 2


def up_to(number: Word, part: int) -> Word:
  """The next multiple of a part."""
  return (number + (part - 1)) // part * part


def room(w: Writer, height: Word, width: Word, channels: Word) -> Word:
  """A room, and behind it what tiles read beyond its end."""
  most_step = 8  # strides are smaller; see `models.native`
  beyond = channels * (POSITIONS * most_step) + (WEIGHTS + BLOCK)
  return w.zeros(height * width * channels + beyond)


def place(module: Any) -> Any:
  """Copies a map (h, w, c) into a room."""
  w = Writer(module, "place", 7, public=False)
  x, height, columns, channels, target, width, before = w.arguments
  with w.loop(height) as i:
    start = ((i + before) * width + before) * channels * 4
    row = columns * channels
    w.copy(target + start, x + i * row * 4, row)
  return w.close()


def place_gradient(module: Any) -> Any:
  """Copies g (p, q, o) into a room, its positions a step apart.

  Only where y > 0, if the output was rectified. Adds it to sums (o).
  """
  w = Writer(module, "place_gradient", 11, public=False)
  g, y, p, q, o, target, width, before, step, rectified, sums = w.arguments
  whole = rectified.is_("==", 0)
  zero = ir.Constant(FLOAT, 0.0)
  with w.loop(p) as i, w.loop(q) as j:
    to = ((i * step + before) * width + j * step + before) * o * 4 + target
    at = (i * q + j) * o * 4
    with w.loop(o) as a:
      value = w.load(g + at + a * 4, FLOAT)
      positive = w.builder.fcmp_ordered(
        ">", w.load(y + at + a * 4, FLOAT), zero
      )
      kept = w.builder.or_(positive, whole)
      value = w.builder.select(kept, value, zero)
      w.store(value, to + a * 4)
      total = w.load(sums + a * 4, FLOAT)
      w.store(w.builder.fadd(total, value), sums + a * 4)
  return w.close()


def convolve(module: Any, tile: Any) -> Any:
  """Convolves a room; (p, q, o) is the shape of the output.

  `spare` is room for a tile that is not whole in the output.
  """
  w = Writer(module, "convolve", 13, public=False)
  source, width, channels, k, step, packed, bias, rectify = w.arguments[:8]
  out, p, q, o, spare = w.arguments[8:]
  columns = k * channels
  with w.loop(p) as i, w.loop(o, BLOCK) as low, w.loop(q, POSITIONS) as j:
    # The last tile goes over some positions again.
    first = j.least(q - POSITIONS).most(0)
    wide, long = (o - low).least(BLOCK), (q - first).least(POSITIONS)
    whole = w.builder.and_(wide.is_("==", BLOCK), long.is_("==", POSITIONS))
    target = out + ((i * q + first) * o + low) * 4
    w.call(
      tile,
      w.choose(whole, target, spare),
      w.choose(whole, o, BLOCK),
      source + (i * width + first) * step * channels * 4,
      width * channels,
      step * channels,
      packed + low * k * columns * 4,
      k,
      columns,
      bias + low * 4,
      rectify,
    )
    with w.builder.if_then(w.builder.not_(whole)), w.loop(long) as a:
      w.copy(target + a * o * 4, spare + a * (4 * BLOCK), wide)
  return w.close()


def gradient_shape(k: Word, channels: Word, o: Word) -> tuple[Word, Word]:
  """Rows and columns of each of k parts of a total of `add_gradient`."""
  return up_to(k * channels, WEIGHTS), up_to(o, BLOCK)


def add_gradient(module: Any, tile: Any) -> Any:
  """Adds the gradient of the kernel by one image, in two rooms.

  `g` is the address of the first float that is no padding.
  """
  w = Writer(module, "add_gradient", 11, public=False)
  source, width, channels, k, step, g, g_width = w.arguments[:7]
  p, q, o, total = w.arguments[7:]
  weights, outputs = gradient_shape(k, channels, o)
  with (
    w.loop(p, _ROWS) as i,
    w.loop(outputs, BLOCK) as low,
    w.loop(k) as a,
    w.loop(weights, WEIGHTS) as b,
  ):
    w.call(
      tile,
      total + ((a * weights + b) * outputs + low) * 4,
      outputs,
      source + ((i * step + a) * width * channels + b) * 4,
      step * width * channels,
      step * channels,
      g + (i * step * g_width * o + low) * 4,
      step * g_width * o,
      step * o,
      (p - i).least(_ROWS),
      q,
    )
  return w.close()


def pack(module: Any) -> Any:
  """Packs rows (n, o) of weights into zeros."""
  w = Writer(module, "pack", 4, public=False)
  kernel, n, o, packed = w.arguments
  with w.loop(o, BLOCK) as low, w.loop(n) as i:
    at = (low * n + i * BLOCK) * 4
    w.copy(packed + at, kernel + (i * o + low) * 4, (o - low).least(BLOCK))
  return w.close()


def transpose(module: Any) -> Any:
  """The kernel (k, k, o, c) that takes g to the gradient of x."""
  w = Writer(module, "transpose", 5, public=False)
  kernel, k, channels, o, result = w.arguments
  with w.loop(k * k) as i, w.loop(channels) as a, w.loop(o) as b:
    weight = w.load(kernel + ((i * channels + a) * o + b) * 4, FLOAT)
    flipped = k * k - 1 - i
    w.store(weight, result + ((flipped * o + b) * channels + a) * 4)
  return w.close()


def add_up(module: Any) -> Any:
  """The sum of parts (m, n), in order."""
  w = Writer(module, "add_up", 4, public=False)
  parts, m, n, result = w.arguments
  w.copy(result, parts, n)
  with w.loop(m - 1) as i, w.loop(n) as j:
    place = result + j * 4
    part = w.load(parts + ((i + 1) * n + j) * 4, FLOAT)
    w.store(w.builder.fadd(w.load(place, FLOAT), part), place)
  return w.close()
