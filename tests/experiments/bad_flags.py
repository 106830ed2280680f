"""Wrong command lines: every flag's wrong type, range and combination."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.experiments import bad_files as bad

TRAIN = (
  *("--workdir=out", "--model=mlp", "--depth=1", "--width=4", "--epochs=1"),
  *("--train_examples=64", "--test_examples=32", "--batch_size=32"),
  "--strategy=loop",
)
CNN = ("--workdir=out", "--train_examples=64", "--batch_size=32")
STUDY = ("--workdir=out",)
RUN = ("--workdir=run", "--measure_examples=8", "--transforms=rotation:15")
OWN = (
  *("--workdir=out", "--model=mine.py:make", "--images=mine.npz"),
  *("--transforms=rotation:15", "--shift_map=", "--diagonal=0"),
)
STORED = ("--workdir=out", "--activations=mine.npz")
NONE = ("--workdir=out",)


class Case(NamedTuple):
  """What is wrong, how, and what must be said.

  Attributes:
    what: in a few words.
    command: its name.
    usual: arguments that would do.
    changes: arguments that do not, instead or besides.
    words: all of them must be in the message.
    code: of the exit.
    files: what makes the files that are there before.
  """

  what: str
  command: str
  usual: Sequence[str]
  changes: str
  words: Sequence[str]
  code: int = 2
  files: Sequence[Callable[[Callable[[], Path]], None]] = ()


def flags(command, usual, *rows):
  """Cases of one command: a flag, and words beside it and its value."""
  cases = []
  for change, *words in rows:
    name, _, value = change.partition("=")
    named = change if value.strip() else name
    cases.append(Case(change, command, usual, change, (named, *words)))
  return cases


NOT_ONE = "is not between 1 and the 64"
FLAGS = [
  *flags(
    *("train", TRAIN),
    ("--epochs=0", "is not positive"),
    ("--epochs=1000000000000", "at most 1,073,741,823"),
    ("--epochs=1.5", "flag --epochs"),
    ("--epochs=", "flag --epochs"),
    ("--batch_size=0", NOT_ONE),
    ("--batch_size=-3", NOT_ONE),
    ("--batch_size=65", NOT_ONE),
    ("--learning_rate=nan", "is not a finite number from 0"),
    ("--learning_rate=inf", "is not a finite number from 0"),
    ("--learning_rate=-1", "is not a finite number from 0"),
    ("--learning_rate=fast", "flag --learning_rate"),
    ("--weight_decay=nan", "is not a finite number from 0"),
    ("--weight_decay=-1", "is not a finite number from 0"),
    ("--optimizer=adam", "is not one of adamw, sgd"),
    ("--optimizer=", "is not one of adamw, sgd"),
    ("--schedule=step", "is not cosine or constant"),
    ("--strategy=fast", "is not auto, loop or scan"),
    ("--dtype=float64", "is not float32 or bfloat16"),
    ("--augment=rotation", "is not of the form family:number"),
    ("--augment=rotation:nan", "is not a positive number"),
    ("--augment=rotation:1e400", "is not a positive number"),
    ("--augment=rotation:-3", "is not a positive number"),
    ("--augment=translation:1/2", "give one number for translation"),
    ("--augment=rotation:15,rotation:5", "rotation is there twice"),
    ("--augment=reflection", "is not of the form"),
    ("--seeds=0", "[1, 100000]"),
    ("--seeds=1000000000", "[1, 100000]"),
    ("--seed=-1", "[0, 4294967295]"),
    ("--seed=4294967296", "[0, 4294967295]"),
    ("--model=resnet", "is unknown; known are cnn"),
    ("--model=", "is unknown; known are cnn"),
    ("--width=0", "width=0"),
    ("--width=-1", "width=-1"),
    ("--width=100000000000", "of memory, of which", "give a smaller --width"),
    ("--depth=0", "depth=0"),
    ("--depth=7", "depth=7"),
    ("--canvas=100000", "of memory, of which", "give a smaller one"),
    ("--canvas=10000000000000", "of memory, of which"),
    ("--canvas=19", "is smaller than the 20 px box"),
    ("--canvas=-1", "is smaller than the 20 px box"),
    ("--train_examples=-1", "is not between 0 (all) and the 1287 there are"),
    ("--train_examples=1288", "is not between 0 (all) and the 1287 there are"),
    ("--test_examples=511", "is not between 0 (all) and the 510 there are"),
    ("--dataset=mnits", "is unknown; known are digits"),
    ("--dataset=", "is unknown; known are digits"),
    ("--dataset=tfds:", "lacks a name, as in tfds:emnist"),
    ("--workdir=", "is empty: name a folder"),
    ("--workdir=  ", "is empty: name a folder"),
    ("--residual=2", "residual"),
  ),
  *flags(
    *("train", CNN),
    ("--pooling=min", "pooling"),
    ("--pooling=", "pooling"),
    ("--pooling=max:0/0", "pooling"),
    ("--pooling=max:3/0", "pooling"),
    ("--pooling=max:a", "pooling"),
    ("--pooling=blur:-1", "pooling"),
    ("--pooling=blur:100000", "blur:100000"),
    ("--kernel_size=0", "kernel_size=0"),
    ("--kernel_size=-3", "kernel_size=-3"),
    ("--kernel_size=100000", "is even: it has no centre"),
    ("--padding=mirror", "mirror"),
    ("--padding=", "padding"),
    ("--head=softmax", "softmax"),
    ("--pool_after=9", "pool_after"),
    ("--pool_after=x", "pool_after"),
    ("--pool_after=2/2", "pool_after"),
    ("--width_schedule=32/32", "width_schedule"),
    ("--width_schedule=a/b/c", "width_schedule"),
    ("--width_schedule=0/1/2", "width_schedule"),
    ("--activation=swish", "swish"),
    ("--norm=layer", "layer"),
    ("--width=1000000", "of memory, of which", "give a smaller --width"),
  ),
  *flags(
    *("study", STUDY),
    ("--preset=slow", "is unknown; known are quick"),
    ("--preset=", "is unknown; known are quick"),
    ("--measures=invariance", "invariance"),
    ("--measures=,", "names none: give some of"),
    ("--transforms=", "is empty: give at least one transformation"),
    ("--transforms=spin:3", "is not of the form family:number"),
    ("--transforms=rotation:0", "is not a positive number"),
    ("--transforms=rotation:inf", "is not a positive number"),
    ("--transforms=scaling:x0.5", "or a factor above x1"),
    ("--transforms=rotation:5,rotation:9", "is a second orbit named rotation"),
    ("--transforms=rotation:5/5", "names a number twice"),
    ("--transforms=reflection:2", "reflection takes no number"),
    ("--transforms=matrix:no.csv", "no.csv cannot be read: No such file"),
    ("--transforms=matrix:/dev/zero", "it is no ordinary file"),
    ("--transforms=shear:1/2+rotation:5", "takes one number"),
    ("--shift_map=6", "is not of the form extent:step in whole pixels"),
    ("--shift_map=5:2", "must be a multiple of the step"),
    ("--shift_map=1000000:1", "4,000,004,000,001 translations"),
    ("--diagonal=-1", "is negative"),
    ("--diagonal=1000000000", "2,000,000,001 steps"),
    ("--measure_examples=1", "between 2 and the 510 test images"),
    ("--measure_examples=-5", "between 2 and the 510 test images"),
    ("--measure_batch_size=-1", "is negative"),
    ("--memory_limit=2", "is not a positive number with a unit"),
    ("--memory_limit=nanGiB", "is not a positive number with a unit"),
    ("--memory_limit=1MiB", "are too little: one image under", "takes about"),
    ("--order=2", "order=2"),
    ("--border=wrap", "border=wrap"),
    ("--width=100000000", "of memory, of which"),
    ("--padding=none", "padding"),
    ("--learning_rate=nan", "is not a finite number from 0"),
  ),
  *flags(
    *("describe", ()),
    ("--format=yaml", "yaml"),
    ("--family=nobody", "is unknown; known are"),
    ("--canvas=0", "canvas"),
    ("--channels=0", "channels"),
    ("--num_classes=0", "num_classes"),
    ("--width=0", "width=0"),
    ("--pooling=max:9/0", "pooling"),
  ),
  *flags(
    *("lecture", (*CNN, "--epochs=1")),
    ("--canvas=3", "is smaller than the 20 px box"),
    ("--epochs=-1", "is not positive"),
    ("--learning_rate=nan", "is not a finite number from 0"),
    ("--batch_size=65", NOT_ONE),
  ),
  *flags(
    *("reproduce", ("red_green", "--workdir=out")),
    ("--seeds=0", "[1, 100000]"),
    ("--epochs=0", "is not positive"),
    ("--learning_rate=nan", "is not a finite number from 0"),
  ),
  *flags(
    *("verify", ("run",)),
    ("--sample=-1", "is not a non-negative integer"),
    ("--sample=few", "flag --sample"),
    ("--sample_seed=-1", "is not a non-negative integer"),
  ),
  *flags(
    *("benchmark", ("--output=out.json",)),
    ("--rounds=0", "rounds"),
    ("--cores=0", "cores"),
    ("--suite=all", "suite"),
    ("--jobs=drive", "drive"),
  ),
]

OTHERS = [
  Case("no workdir", "train", (), "", ["--workdir is required"]),
  Case("no workdir", "report", (), "", ["--workdir is required"]),
  Case(
    "a flag that is almost one",
    *("train", TRAIN, "--epoch=3"),
    ["Unknown command line flag 'epoch'. Did you mean: epochs"],
  ),
  Case(
    "a window larger than the image",
    *("train", CNN, "--pooling=max:99/2"),
    ["kernel 99", "32 px canvas", "a larger --canvas"],
  ),
  Case(
    "images smaller than the network",
    *("describe", (), "--canvas=4"),
    ["pool3", "4 px canvas: use a smaller --depth or a larger --canvas"],
  ),
  Case(
    "a flag of another experiment",
    *("reproduce", ("red_green", "--workdir=out"), "--canvas=64"),
    ["--canvas means nothing to red_green, which takes"],
  ),
  Case(
    "seed and seeds",
    *("train", TRAIN, "--seed=1 --seeds=2"),
    ["--seeds and --seed exclude each other"],
  ),
  Case(
    "the workdir is a file",
    *("train", TRAIN, "--workdir=file"),
    ["--workdir=file is not a folder: name another"],
    files=[bad.text("file", "")],
  ),
  Case(
    "the workdir is in a file",
    *("train", TRAIN, "--workdir=file/sub"),
    ["file/sub cannot be written", "use another --workdir"],
    1,
    files=[bad.text("file", "")],
  ),
  Case(
    "the workdir's name is too long",
    *("train", TRAIN, "--workdir=" + "x" * 300),
    ["File name too long", "xxx"],
    1,
  ),
  Case(
    "no name", "reproduce", (), "--workdir=out", ["NAME is missing: one of red"]
  ),
  Case(
    "another name",
    *("reproduce", (), "blue --workdir=out"),
    ["NAME=blue is unknown; known are red_green"],
  ),
  Case("no run", "verify", (), "", ["RUN is missing"]),
  Case("two runs", "verify", (), "a b", ["unexpected argument 'b'"]),
  Case(
    "no such run",
    *("verify", (), "nowhere"),
    ["nowhere holds neither a run (config.json) nor the runs of a study"],
    1,
  ),
  Case("one study", "compare", (), "a", ["B is missing"]),
  Case(
    "no studies",
    *("compare", (), "a b"),
    ["a holds no claims.csv: give the results folder of a study"],
    1,
  ),
  Case("three studies", "compare", (), "a b c", ["unexpected argument 'c'"]),
  Case(
    "other tables",
    *("compare", (), "a a"),
    ["a/claims.csv has no column", "experiments.report"],
    1,
    files=[bad.text(f"a/{n}.csv", "x\n1\n") for n in ("claims", "effects")],
  ),
  Case(
    "empty tables",
    *("compare", (), "a a"),
    ["a/claims.csv cannot be read"],
    1,
    files=[bad.text(f"a/{n}.csv", "") for n in ("claims", "effects")],
  ),
]
