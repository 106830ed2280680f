"""Wrong files: images, checkpoints, networks, activations, matrices, tables."""

import os

import numpy as np

from tests.experiments import bad_files as bad
from tests.experiments.bad_flags import NONE, OWN, RUN, STORED, TRAIN, Case

IMAGES_GZ = "train-images-idx3-ubyte.gz"
MNIST = (*TRAIN, "--dataset=mnist", "--data_dir=idx")
WAYS = "put the four .gz files of"


def of_idx(what, name, content, *words):
  return Case(
    *(what, "train", MNIST, "", [name, *words, WAYS], 1),
    files=[bad.idx_folder(name, content)],
  )


def of_own(what, message, code=1, usual=OWN, changes="", **arrays):
  """A network that is right, and images that are not."""
  files = [bad.text("mine.py", RIGHT)]
  files += [bad.npz(**arrays)] if arrays else []
  return Case(what, "measure", usual, changes, message, code, files)


RIGHT = """
def make():
  return lambda x: (x.mean((1, 2)), {"first": x})
"""
DATA = [
  of_idx("an IDX file is missing", IMAGES_GZ, None, "No such file"),
  of_idx("an IDX file is cut off", IMAGES_GZ, b"\x1f\x8b", "truncated (2 of"),
  of_idx("an IDX file is of others", IMAGES_GZ, b"x" * 10**7, "is corrupted"),
  Case(
    "the data folder is a file",
    *("train", MNIST, "--data_dir=file"),
    ["--data_dir=file is not a folder"],
    1,
    files=[bad.text("file", "")],
  ),
  of_own("no images", ["--images=mine.npz does not exist: give an"], 2),
  of_own("images of rank 2", ["shape (12, 12), expected"], images=np.eye(12)),
  of_own("no image", ["have shape (0, 12"], images=bad.IMAGES[:0]),
  of_own("one image", ["--measure_examples"], 2, images=bad.IMAGES[:1]),
  of_own(
    "images are NaN",
    ["run from nan to nan", "normalise inside the network"],
    images=bad.IMAGES * np.nan,
  ),
  of_own(
    "images are up to 255", ["must lie in [0, 1]"], images=bad.IMAGES * 1.0
  ),
  of_own("images are objects", ["pickled"], images=np.array([{}] * 3)),
  of_own(
    "images are words", ["images are <U1"], images=np.full((2, 2, 2), "a")
  ),
  of_own(
    "images are complex", ["images are complex128"], images=bad.IMAGES * 1j
  ),
  of_own("no array of images", ["has no array 'images', only x"], x=bad.IMAGES),
  of_own(
    "labels of another number",
    ["labels have shape (5,), expected (6,)"],
    images=bad.IMAGES,
    labels=bad.LABELS[:5],
  ),
  of_own(
    "labels are fractions",
    ["labels are float64", "use whole numbers from 0"],
    images=bad.IMAGES,
    labels=bad.LABELS / 2,
  ),
  of_own(
    "labels are too large for 32 bits",
    ["a label is 4294967298"],
    images=bad.IMAGES,
    labels=bad.LABELS + 2**32,
  ),
  of_own(
    "labels beyond the output",
    ["a label is 2", "1 value", "mine.py:make"],
    images=bad.IMAGES,
    labels=bad.LABELS,
  ),
  Case(
    "images in a text file",
    *("measure", OWN, "--images=mine.txt"),
    ["--images=mine.txt is not an .npz or .npy file"],
    files=[bad.text("mine.py", RIGHT), bad.text("mine.txt", "1 2")],
  ),
  *(
    Case(
      what,
      *("measure", OWN, f"--images={name}", words, 1),
      files=[bad.text("mine.py", RIGHT), *files],
    )
    for what, name, words, *files in (
      ("an empty .npz", "a.npz", ["cannot be read"], bad.text("a.npz", "")),
      ("an .npz cut off", "a.npz", ["cannot be read"], bad.text("a.npz", "PK")),
      ("a pipe", "a.npz", ["it is no ordinary file"], bad.pipe("a.npz")),
      (
        "a path out of an archive",
        *("a.npz", ["'../x.npy' in it is no array's name"]),
        bad.zipped("a.npz", **{"../x.npy": b""}),
      ),
      (
        "a pickle",
        "a.npy",
        ["pickled objects are"],
        bad.text("a.npy", b"\x80"),
      ),
      (
        "an .npz named .npy",
        *("a.npy", ["is an .npz file: name it so"]),
        bad.npz("a", images=bad.IMAGES),
        lambda run: os.rename("a.npz", "a.npy"),
      ),
      ("an empty folder", "a", ["holds no .png file"], bad.folder("a")),
      ("no PNG", "a", ["it is no PNG file"], bad.text("a/b.png", "GIF89a" * 9)),
      (
        "PNGs of two sizes",
        *("a", ["all images must be alike"]),
        bad.png("a/a.png", bad.IMAGES[0, ..., 0]),
        bad.png("a/b.png", bad.IMAGES[0, :9, :, 0]),
      ),
      (
        "a PNG of huge size",
        *("a", ["claims to be 99,999x99,999 px"]),
        bad.png_of_size("a/b.png", 99_999),
      ),
      (
        "a link out",
        *("a", ["is a link that leads out of a"]),
        bad.link("a/b.png", "../mine.py"),
      ),
      (
        "a broken link",
        *("a", ["a/b.png"]),
        bad.link("a/b.png", "nowhere"),
      ),
    )
  ),
]


def of_run(what, words, *files, usual=RUN, code=1):
  return Case(what, "measure", usual, "", words, code, files)


def of_params(what, change, *words):
  words = ["run/params/seed0_trained.npz", *words]
  return of_run(what, words, bad.changed_params(change))


PARAMS = "params/seed0_trained.npz"
KERNEL = "params/dense1/kernel"
CHECKPOINTS = [
  of_run("no run", ["run holds no config.json", "experiments.train"]),
  of_run("an empty folder", ["holds no config.json"], bad.folder("run")),
  of_run(
    "no parameters",
    ["holds no trained seed: run python -m experiments.train"],
    bad.changed_run(PARAMS, lambda content: None),
  ),
  of_run(
    "parameters cut off",
    ["seed0_trained.npz"],
    bad.changed_run(PARAMS, lambda content: content[:200]),
  ),
  of_run(
    "parameters empty",
    ["seed0_trained.npz"],
    bad.changed_run(PARAMS, lambda content: b""),
  ),
  of_params(
    "parameters of another shape",
    lambda flat: flat | {KERNEL: flat[KERNEL][:, :3]},
    *(KERNEL, "(1024, 3)", "(1024, 4)", "remove it"),
  ),
  of_params(
    "parameters of another network",
    lambda flat: {"params/conv1/kernel": np.ones(3, np.float32)},
    "params/conv1/kernel",
  ),
  of_params(
    "a parameter too few",
    lambda flat: {k: v for k, v in flat.items() if k != KERNEL},
    *("lacks", KERNEL),
  ),
  of_params(
    "parameters that are NaN",
    lambda flat: flat | {KERNEL: flat[KERNEL] * np.float32(np.nan)},
    *(KERNEL, "not finite"),
  ),
  of_params(
    "parameters that are whole numbers",
    lambda flat: flat | {KERNEL: flat[KERNEL].astype(int)},
    *(KERNEL, "int64"),
  ),
  of_params(
    "pickled parameters",
    lambda flat: flat | {KERNEL: np.array([{}])},
    "pickled",
  ),
  of_run(
    "config.json cut off",
    ["run/config.json"],
    bad.changed_run("config.json", lambda content: content[:20]),
  ),
  of_run(
    "config.json with another flag",
    ["run/config.json is not a run of this version", "colour"],
    bad.changed_config("model", "colour", "red"),
  ),
  of_run(
    "config.json with a word for a number",
    ["run/config.json", "width", "'wide'"],
    bad.changed_config("model", "width", "wide"),
  ),
  of_run(
    "metrics.jsonl damaged",
    ["run/metrics.jsonl"],
    bad.changed_run("metrics.jsonl", lambda content: content[:30]),
  ),
]


def of_network(what, code, *words, exit_code=1):
  return Case(
    *(what, "measure", OWN, "", ["mine.py", *words], exit_code),
    files=[
      bad.text("mine.py", code),
      bad.npz(images=bad.IMAGES, labels=bad.LABELS * 0),
    ],
  )


NETWORKS = [
  *(
    Case(
      f"--model={value}",
      *("measure", OWN, f"--model={value}", [f"--model={value}", *words]),
      files=[bad.text("mine.py", RIGHT), bad.npz(images=bad.IMAGES)],
    )
    for value, *words in (
      ("mine.py", "is not of the form FILE.py:FUNCTION"),
      ("mine.py:", "is not of the form FILE.py:FUNCTION"),
      ("mine.txt:make", "is not of the form FILE.py:FUNCTION"),
      ("other.py:make", "there is no file other.py"),
      ("mine.py:build", "has no function build, only make"),
    )
  ),
  of_network("a syntax error", "def make(:", "SyntaxError", "line 1"),
  of_network("it raises at once", "1 / 0", "ZeroDivisionError", "line 1"),
  of_network("it is no text", "\x00", "mine.py raises"),
  of_network("no such module", "import torchh", "ModuleNotFound", "torchh"),
  of_network("it exits", "import sys\nsys.exit(3)", "SystemExit", "line 2"),
  of_network(
    "the function raises",
    "def make():\n  raise KeyError('w')",
    *("KeyError", "line 2"),
  ),
  of_network("it takes arguments", "def make(x): return x", "TypeError"),
  of_network(
    "it makes no function", "def make(): return 3", "returns int; it must"
  ),
  of_network(
    "it returns no layers", "def make(): return lambda x: x", "mine.py:make"
  ),
  of_network(
    "layers are a list", "def make(): return lambda x: (x, [x])", "mine.py:make"
  ),
  of_network(
    "no layer",
    "def make(): return lambda x: (x.mean((1, 2)), {})",
    "no activation",
  ),
  of_network(
    "it raises on images",
    "def make(): return lambda x: x.nothing",
    *("AttributeError", "nothing"),
  ),
  of_network(
    "NaN", "def make(): return lambda x: (x * float('nan'), {'a': x})", "finite"
  ),
  of_network(
    "one number for all images",
    "def make(): return lambda x: (x.mean(), {'a': x})",
    "mine.py:make",
  ),
  of_network(
    "whole numbers",
    "def make(): return lambda x: (x, {'a': x.astype(int)})",
    "int",
  ),
  of_network(
    "it cannot be compiled",
    "def make():\n  return lambda x: (x, {'a': x}) if x.sum() > 0 else 0",
    "mine.py:make",
  ),
  of_network(
    "a layer of all images together",
    "def make(): return lambda x: (x.mean((1, 2)), {'a': x.mean(0)})",
    "a",
  ),
  of_network(
    "a geometry of other layers",
    RIGHT.replace("return ", "return (")
    + "  , {'other': (1, 0.0, 1, True)})\n",
    *("other", "first"),
  ),
  of_network(
    "a geometry without stride",
    RIGHT.replace("return ", "return (")
    + "  , {'first': (0, 0.0, 1, True)})\n",
    *("stride of 0", "first"),
  ),
]

PAIRS = [
  *(
    Case(
      what,
      *("measure", usual, changes, words),
      files=[bad.text("mine.py", RIGHT), bad.npz(images=bad.IMAGES)],
    )
    for what, usual, changes, words in (
      ("no images", NONE, "--model=mine.py:make", ["--model needs --images"]),
      ("no model", NONE, "--images=mine.npz", ["--images needs --model"]),
      ("a layout", OWN, "--layout=NCHW", ["--layout needs --activations"]),
      ("both", OWN, "--activations=a.npz", ["--activations means nothing"]),
      ("a data folder", OWN, "--data_dir=x", ["--data_dir means nothing"]),
      ("a layout", STORED, "--layout=CHW", ["--layout=CHW is not one of"]),
      ("no labels", OWN, "--measures=accuracy", ["accuracy needs labels"]),
      (
        "a diagonal",
        *(STORED, "--diagonal=2", ["--diagonal means nothing with"]),
      ),
      (
        "no file",
        *(STORED, "--activations=a.npz", ["--activations=a.npz: there is no"]),
      ),
    )
  ),
  Case(
    "a run's folder for a network of one's own",
    *("measure", OWN, "--workdir=run", ["--workdir=run holds a trained run"]),
    files=[
      bad.trained,
      bad.text("mine.py", RIGHT),
      bad.npz(images=bad.IMAGES),
    ],
  ),
  *(
    Case(what, "measure", STORED, "", ["mine.npz", *words], 1, [files])
    for what, words, files in (
      ("no activations", ["has no array reference/"], bad.npz()),
      ("other arrays", ["has an array 'x'; expected"], bad.npz(x=np.ones(3))),
      (
        "activations of whole numbers",
        ["reference/a is of type int64"],
        bad.npz(**{"reference/a": np.ones((2, 3), int)}),
      ),
      (
        "activations without transformed ones",
        ["a"],
        bad.npz(**{"reference/a": np.ones((2, 3))}),
      ),
      (
        "activations of other numbers of images",
        ["a"],
        bad.npz(
          **{
            "reference/a": np.ones((2, 3)),
            "transformed/a": np.ones((4, 3, 3)),
          }
        ),
      ),
      (
        "activations that are NaN",
        ["a", "finite"],
        bad.npz(
          **{
            "reference/a": np.full((2, 3), np.nan),
            "transformed/a": np.ones((4, 2, 3)),
          }
        ),
      ),
    )
  ),
]

MATRICES = [
  Case(
    what,
    *("measure", OWN, "--transforms=matrix:m.csv", ["m.csv", *words]),
    files=[
      bad.text("m.csv", content),
      bad.text("mine.py", RIGHT),
      bad.npz(images=bad.IMAGES),
    ],
  )
  for what, content, *words in (
    ("an empty matrix file", "", "holds no matrix but the identity"),
    ("comments only", "# none\n", "holds no matrix but the identity"),
    ("a column too few", "1,0,0,0,1\n", "line 1 has 5 values, not 6"),
    ("a column too many", "1,0,0,0,1,0,0\n", "line 1 has 7 values, not 6"),
    ("spaces for commas", "1 0 0 0 1 0\n", "line 1 has 1 values, not 6"),
    ("a word", "1,0,0,0,1,x\n", "line 1: 'x' is not a number"),
    ("NaN", "1,0,nan,0,1,0\n", "line 1"),
    ("infinity", "1,0,inf,0,1,0\n", "line 1"),
    ("a singular matrix", "1,1,0,1,1,0\n", "line 1"),
    ("the same twice", "2,0,0,0,2,0\n" * 2, "line 2 repeats line 1"),
    ("the identity only", "1,0,0,0,1,0\n", "holds no matrix but the identity"),
    ("no text", b"\xff\xfe\x00\x01", "it is not text"),
    ("too large", "#" * 2**21, "1,048,576 bytes"),
  )
]

REPORTS = [
  Case(
    what,
    *("report", ("--workdir=results",), "", words, code),
    files=list(files),
  )
  for what, words, code, *files in (
    ("no folder", ["results holds no measurements.parquet", "study"], 1),
    ("a file", ["is not a folder"], 2, bad.text("results", "")),
    ("nothing", ["holds no measurements.parquet"], 1, bad.folder("results")),
    (
      "no Parquet",
      *(["results/measurements.parquet"], 1),
      bad.results(measurements__parquet=b"PAR1"),
    ),
    (
      "a table missing",
      *(["results/networks.csv"], 1),
      bad.results(networks__csv=None),
    ),
    (
      "an empty table",
      *(["results/training.csv"], 1),
      bad.results(training__csv=b""),
    ),
    (
      "no provenance",
      *(["results/provenance.json"], 1),
      bad.results(provenance__json=None),
    ),
    (
      "another provenance",
      *(["is not a study of this version", "run the study again"], 1),
      bad.results(provenance__json=b"[]"),
    ),
    (
      "other columns",
      *(["results/measurements.parquet has no column 'seed'"], 1),
      bad.results(),
    ),
  )
]

FILES = [*DATA, *CHECKPOINTS, *NETWORKS, *PAIRS, *MATRICES, *REPORTS]
