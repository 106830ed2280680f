"""What the lecture on convolutional filters and weight sharing says."""

from analysis.claims.base import (
  REFERENCES,
  TRANSLATION,
  At,
  Claim,
  Part,
  Select,
  Term,
  View,
  by_family,
  difference,
  value,
)

_LECTURE = "lecture L13.4, convolutional filters and weight sharing"

# Why 0.05: at the reference doses the logits of small trained networks moved by
# 0.15 a pixel in a pilot (5 seeds, MNIST, quick preset), so that 0.05 is what a
# third of a pixel more would do.
INVARIANCE_REASON = (
  "0.05 of the distance between two images is what a third of a pixel of shift"
  " does to a trained network's logits (pilot: 0.15 a pixel); less would be"
  " seen by nobody"
)

_POOLED, _UNPOOLED = Select("pooled"), Select("unpooled")
_CONVS = ("conv1", "conv2", "conv3")


def _first(cell: str) -> Select:
  return Select(cell, layers=("relu1",))


def _last(cell: str) -> Select:
  return Select(cell, layers=("relu3",))


_ARITHMETIC = (
  Claim(
    "weight-sharing-saves-parameters",
    "Sharing weights over positions cuts parameters: 208 for a 5x5 convolution"
    " to 8 maps, 7,840 weights for a dense layer of 10 units",
    _LECTURE,
    "Parameters of real layers, counted, against the arithmetic.",
    "exact: a single wrong count refutes it",
    exact=("parameters",),
    preset="quick",
  ),
  Claim(
    "output-size-formula",
    "A convolution's output is (W - K + 2P)/S + 1 wide; 32 wide with a kernel"
    " of 5 gives 28",
    _LECTURE,
    "Output widths of real layers over a grid of sizes, against the formula.",
    "exact: a single wrong width refutes it",
    exact=("output size",),
    preset="quick",
  ),
  Claim(
    "pooling-has-no-parameters",
    "Common pooling layers have no parameters",
    _LECTURE,
    "Learned numbers of each common kind of pooling, counted.",
    "exact: a single parameter refutes it",
    exact=("pooling parameters",),
    preset="quick",
  ),
)

_EQUIVARIANCE = (
  Claim(
    "equivariant-not-invariant",
    "Convolution layers are equivariant to translation, but not invariant",
    _LECTURE,
    "Equivariance and invariance error of the three convolutions without"
    " pooling, for shifts of 2 px.",
    "a whole-pixel shift costs nothing to undo, so 0.01 allows for rounding and"
    " borders only; 0.25, a quarter of the distance to another image, is far"
    " from invariant",
    parts=(
      Part(
        "equivariance error of the convolutions",
        value(Select("unpooled", "equivariance_error", (TRANSLATION,), _CONVS)),
        "at_most",
        0.01,
      ),
      Part(
        "invariance error of the convolutions",
        value(Select("unpooled", at=(TRANSLATION,), layers=_CONVS)),
        "at_least",
        0.25,
      ),
    ),
    beside=(
      Part(
        "equivariance error of the convolutions, with pooling, above the floor",
        value(
          Select(
            *("pooled", "equivariance_error", (TRANSLATION,), _CONVS),
            above_floor=True,
          )
        ),
        "at_most",
        0.01,
      ),
    ),
    view=View(
      *("layer", ("unpooled", "pooled")),
      measure="equivariance_error|invariance_error",
      transforms=("translation",),
      layers=(),
    ),
    preset="quick",
  ),
  Claim(
    "untied-weights-lose-equivariance",
    "Locally connected layers of the same shape, whose weights are not shared,"
    " lose equivariance",
    _LECTURE,
    "Equivariance error of the convolutions without shared weights less that"
    " of the same layers with shared weights, for shifts of 2 px.",
    INVARIANCE_REASON,
    parts=(
      Part(
        "untied less shared",
        difference(
          Select(*("untied", "equivariance_error", (TRANSLATION,), _CONVS[:2])),
          Select(*("shared", "equivariance_error", (TRANSLATION,), _CONVS[:2])),
        ),
      ),
    ),
    beside=(
      Part(
        "the same before training",
        difference(
          Select(
            *("untied", "equivariance_error", (TRANSLATION,), _CONVS[:2]),
            stage="init",
          ),
          Select(
            *("shared", "equivariance_error", (TRANSLATION,), _CONVS[:2]),
            stage="init",
          ),
        ),
      ),
      Part(
        "invariance error of the logits, untied less shared",
        difference(Select("untied"), Select("shared")),
      ),
    ),
    confounded=True,
    view=View(
      *("layer", ("shared", "untied"), "equivariance_error"),
      layers=(),
      stages=("trained", "init"),
    ),
  ),
)

_EXTENT = (
  Claim(
    "invariant-only-partly",
    "Whole networks are invariant only partly: logits change at 2 px, 15"
    " degrees and a factor of 1.2, but less than to another image's",
    _LECTURE,
    "Invariance error of the logits, with and without pooling.",
    "0.1, a tenth of the distance to another image, is a change that matters;"
    " below 0.9 something is left of the image's identity",
    parts=(
      *(
        Part(
          f"{name}: {at.transform}",
          value(select._replace(at=(at,))),
          "at_least",
          0.1,
        )
        for name, select in (("pooled", _POOLED), ("unpooled", _UNPOOLED))
        for at in REFERENCES
      ),
      Part("pooled: mean", value(_POOLED), "at_most", 0.9),
      Part("unpooled: mean", value(_UNPOOLED), "at_most", 0.9),
    ),
    view=View("dose", ("pooled", "unpooled")),
    preset="quick",
  ),
  Claim(
    "deeper-layers-more-invariant",
    "Inside a network, invariance grows with depth",
    _LECTURE,
    "Invariance error of the first layer's activation less that of the third's,"
    " mean over 2 px, 15 degrees and a factor of 1.2.",
    INVARIANCE_REASON,
    parts=(
      Part(
        "without pooling", difference(_first("unpooled"), _last("unpooled"))
      ),
      Part("with pooling", difference(_first("pooled"), _last("pooled"))),
    ),
    beside=(
      *by_family("without pooling", _first("unpooled"), _last("unpooled")),
      *by_family("with pooling", _first("pooled"), _last("pooled")),
      Part(
        "without pooling, before training",
        difference(
          _first("unpooled")._replace(stage="init"),
          _last("unpooled")._replace(stage="init"),
        ),
      ),
    ),
    view=View(
      "layer", ("pooled", "unpooled"), layers=(), stages=("trained", "init")
    ),
    preset="quick",
  ),
  Claim(
    "deeper-networks-more-invariant",
    "Deeper networks are more invariant, at equal resolution and at equal"
    " parameters",
    _LECTURE,
    "Invariance error of the logits of the network of depth 2 less that of"
    " depth 6; both pool twice, to 8x8, and average over positions.",
    INVARIANCE_REASON,
    parts=(
      Part(
        "equal width and resolution",
        difference(Select("depth 2"), Select("depth 6")),
      ),
      Part(
        "equal parameters and resolution",
        difference(Select("depth 2, matched"), Select("depth 6, matched")),
      ),
    ),
    beside=(
      *by_family("equal width", Select("depth 2"), Select("depth 6")),
      *by_family(
        "equal parameters",
        Select("depth 2, matched"),
        Select("depth 6, matched"),
      ),
    ),
    confounded=True,
    view=View("dose", ("depth 2", "depth 4", "depth 6")),
  ),
)

_SHIFT = At("translation", 1.0)
_FAR = At("translation", 6.0)


def _gain(at: At) -> tuple[Term, ...]:
  """How much less the first pooling's output moves than its input."""
  return difference(
    Select("pooled", at=(at,), layers=("relu1",)),
    Select("pooled", at=(at,), layers=("pool1",)),
  )


def _minus(terms: tuple[Term, ...]) -> tuple[Term, ...]:
  return tuple(Term(-t.weight, t.select) for t in terms)


_POOLING = (
  Claim(
    "max-pooling-helps",
    "Max pooling makes a network more invariant",
    _LECTURE,
    "Invariance error of the logits without pooling less that with max pooling"
    " after each of three convolutions, mean over 2 px, 15 degrees and a factor"
    " of 1.2.",
    INVARIANCE_REASON,
    parts=(Part("unpooled less pooled", difference(_UNPOOLED, _POOLED)),),
    beside=(
      *by_family("unpooled less pooled", _UNPOOLED, _POOLED),
      Part(
        "before training",
        difference(
          _UNPOOLED._replace(stage="init"), _POOLED._replace(stage="init")
        ),
      ),
      Part(
        "strided less pooled: equal resolution",
        difference(Select("strided"), _POOLED),
      ),
      Part(
        "unpooled less pooled: equal receptive field and parameters",
        difference(Select("wide kernels"), Select("field pooled")),
      ),
      Part(
        "share of answers kept, pooled less unpooled, of images both know",
        difference(
          Select("pooled", "consistency_correct", layers=("output",)),
          Select("unpooled", "consistency_correct", layers=("output",)),
        ),
      ),
    ),
    confounded=True,
    view=View("dose", ("pooled", "unpooled", "strided")),
    preset="quick",
  ),
  Claim(
    "pooling-is-local",
    "The help of max pooling is local: it fades for shifts beyond the window",
    _LECTURE,
    "How much less the first pooling layer's output moves than its input"
    " (invariance error before less after), for a shift of 1 px, inside the 2x2"
    " window, less the same for 6 px, beyond it.",
    INVARIANCE_REASON,
    parts=(
      Part(
        "help at 1 px less help at 6 px", _gain(_SHIFT) + _minus(_gain(_FAR))
      ),
    ),
    beside=(
      Part("help at 1 px", _gain(_SHIFT)),
      Part("help at 2 px", _gain(TRANSLATION)),
      Part("help at 6 px", _gain(_FAR)),
      Part(
        "at the logits: help at 2 px less help at 6 px, three poolings",
        difference(
          _UNPOOLED._replace(at=(TRANSLATION,)),
          _POOLED._replace(at=(TRANSLATION,)),
        )
        + _minus(
          difference(
            _UNPOOLED._replace(at=(_FAR,)), _POOLED._replace(at=(_FAR,))
          )
        ),
      ),
    ),
    view=View(
      "dose",
      ("pooled",),
      transforms=("translation",),
      layers=("relu1", "pool1"),
    ),
    preset="quick",
  ),
  Claim(
    "average-pooling-helps",
    "Average pooling makes a network more invariant too",
    _LECTURE,
    "Invariance error of the logits without pooling less that with average"
    " pooling after each of three convolutions.",
    INVARIANCE_REASON,
    parts=(
      Part("unpooled less average", difference(_UNPOOLED, Select("averaged"))),
    ),
    beside=(
      *by_family("unpooled less average", _UNPOOLED, Select("averaged")),
      Part("average less max", difference(Select("averaged"), _POOLED)),
      *by_family("average less max", Select("averaged"), _POOLED),
    ),
    confounded=True,
    view=View("dose", ("pooled", "averaged", "unpooled")),
  ),
  Claim(
    "as-accurate-without-pooling",
    "Networks without max pooling reach the same accuracy",
    _LECTURE,
    "Test accuracy with max pooling less that without: of strided convolutions"
    " (equal resolution), and of no downsampling at all.",
    "0.3 points of test accuracy: 30 of MNIST's 10,000 test images, the spread"
    " between seeds of one architecture",
    parts=(
      Part(
        "pooled less strided",
        difference(
          Select("pooled", "test_accuracy", (At(),)),
          Select("strided", "test_accuracy", (At(),)),
        ),
        "equivalent",
        0.3,
        "points",
      ),
      Part(
        "pooled less unpooled",
        difference(
          Select("pooled", "test_accuracy", (At(),)),
          Select("unpooled", "test_accuracy", (At(),)),
        ),
        "equivalent",
        0.3,
        "points",
      ),
    ),
    view=View(),
  ),
)

CLAIMS = (*_ARITHMETIC, *_EQUIVARIANCE, *_EXTENT, *_POOLING)
