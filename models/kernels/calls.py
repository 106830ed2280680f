"""What XLA calls: handlers of its foreign function interface.

XLA hands a handler the address of a call frame, a C structure of words that is
described in `xla/ffi/api/c_api.h`, comes with jaxlib and is kept stable. The
numbers in capitals are places in such structures.

A handler cuts the images into groups, offers helpers to XLA's threads, and
takes groups itself until none is left; so it ends even if no helper ever runs.
Groups depend on shapes alone and what they add up is added in order: the result
is the same for every number of threads.
"""

import functools
from typing import Any

from llvmlite import binding, ir

from models.kernels import images, tiles
from models.kernels.writer import Word, Writer

# The oldest version of the interface that has all that is used here.
_VERSION_MAJOR, _VERSION_MINOR = 0, 1

_EXTENSION, _API, _CONTEXT = 1, 2, 3
_ARGUMENTS, _RESULT_COUNT, _RESULTS, _ATTRIBUTES = 9, 12, 14, 20
_SCHEDULE, _NUM_THREADS = 17, 18  # of the API's functions
_DATA, _DIMENSIONS = 3, 5  # of a buffer

# Words of a job, which threads share.
_FIELDS = (
  *("next", "done", "users", "groups", "group", "images"),
  *("x", "kernel", "bias", "y", "g", "dx", "packed", "totals", "sums"),
  *("h", "w", "c", "p", "q", "o", "k", "padding", "rectify", "step"),
)

# Positions that are worth a group of their own.
_LEAST = 512


class _Job:
  """A job's fields, by name."""

  def __init__(self, w: Writer, address: Word) -> None:
    self.w, self.address = w, address

  def where(self, name: str) -> Word:
    return self.address + 8 * _FIELDS.index(name)

  def get(self, names: str) -> list[Word]:
    return [self.w.get(self.where(name)) for name in names.split()]

  def set(self, **values: Any) -> None:
    for name, value in values.items():
      self.w.set(self.where(name), 0, value)


class _Parts:
  """The functions of `images`, once in a module."""

  def __init__(self, module: Any) -> None:
    self.place = images.place(module)
    self.place_gradient = images.place_gradient(module)
    self.convolve = images.convolve(module, tiles.convolve_tile(module))
    tile = tiles.gradient_tile(module)
    self.add_gradient = images.add_gradient(module, tile)
    self.pack = images.pack(module)
    self.transpose = images.transpose(module)
    self.add_up = images.add_up(module)


def _padded_bias(w: Writer, bias: Word | None, o: Word) -> Word:
  result = w.zeros(images.up_to(o, tiles.BLOCK))
  if bias is not None:
    w.copy(result, bias, o)
  return result


def _convolve_groups(module: Any, parts: _Parts, take: Any) -> Any:
  """Computes the outputs of groups of images until none is left."""
  w = Writer(module, "convolve_groups", 1, public=False)
  job = _Job(w, w.arguments[0])
  h, width, c, p, q, o, k = job.get("h w c p q o k")
  pad, step, rectify = job.get("padding step rectify")
  wide = width + pad * 2
  room = images.room(w, h + pad * 2, wide, c)
  bias = _padded_bias(w, job.get("bias")[0], o)
  spare = w.zeros(tiles.POSITIONS * tiles.BLOCK)
  with _groups(w, job, take) as (_, n):
    x, y, packed = job.get("x y packed")
    image = x + n * h * width * c * 4
    w.call(parts.place, image, h, width, c, room, wide, pad)
    result = y + n * p * q * o * 4
    weights = (room, wide, c, k, step, packed, bias, rectify)
    w.call(parts.convolve, *weights, result, p, q, o, spare)
  w.free(room, bias, spare)
  return w.close()


def _differentiate_groups(module: Any, parts: _Parts, take: Any) -> Any:
  """Computes the gradients by groups of images until none is left."""
  w = Writer(module, "differentiate_groups", 1, public=False)
  job = _Job(w, w.arguments[0])
  h, width, c, p, q, o, k = job.get("h w c p q o k")
  pad, step, rectify = job.get("padding step rectify")
  wide, g_wide, before = width + pad * 2, width + k - 1, k - 1 - pad
  room = images.room(w, h + pad * 2, wide, c)
  g_room = images.room(w, h + k - 1, g_wide, o)
  bias = _padded_bias(w, None, c)
  spare = w.zeros(tiles.POSITIONS * tiles.BLOCK)
  rows, columns = images.gradient_shape(k, c, o)
  with _groups(w, job, take) as (group, n):
    x, y, g, dx, packed = job.get("x y g dx packed")
    totals, sums = job.get("totals sums")
    at = n * p * q * o * 4
    padding = (g_room, g_wide, before, step, rectify, sums + group * o * 4)
    w.call(parts.place_gradient, g + at, y + at, p, q, o, *padding)
    image = n * h * width * c * 4
    w.call(parts.place, x + image, h, width, c, room, wide, pad)
    start = g_room + before * (g_wide + 1) * o * 4
    total = totals + group * k * rows * columns * 4
    both = (room, wide, c, k, step, start, g_wide, p, q, o, total)
    w.call(parts.add_gradient, *both)
    with w.builder.if_then(dx.is_("!=", 0)):
      weights = (g_room, g_wide, o, k, 1, packed, bias, 0)
      w.call(parts.convolve, *weights, dx + image, h, width, c, spare)
  w.free(room, g_room, bias, spare)
  return w.close()


def _take(module: Any) -> Any:
  """The next group of a job, or -1."""
  w = Writer(module, "take", 1, public=False)
  job = _Job(w, w.arguments[0])
  group = w.fetch_add(job.where("next"), 1)
  (groups,) = job.get("groups")
  return w.close(w.choose(group.is_("<", groups), group, -1))


class _groups:  # noqa: N801 (used as a statement)
  """Repeats what is written inside for each image of each group taken."""

  def __init__(self, w: Writer, job: _Job, take: Any) -> None:
    self._w, self._job, self._take = w, job, take

  def __enter__(self) -> tuple[Word, Word]:
    w = self._w
    self._head, self._body, self._after = (
      w.builder.append_basic_block(name) for name in ("take", "got", "none")
    )
    w.builder.branch(self._head)
    w.builder.position_at_end(self._head)
    group = w.call(self._take, self._job.address)
    w.builder.cbranch(group.is_("<", 0), self._after, self._body)
    w.builder.position_at_end(self._body)
    size, count = self._job.get("group images")
    first = group * size
    self._loop = w.loop((count - first).least(size))
    return group, self._loop.__enter__() + first

  def __exit__(self, *error: Any) -> None:
    self._loop.__exit__(*error)
    w = self._w
    w.fetch_add(self._job.where("done"), 1)
    w.builder.branch(self._head)
    w.builder.position_at_end(self._after)


def _leave(module: Any) -> Any:
  """The last user of a job frees it."""
  w = Writer(module, "leave", 1, public=False)
  job = _Job(w, w.arguments[0])
  users = w.fetch_add(job.where("users"), -1)
  with w.builder.if_then(users.is_("==", 1)):
    w.free(job.address)
  return w.close()


def _help(module: Any, name: str, work: Any, leave: Any) -> Any:
  """What a helper does: it may come when all is done, and allocates nothing."""
  w = Writer(module, f"help_{name}", 1, public=False)
  job = _Job(w, w.arguments[0])
  taken, groups = job.get("next groups")
  with w.builder.if_then(taken.is_("<", groups)):
    w.call(work, job.address)
  w.call(leave, job.address)
  return w.close()


def _share(module: Any, name: str, work: Any, leave: Any) -> Any:
  """Does all of a job, with the help of XLA's threads."""
  helper = _help(module, name, work, leave)
  w = Writer(module, f"share_{name}", 2, public=False)
  frame, job = w.arguments[0], _Job(w, w.arguments[1])
  api, context = w.get(frame, _API), w.get(frame, _CONTEXT)
  (groups,) = job.get("groups")
  memory = w.zeros(20)
  answer, question, request = memory, memory + 8, memory + 40
  for i, value in enumerate((32, 0, context, answer)):
    w.set(question, i, value)
  failed = w.call_at(w.get(api, _NUM_THREADS), question)
  threads = w.choose(failed.is_("!=", 0), 1, w.get(answer))
  helpers = threads.least(groups).most(1) - 1
  job.set(users=helpers + 1)
  task = w.address_of(helper)
  for i, value in enumerate((40, 0, context, task, job.address)):
    w.set(request, i, value)
  with w.loop(helpers):
    refused = w.call_at(w.get(api, _SCHEDULE), request)
    with w.builder.if_then(refused.is_("!=", 0)):
      w.call(leave, job.address)
  w.call(work, job.address)
  _wait(w, job, groups)
  w.call(leave, job.address)
  w.free(memory)
  return w.close()


def _wait(w: Writer, job: _Job, groups: Word) -> None:
  """Until the groups that helpers have taken are done."""
  again, after = (w.builder.append_basic_block(n) for n in ("wait", "done"))
  w.builder.branch(again)
  w.builder.position_at_end(again)
  w.call(w.outside("sched_yield", 0))
  done = w.fetch_add(job.where("done"), 0)
  w.builder.cbranch(done.is_("<", groups), again, after)
  w.builder.position_at_end(after)


def _open(module: Any, name: str) -> tuple[Writer, Word]:
  """A handler that has answered XLA's question for its version."""
  w = Writer(module, name, 1, public=True)
  (frame,) = w.arguments
  extension = w.get(frame, _EXTENSION)
  with w.builder.if_then(extension.is_("!=", 0)):
    metadata = w.get(extension, 3)
    w.set(metadata, 3, _VERSION_MAJOR | _VERSION_MINOR << 32)
    w.builder.ret(ir.Constant(ir.IntType(64), 0))
  return w, frame


def _job(w: Writer, frame: Word, y_shape: Word) -> _Job:
  """A job of what every handler is told."""
  job = _Job(w, w.zeros(2 * len(_FIELDS)))
  x, x_shape = _buffer(w, frame, _ARGUMENTS, 0)
  kernel, k_shape = _buffer(w, frame, _ARGUMENTS, 1)
  count, *sizes = (w.get(x_shape, i) for i in range(4))
  job.set(x=x, kernel=kernel, images=count, k=w.get(k_shape))
  job.set(**dict(zip("hwc", sizes, strict=True)))
  job.set(**{name: w.get(y_shape, i) for i, name in enumerate("pqo", 1)})
  for i, name in enumerate(("padding", "rectify", "step")):
    scalar = w.get(w.get(frame, _ATTRIBUTES), i)
    job.set(**{name: w.get(w.get(scalar, 1))})
  p, q = job.get("p q")
  group = (w.word(_LEAST) // (p * q)).most(1)
  job.set(group=group, groups=(count + group - 1) // group)
  return job


def _buffer(w: Writer, frame: Word, kind: int, index: int) -> tuple[Word, Word]:
  """Address and shape of an argument or a result."""
  buffer = w.get(w.get(frame, kind), index)
  return w.get(buffer, _DATA), w.get(buffer, _DIMENSIONS)


def _convolve(module: Any, parts: _Parts, share: Any) -> None:
  """(x, kernel, bias) -> y."""
  w, frame = _open(module, "convolve_handler")
  y, shape = _buffer(w, frame, _RESULTS, 0)
  job = _job(w, frame, shape)
  kernel, c, o, k = job.get("kernel c o k")
  packed = w.zeros(images.up_to(o, tiles.BLOCK) * k * k * c)
  w.call(parts.pack, kernel, k * k * c, o, packed)
  bias, _ = _buffer(w, frame, _ARGUMENTS, 2)
  job.set(y=y, bias=bias, packed=packed)
  w.call(share, frame, job.address)
  w.free(packed)
  w.close()


def _differentiate(module: Any, parts: _Parts, share: Any) -> None:
  """(x, kernel, g, y) -> d_kernel, d_bias, and d_x if it is wanted."""
  w, frame = _open(module, "differentiate_handler")
  g, shape = _buffer(w, frame, _ARGUMENTS, 2)
  job = _job(w, frame, shape)
  kernel, c, o, k, groups = job.get("kernel c o k groups")
  job.set(g=g, y=_buffer(w, frame, _ARGUMENTS, 3)[0])
  with w.builder.if_then(w.get(frame, _RESULT_COUNT).is_("==", 3)):
    job.set(dx=_buffer(w, frame, _RESULTS, 2)[0])
  flipped = w.zeros(k * k * c * o)
  w.call(parts.transpose, kernel, k, c, o, flipped)
  packed = w.zeros(images.up_to(c, tiles.BLOCK) * k * k * o)
  w.call(parts.pack, flipped, k * k * o, c, packed)
  rows, columns = images.gradient_shape(k, c, o)
  size = k * rows * columns
  totals, sums = w.zeros(groups * size), w.zeros(groups * o)
  job.set(packed=packed, totals=totals, sums=sums)
  w.call(share, frame, job.address)
  w.call(parts.add_up, sums, groups, o, _buffer(w, frame, _RESULTS, 1)[0])
  total = w.zeros(size)
  w.call(parts.add_up, totals, groups, size, total)
  result, _ = _buffer(w, frame, _RESULTS, 0)
  with w.loop(k) as i, w.loop(k * c) as j:
    source = total + (i * rows + j) * columns * 4
    w.copy(result + (i * k * c + j) * o * 4, source, o)
  w.free(packed, flipped, totals, sums, total)
  w.close()


def _module() -> Any:
  """All of it, in LLVM's language."""
  module = ir.Module("partial_invariance")
  module.triple = binding.get_process_triple()
  parts, leave, take = _Parts(module), _leave(module), _take(module)
  for name, groups, handler in (
    ("convolve", _convolve_groups, _convolve),
    ("differentiate", _differentiate_groups, _differentiate),
  ):
    share = _share(module, name, groups(module, parts, take), leave)
    handler(module, parts, share)
  return module


@functools.cache
def compiled() -> Any:
  """The code, which lives as long as this process."""
  binding.initialize_native_target()
  binding.initialize_native_asmprinter()
  target = binding.Target.from_default_triple().create_target_machine(
    cpu=binding.get_host_cpu_name(),
    features=binding.get_host_cpu_features().flatten(),
    opt=3,
  )
  module = binding.parse_assembly(str(_module()))
  module.verify()
  options = binding.create_pipeline_tuning_options(speed_level=3)
  passes = binding.create_pass_builder(target, options)
  passes.getModulePassManager().run(module, passes)
  engine = binding.create_mcjit_compiler(module, target)
  engine.finalize_object()
  return engine


def addresses() -> dict[str, int]:
  """Of the handlers "convolve" and "differentiate".

  Raises:
    RuntimeError: LLVM cannot compile for this machine.
  """
  names = ("convolve", "differentiate")
  engine = compiled()
  return {n: engine.get_function_address(f"{n}_handler") for n in names}
