import pytest

from experiments.matrices import read_matrices

IDENTITY = (1, 0, 0, 0, 1, 0)


@pytest.fixture
def written(tmp_path):
  def write(text):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path

  return write


def test_lines_are_matrices_behind_the_identity(written):
  path = written("1,0,2,0,1,0\n 0.5, 0, 0, 0, 0.5, -1e0 \n")
  assert read_matrices(path) == (
    IDENTITY, (1, 0, 2, 0, 1, 0), (0.5, 0, 0, 0, 0.5, -1)
  )  # fmt: skip


def test_headers_comments_and_blank_lines_are_skipped(written):
  path = written(
    "\ufeff# mine\n\na,b,c,d,e,f\n1,0,2,0,1,0 # right\n  \n# end\n"
  )
  assert read_matrices(path) == (IDENTITY, (1, 0, 2, 0, 1, 0))


def test_the_identity_stays_where_it_is(written):
  path = written("1,0,2,0,1,0\r\n1,0,0,-0,1,0\r\n")
  assert read_matrices(path) == ((1, 0, 2, 0, 1, 0), IDENTITY)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("1,0,2,0,1", "line 1 has 5 values, not 6: '1,0,2,0,1'; write a,b,c,d,"),
    ("1;0;2;0;1;0", "line 1 has 1 values, not 6: '1;0;2;0;1;0'"),
    ("1,0,2,0,1,0,", "line 1 has 7 values, not 6"),
    ("# x\n\n1,0,2,O,1,0", "line 3: 'O' is not a number"),
    ("a,b,c,d,e,f\na,b,c,d,e,f", "line 2: 'a' is not a number"),
    ("1,0,2,0,1,0\na,b,c,d,e,f", "line 2: 'a' is not a number"),
    ("1,0,,0,1,0", "line 1: '' is not a number"),
    ("1,0,nan,0,1,0", "line 1: matrix parameter is not finite"),
    ("1,0,inf,0,1,0", "line 1: matrix parameter is not finite"),
    ("1,0,2,0,1,0\n1,2,0,2,4,0", "line 2: matrix by 1, 2, 0, 2, 4, 0 has no i"),
    ("1,0,2,0,1,0\n\n1.0,0,2,0,1,0", "line 3 repeats line 1: remove one"),
    ("", "holds no matrix but the identity: add one"),
    ("a,b,c,d,e,f\n1,0,0,0,1,0", "holds no matrix but the identity"),
  ],
)
def test_errors_name_file_line_and_value(written, text, message):
  path = written(text)
  with pytest.raises(ValueError, match=f"^{path} ") as raised:
    read_matrices(path)
  found = str(raised.value).removeprefix(f"{path} ")
  assert found.startswith(message)
  assert "\n" not in found


def test_what_is_not_text_is_refused(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_bytes(b"\xff\xfe1,0")
  with pytest.raises(ValueError, match=r"mine\.csv cannot be read: it is not"):
    read_matrices(path)
