import re

import pytest

from experiments.progress import Progress


def test_rounding_does_not_bring_the_bar_past_its_end(capsys):
  """tqdm would warn, and warnings are errors here."""
  assert 0.1 + 0.1 + 0.1 > 0.3
  with Progress(0.3, 1) as bar:
    bar.start("train")
    for _ in range(3):
      bar.advance(0.1)
  assert re.search(r"100%\|.* done", capsys.readouterr().err)


def test_a_compilation_counts_with_the_work_after_it(capsys):
  with Progress(10.0, 2) as bar:
    bar.compiling(4.0)
    bar.start("train cnn seed 0")
    assert "train cnn seed 0 (1 jobs left after it)" in capsys.readouterr().err
    bar.advance(1.0)
    bar.start("measure")
    assert re.search(r" 50%\|.* measure \(0 jobs", capsys.readouterr().err)


def test_an_interrupted_bar_is_not_done(capsys):
  bar = Progress(10.0, 1)
  with pytest.raises(KeyboardInterrupt), bar:
    raise KeyboardInterrupt
  assert "done" not in capsys.readouterr().err
