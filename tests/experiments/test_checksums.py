import shutil
import subprocess

import pytest

from experiments import checksums, store
from experiments.checksums import DamagedError, Sums


@pytest.fixture
def sums(tmp_path):
  return Sums(tmp_path)


def write(sums, name, text):
  path = sums.folder / name
  store.write_text(path, text, record=sums.record)
  return path


def test_a_file_is_whole_until_it_is_altered(sums):
  path = write(sums, "a/file.txt", "text")
  other = write(sums, "other.txt", "other")
  assert sums.whole(path)
  assert sums.read(path) == b"text"
  assert sums.listed() == [path, other]
  path.write_text("test")
  assert not sums.whole(path)
  with pytest.raises(DamagedError, match=r"file\.txt is damaged: .*SHA256SUMS"):
    sums.read(path)
  assert sums.whole(other)
  other.unlink()
  assert not sums.whole(other)


def test_without_checksums_all_is_read_as_it_is(sums):
  path = sums.folder / "file.txt"
  path.write_text("text")
  assert not sums.exist()
  assert sums.read(path) == b"text"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_on_either_side_of_the_rename_leaves_a_whole_file(
  sums, monkeypatch, moment
):
  path = write(sums, "file.txt", "old")
  replace = store.os.replace

  def killed(source, target):
    if target == path:
      if moment == "after":
        replace(source, target)
      raise KeyboardInterrupt
    replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(store.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      write(sums, "file.txt", "new")
  assert path.read_text() == ("old" if moment == "before" else "new")
  assert sums.whole(path)
  # What is written next settles it: the other content is not whole any more.
  write(sums, "next.txt", "")
  assert sums.whole(path)
  path.write_text("new" if moment == "before" else "old")
  assert not sums.whole(path)


def test_the_digest_of_flags_is_kept_and_not_believed_if_altered(sums):
  assert sums.flags is None
  sums.set_flags("abc")
  write(sums, "file.txt", "text")
  assert sums.flags == "abc"
  path = sums.folder / checksums.NAME
  for old, new in (("abc", "abd"), ("file", "fill")):
    content = path.read_text()
    path.write_text(content.replace(old, new))
    assert sums.flags is None
    path.write_text(content)
  assert sums.flags == "abc"


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_the_usual_tool_reads_the_checksums(sums):
  sums.set_flags("abc")
  path = write(sums, "a/file with blanks.txt", "text")
  command = ["sha256sum", "--check", "--strict", checksums.NAME]
  check = {"cwd": sums.folder, "capture_output": True, "check": False}
  assert subprocess.run(command, **check).returncode == 0
  path.write_text("test")
  assert subprocess.run(command, **check).returncode == 1
