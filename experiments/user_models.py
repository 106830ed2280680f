"""A network of the user's, from FILE.py:FUNCTION.

The function takes no argument and returns the network: a callable on images
(n, h, w, c) in [0, 1] that gives `(output, {layer: activation})`. It may return
`(network, geometry)`, or the network may have an attribute `geometry`: then
strides and offsets are taken from there and not probed.
"""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments.errors import ExperimentError, UsageError
from models.geometry import LayerGeometry


class UserModel(NamedTuple):
  """A network and where it is from.

  Attributes:
    fn: images -> (output, {layer: activation}).
    geometry: by layer as the user gives it, or None.
    name: FILE.py:FUNCTION, without folders.
    sha256: of the file.
  """

  fn: Callable[..., Any]
  geometry: dict[str, LayerGeometry] | None
  name: str
  sha256: str


def load(text: str) -> UserModel:
  """Runs the user's file and function.

  The file's folder is added to where Python looks for modules, after
  everything else.

  Args:
    text: the flag's value, path/to/file.py:function.

  Returns:
    The network, not yet called.

  Raises:
    UsageError: text of another form, no such file or function.
    ExperimentError: the file or the function raises, or it returns anything
      else; the message names the line.
  """
  place, colon, function = text.rpartition(":")
  path = Path(place)
  if not colon or path.suffix != ".py" or not function.isidentifier():
    raise UsageError(
      f"--model={text} is not of the form FILE.py:FUNCTION, as in"
      " mine.py:make_model"
    )
  if not path.is_file():
    raise UsageError(f"--model={text}: there is no file {path}")
  name = f"{path.name}:{function}"
  module = _import(path)
  make = getattr(module, function, None)
  if not callable(make):
    raise UsageError(
      f"--model={text}: {path.name} has no function {function}, only"
      f" {', '.join(_functions(module)) or 'none at all'}"
    )
  try:
    made = make()
  except (Exception, SystemExit) as error:
    raise ExperimentError(f"{name} raises {_where(error, path)}") from error
  geometry = None
  if isinstance(made, tuple) and len(made) == 2:
    made, geometry = made
  if not callable(made):
    raise ExperimentError(
      f"{name} returns {type(made).__name__}; it must return a function of"
      " images, or (function, geometry)"
    )
  if geometry is None:
    geometry = getattr(made, "geometry", None)
  if geometry is not None:
    geometry = _check_geometry(geometry, name)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  return UserModel(made, geometry, name, digest)


def _import(path: Path) -> ModuleType:
  """Runs a file as a module of its own, whatever its name."""
  folder = str(path.resolve().parent)
  if folder not in sys.path:
    sys.path.append(folder)
  name = f"user_model_{path.stem}"
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise ExperimentError(f"{path} cannot be loaded as a Python file")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses look their module up
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    del sys.modules[name]
    raise ExperimentError(
      f"{path.name} raises {_where(error, path)}"
    ) from error
  return module


def _functions(module: ModuleType) -> list[str]:
  """Names of the functions that a file defines itself."""
  return [
    name
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__
  ]


def _where(error: BaseException, path: Path) -> str:
  """An exception in one line, with the last line of the file on its way."""
  lines = str(error).strip().splitlines() or ["no message"]
  what = f"{type(error).__name__}: {lines[0]}"
  frames = traceback.extract_tb(error.__traceback__)
  own = path.resolve()
  numbers = [f.lineno for f in frames if Path(f.filename).resolve() == own]
  if isinstance(error, SyntaxError) and error.lineno:
    return what  # it names the line itself
  return f"{what} (line {numbers[-1]})" if numbers else what


def _check_geometry(geometry: Any, name: str) -> dict[str, LayerGeometry]:
  if not isinstance(geometry, Mapping):
    raise ExperimentError(
      f"the geometry of {name} is of type {type(geometry).__name__}, expected"
      " {layer: LayerGeometry}"
    )
  return {
    layer: _check_layer(layer, where, name) for layer, where in geometry.items()
  }


def _check_layer(layer: str, where: Any, name: str) -> LayerGeometry:
  fields = LayerGeometry._fields
  if all(hasattr(where, field) for field in fields):
    where = LayerGeometry(*(getattr(where, field) for field in fields))
  elif isinstance(where, tuple) and len(where) == len(fields):
    where = LayerGeometry(*where)
  else:
    raise ExperimentError(
      f"the geometry of {name} has {where!r} for layer {layer!r}, expected"
      f" LayerGeometry({', '.join(fields)})"
    )
  if where.spatial and where.stride <= 0:
    raise ExperimentError(
      f"the geometry of {name} has a stride of {where.stride} for layer"
      f" {layer!r}, which has positions: it must be positive"
    )
  return where
