"""Loading FILE.py:FUNCTION: what comes back, and what is refused."""

import sys
import textwrap

import pytest

from experiments import user_models
from experiments.errors import ExperimentError, UsageError
from models.geometry import LayerGeometry


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a file; what loading it adds to this process goes again."""
  monkeypatch.setattr(sys, "path", list(sys.path))

  def call(text, name="mine.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path

  yield call
  for name in [n for n in sys.modules if n.startswith("user_model_")]:
    del sys.modules[name]


GOOD = """
  def make_model():
    def network(x):
      return x, {"a": x}
    return network
"""


def test_a_function_is_loaded_with_its_files_digest(write):
  path = write(GOOD)
  model = user_models.load(f"{path}:make_model")
  assert model.fn(1) == (1, {"a": 1})
  assert model.geometry is None
  assert model.name == "mine.py:make_model"
  other = user_models.load(f"{write(GOOD + '  # changed')}:make_model")
  assert len(model.sha256) == 64
  assert other.sha256 != model.sha256


def test_a_file_may_import_its_neighbour_and_define_dataclasses(write):
  write("VALUE = 7", "neighbour_of_mine.py")
  path = write(
    """
    from __future__ import annotations
    import dataclasses
    import neighbour_of_mine

    @dataclasses.dataclass(frozen=True)
    class Network:
      value: int
      def __call__(self, x):
        return self.value, {}

    def make_model():
      return Network(neighbour_of_mine.VALUE)
    """,
    "a file.with dots.py",
  )
  assert user_models.load(f"{path}:make_model").fn(0) == (7, {})


@pytest.mark.parametrize(
  "made",
  [
    "return network, {'a': LayerGeometry(2, 0.5, 2, (4, 4))}",
    "return network, {'a': (2, 0.5, 2, (4, 4))}",
    "network.geometry = {'a': (2, 0.5, 2, (4, 4))}; return network",
  ],
)
def test_a_geometry_may_come_along(write, made):
  path = write(
    f"""
    from models.geometry import LayerGeometry
    def make_model():
      def network(x): return x, {{"a": x}}
      {made}
    """
  )
  model = user_models.load(f"{path}:make_model")
  assert model.geometry == {"a": LayerGeometry(2, 0.5, 2, (4, 4))}


@pytest.mark.parametrize(
  "text", ["mine.py", "mine:make_model", "mine.py:", "mine.py:a-b", ":f"]
)
def test_another_form_is_a_wrong_flag(text):
  with pytest.raises(UsageError, match=r"not of the form FILE\.py:FUNCTION"):
    user_models.load(text)


def test_a_missing_file_or_function_is_a_wrong_flag(write, tmp_path):
  with pytest.raises(UsageError, match=r"there is no file .*none\.py"):
    user_models.load(f"{tmp_path}/none.py:make_model")
  path = write("from os.path import join\nX = 1\ndef build(): pass\n")
  with pytest.raises(
    UsageError, match=r"mine\.py has no function X, only build"
  ):
    user_models.load(f"{path}:X")
  with pytest.raises(UsageError, match="no function make, only none at all"):
    user_models.load(f"{write('')}:make")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import no_such_package", "mine.py raises ModuleNotFoundError: .*line 1"),
    ("def make_model(:", "mine.py raises SyntaxError: .*mine.py, line 1"),
    ("import sys; sys.exit(3)", r"mine.py raises SystemExit: 3 \(line 1\)"),
    (
      "def make_model():\n  raise KeyError('w')\n",
      r"mine.py:make_model raises KeyError: 'w' \(line 2\)",
    ),
    (
      "def make_model(seed): pass",
      "mine.py:make_model raises TypeError: .*missing 1 required",
    ),
    (
      "def make_model(): return None",
      "mine.py:make_model returns NoneType; it must return a function",
    ),
    (
      "def make_model(): return len, [1]",
      "geometry of mine.py:make_model is of type list, expected",
    ),
    (
      "def make_model(): return len, {'conv': 3}",
      "has 3 for layer 'conv', expected LayerGeometry",
    ),
    (
      "def make_model(): return len, {'conv': (0, 0.0, 3, (4, 4))}",
      "has a stride of 0 for layer 'conv', which has positions",
    ),
  ],
)
def test_what_fails_is_one_line_with_its_place(write, text, message):
  path = write(text)
  with pytest.raises(ExperimentError, match=message) as caught:
    user_models.load(f"{path}:make_model")
  assert "\n" not in str(caught.value)
