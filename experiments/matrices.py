"""Transformations that a user wrote down as matrices, read from a file."""

from pathlib import Path

from analysis.transforms import matrix

Matrix = tuple[float, ...]

# Some ten thousand transformations, which nobody can wait for.
_MOST_BYTES = 2**20


def read_matrices(path: Path) -> tuple[Matrix, ...]:
  """Reads 2x3 matrices, one a line.

  A line holds six numbers a,b,c,d,e,f: content at (x, y), in pixels right of
  and below the image's centre, goes to (a x + b y + c, d x + e y + f). The
  first line may name the columns; blank lines and what follows # are skipped.

  Args:
    path: the file.

  Returns:
    The six numbers of each line, in order; the identity is put in front if it
    is not among them.

  Raises:
    ValueError: no such file, no text, a line that is not a matrix with an
      inverse or repeats another, or no matrix but the identity. The message
      names file, line and value.
  """
  try:
    if path.exists() and not path.is_file():
      raise OSError(0, "it is no ordinary file")
    if path.exists() and path.stat().st_size > _MOST_BYTES:
      raise OSError(0, f"it has more than {_MOST_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8-sig")  # spreadsheets write the mark
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, "strerror", None) or "it is not text"
    raise ValueError(
      f"{path} cannot be read: {why}; give a file of six numbers a line"
    ) from error
  found: dict[Matrix, int] = {}
  header = True  # until a line is read
  for number, line in enumerate(text.splitlines(), start=1):
    fields = [field.strip() for field in line.partition("#")[0].split(",")]
    if fields == [""]:
      continue
    names = len(fields) == 6 and not any(map(_is_number, fields))
    first, header = header, False
    if first and names:
      continue
    values = _parse_line(fields, f"{path} line {number}")
    if values in found:
      raise ValueError(
        f"{path} line {number} repeats line {found[values]}: remove one of them"
      )
    found[values] = number
  identity = tuple(map(float, matrix.identity))
  if not set(found) - {identity}:
    raise ValueError(f"{path} holds no matrix but the identity: add one")
  return tuple(found) if identity in found else (identity, *found)


def _parse_line(fields: list[str], place: str) -> Matrix:
  if len(fields) != 6:
    raise ValueError(
      f"{place} has {len(fields)} values, not 6: {','.join(fields)!r}; write"
      " a,b,c,d,e,f"
    )
  for field in fields:
    if not _is_number(field):
      raise ValueError(f"{place}: {field!r} is not a number; write one")
  values = tuple(float(field) + 0.0 for field in fields)  # no minus zero
  try:
    matrix.matrix(values)
  except ValueError as error:
    raise ValueError(f"{place}: {error}") from error
  return values


def _is_number(field: str) -> bool:
  try:
    float(field)
  except ValueError:
    return False
  return True
