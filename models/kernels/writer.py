"""Words for LLVM's language, so that loops read like loops.

All integers are 64 bits wide, pointers among them: addresses, in bytes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import binding, ir

WORD, FLOAT = ir.IntType(64), ir.FloatType()


def _lanes_and_registers() -> tuple[int, int]:
  features = binding.get_host_cpu_features()
  if features.get("avx512f"):
    return 16, 32
  if features.get("avx"):
    return 8, 16
  return 4, 32 if features.get("neon") else 16


# Floats in the CPU's widest register, and how many of those it has.
LANES, REGISTERS = _lanes_and_registers()
VECTOR = ir.VectorType(FLOAT, LANES)


class Word:
  """An integer of the running program."""

  def __init__(self, builder: Any, value: Any) -> None:
    self._builder, self.value = builder, value

  def _with(self, operation: str, other: Any) -> "Word":
    value = getattr(self._builder, operation)(self.value, _plain(other))
    return Word(self._builder, value)

  def __add__(self, other: Any) -> "Word":
    return self._with("add", other)

  def __sub__(self, other: Any) -> "Word":
    return self._with("sub", other)

  def __mul__(self, other: Any) -> "Word":
    return self._with("mul", other)

  def __floordiv__(self, other: Any) -> "Word":
    return self._with("sdiv", other)

  def is_(self, comparison: str, other: Any) -> Any:
    """A condition, such as `x.is_("<", 3)`."""
    return self._builder.icmp_signed(comparison, self.value, _plain(other))

  def least(self, other: Any) -> "Word":
    """The smaller of two."""
    smaller = self.is_("<", other)
    value = self._builder.select(smaller, self.value, _plain(other))
    return Word(self._builder, value)

  def most(self, other: Any) -> "Word":
    """The larger of two."""
    larger = self.is_(">", other)
    value = self._builder.select(larger, self.value, _plain(other))
    return Word(self._builder, value)


def _plain(value: Any) -> Any:
  return value.value if isinstance(value, Word) else ir.Constant(WORD, value)


class Writer:
  """Writes one function, whose arguments and result are words."""

  def __init__(self, module: Any, name: str, arguments: int, public: bool):
    kind = ir.FunctionType(WORD, [WORD] * arguments)
    self.function = ir.Function(module, kind, name)
    if not public:
      self.function.linkage = "internal"
    self._entry = self.function.append_basic_block("entry")
    first = self.function.append_basic_block("first")
    self.builder = ir.IRBuilder(first)
    self.arguments = [Word(self.builder, a) for a in self.function.args]

  def close(self, result: Any = 0) -> Any:
    """Ends the function; returns it."""
    self.builder.ret(_plain(result))
    first = self.function.blocks[1]
    ir.IRBuilder(self._entry).branch(first)
    return self.function

  def word(self, value: Any) -> Word:
    """A number as a word."""
    return Word(self.builder, _plain(value))

  def choose(self, condition: Any, one: Any, other: Any) -> Word:
    """One word if a condition holds, else the other."""
    value = self.builder.select(condition, _plain(one), _plain(other))
    return Word(self.builder, value)

  def variable(self, value: Any) -> Any:
    """Memory for a value that changes; LLVM keeps it in a register."""
    place = ir.IRBuilder(self._entry).alloca(value.type)
    self.builder.store(value, place)
    return place

  @contextlib.contextmanager
  def loop(self, count: Any, step: int = 1) -> Iterator[Word]:
    """Repeats what is written inside for 0, step, ... below a count."""
    builder = self.builder
    index = self.variable(ir.Constant(WORD, 0))
    head, body, after = (
      builder.append_basic_block(name) for name in ("head", "body", "after")
    )
    builder.branch(head)
    builder.position_at_end(head)
    value = Word(builder, builder.load(index))
    builder.cbranch(value.is_("<", count), body, after)
    builder.position_at_end(body)
    yield value
    builder.store((value + step).value, index)
    builder.branch(head)
    builder.position_at_end(after)

  def call(self, function: Any, *arguments: Any) -> Word:
    """Calls a function of words."""
    values = [_plain(a) for a in arguments]
    return Word(self.builder, self.builder.call(function, values))

  def call_at(self, address: Word, argument: Word) -> Word:
    """Calls a function of one word, by its address."""
    kind = ir.FunctionType(WORD, [WORD]).as_pointer()
    place = self.builder.inttoptr(address.value, kind)
    return Word(self.builder, self.builder.call(place, [argument.value]))

  def outside(self, name: str, arguments: int) -> Any:
    """A function of the C library, whose arguments fit words."""
    found = self.builder.module.globals.get(name)
    kind = ir.FunctionType(WORD, [WORD] * arguments)
    return found or ir.Function(self.builder.module, kind, name)

  def address_of(self, function: Any) -> Word:
    """Where a function is."""
    return Word(self.builder, self.builder.ptrtoint(function, WORD))

  def _place(self, address: Word, kind: Any) -> Any:
    return self.builder.inttoptr(address.value, kind.as_pointer())

  def load(self, address: Word, kind: Any = WORD) -> Any:
    """The value at an address, which a float's would suit."""
    place = self._place(address, kind)
    return self.builder.load(place, align=8 if kind is WORD else 4)

  def store(self, value: Any, address: Word) -> None:
    """Writes a value to an address."""
    place = self._place(address, value.type)
    self.builder.store(value, place, align=8 if value.type is WORD else 4)

  def get(self, address: Word, index: int = 0) -> Word:
    """A word of an array of them."""
    return Word(self.builder, self.load(address + 8 * index))

  def set(self, address: Word, index: int, value: Any) -> None:
    """Writes a word of an array of them."""
    self.store(_plain(value), address + 8 * index)

  def fetch_add(self, address: Word, value: int) -> Word:
    """Adds to a word that other threads add to; returns what it was."""
    place = self._place(address, WORD)
    before = self.builder.atomic_rmw("add", place, _plain(value), "seq_cst")
    return Word(self.builder, before)

  def zeros(self, floats: Any) -> Word:
    """New memory for floats, all 0."""
    return self.call(self.outside("calloc", 2), floats, 4)

  def free(self, *addresses: Word) -> None:
    """Gives memory back."""
    for address in addresses:
      self.call(self.outside("free", 1), address)

  def copy(self, target: Word, source: Word, floats: Any) -> None:
    """Copies floats."""
    with self.loop(floats) as i:
      self.store(self.load(source + i * 4, FLOAT), target + i * 4)
