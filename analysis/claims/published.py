"""What the lecture leaves open, and what papers say."""

from analysis.claims.base import (
  REFERENCES,
  At,
  Claim,
  Part,
  Select,
  View,
  by_family,
  difference,
  value,
)
from analysis.claims.lecture import INVARIANCE_REASON as _REASON

# The common abscissa of shifts, rotations and scalings: 2 px of displacement
# are a rotation by about 17 degrees and a factor of about 1.3 on MNIST.
_MOVED = 2.0

_ODD = (At("translation", 1.0),)
_EVEN = (At("translation", 2.0),)
_NEXT_ODD = (At("translation", 3.0),)
_FAR = (At("translation", 6.0),)
_WHOLE = (At("rotation"),)


def _equal_displacement(cell: str, transform: str) -> Select:
  return Select(cell, at=(At(transform, displacement=_MOVED),))


def _less_invariant(cell: str, transform: str) -> Part:
  return Part(
    f"{transform} less translation: {cell}",
    difference(
      _equal_displacement(cell, transform),
      _equal_displacement(cell, "translation"),
    ),
  )


def _excess(cell: str, layer: str, at: tuple[At, ...] = _ODD) -> Select:
  return Select(cell, "equivariance_error", at, (layer,), above_floor=True)


def _rotation(measure: str, layer: str, cell: str = "pooled") -> Select:
  return Select(cell, measure, _WHOLE, (layer,))


def _falls(label: str, measure: str, margin: float, cell: str) -> Part:
  """Less at the higher layer: for measures that are 0 at invariance."""
  lower, higher = (_rotation(measure, f"relu{i}", cell) for i in (1, 3))
  return Part(label, difference(lower, higher), margin=margin)


def _rises(label: str, measure: str, margin: float, cell: str) -> Part:
  """More at the higher layer: for measures that are large at invariance."""
  lower, higher = (_rotation(measure, f"relu{i}", cell) for i in (1, 3))
  return Part(label, difference(higher, lower), margin=margin)


CLAIMS = (
  Claim(
    "translation-first",
    "To some extent means something else for each transformation: for equal"
    " displacement, a network is more invariant to translation, which its"
    " weights are shared over, than to rotation and to scaling",
    "lecture L13.4, which names the three together",
    "Invariance error of the logits at 2 px of displacement (root mean square"
    " over the image's content): rotation or scaling less translation.",
    _REASON,
    parts=(
      _less_invariant("pooled", "rotation"),
      _less_invariant("pooled", "scaling"),
    ),
    beside=(
      _less_invariant("unpooled", "rotation"),
      _less_invariant("unpooled", "scaling"),
    ),
    view=View("displacement", ("pooled", "unpooled")),
    preset="quick",
  ),
  Claim(
    "built-in-learned-augmented",
    "Invariance is in part built in by pooling, in part learned from the data,"
    " and augmentation adds to it",
    "Kauderer-Abrams, 2017; Biscione and Bowers, 2021; Ruderman et al., 2018",
    "Invariance error of the logits, mean over 2 px, 15 degrees and a factor of"
    " 1.2: what pooling takes off before training, what training takes off, and"
    " what augmentation (4 px, 15 degrees, factor 1.2) takes off beyond it.",
    _REASON,
    parts=(
      Part(
        "built in: unpooled less pooled, untrained",
        difference(
          Select("unpooled", stage="init"), Select("pooled", stage="init")
        ),
      ),
      Part(
        "learned: untrained less trained, pooled",
        difference(Select("pooled", stage="init"), Select("pooled")),
      ),
      Part(
        "augmented: trained without less with, pooled",
        difference(Select("pooled"), Select("augmented")),
      ),
    ),
    beside=(
      Part(
        "learned: untrained less trained, unpooled",
        difference(Select("unpooled", stage="init"), Select("unpooled")),
      ),
      *by_family("augmented", Select("pooled"), Select("augmented")),
    ),
    confounded=True,
    view=View(
      "dose", ("pooled", "unpooled", "augmented"), stages=("trained", "init")
    ),
  ),
  Claim(
    "striding-breaks-equivariance",
    "Striding breaks equivariance at shifts that are no multiple of the stride;"
    " blurring repairs a part of it, adaptive polyphase sampling all",
    "Zhang, 2019; Azulay and Weiss, 2019; Chaman and Dokmanic, 2021",
    "Circular shifts by 1 px with circular padding: equivariance error of the"
    " first downsampled layer above its floor, and invariance error of the"
    " logits after an average over positions.",
    f"{_REASON}; 0.01 is a tenth of what counts as a change of the logits;"
    " 0.0001 allows for rounding only",
    parts=(
      Part(
        "strided: equivariance error above the floor",
        value(_excess("circular strided", "relu1")),
        "at_least",
        0.05,
      ),
      Part(
        "strided less blurred: equivariance error above the floor",
        difference(
          _excess("circular strided", "relu1"),
          _excess("circular blurred", "pool1"),
        ),
      ),
      Part(
        "blurred: invariance error of the logits",
        value(Select("circular blurred", at=_ODD)),
        "at_least",
        0.01,
      ),
      Part(
        "polyphase: invariance error of the logits",
        value(Select("circular polyphase", at=_ODD)),
        "at_most",
        1e-4,
      ),
    ),
    beside=(
      Part(
        "strided: equivariance error above the floor at 3 px",
        value(_excess("circular strided", "relu1", _NEXT_ODD)),
        "at_least",
        0.05,
      ),
      Part(
        "strided: equivariance error above the floor at 2 px, the stride",
        value(_excess("circular strided", "relu1", _EVEN)),
        "at_most",
        1e-4,
      ),
      Part(
        "polyphase: invariance error of the logits at 3 px",
        value(Select("circular polyphase", at=_NEXT_ODD)),
        "at_most",
        1e-4,
      ),
      Part(
        "strided: invariance error of the logits",
        value(Select("circular strided", at=_ODD)),
        "at_least",
        0.01,
      ),
      Part(
        "strided: invariance error of the logits at 8 px, all three strides'"
        " multiple",
        value(Select("circular strided", at=(At("translation", 8.0),))),
        "at_most",
        1e-4,
      ),
    ),
    confounded=True,
    view=View(
      "dose",
      ("circular strided", "circular blurred", "circular polyphase"),
      transforms=("translation",),
    ),
  ),
  Claim(
    "padding-tells-position",
    "Padding with zeros lets a network know where things are",
    "Islam et al., 2020; Kayhan and van Gemert, 2020",
    "Invariance error of the logits at a circular shift of 6 px, after an"
    " average over positions: padded with zeros less padded circularly.",
    f"{_REASON}; without a border nothing may move: 0.0001 is rounding",
    parts=(
      Part(
        "zeros less circular",
        difference(Select("zero padded", at=_FAR), Select("wrapped", at=_FAR)),
      ),
      Part(
        "circular alone", value(Select("wrapped", at=_FAR)), "at_most", 1e-4
      ),
    ),
    beside=(
      Part(
        "zeros less circular, before training",
        difference(
          Select("zero padded", at=_FAR, stage="init"),
          Select("wrapped", at=_FAR, stage="init"),
        ),
      ),
    ),
    confounded=True,
    view=View(
      "dose",
      ("zero padded", "wrapped"),
      transforms=("translation",),
      stages=("trained", "init"),
    ),
  ),
  Claim(
    "filters-are-edge-detectors",
    "The filters of the first layer are largely edge detectors",
    "lecture L13.4",
    "Share of the 5x5 filters of the first layer that a derivative of a"
    " Gaussian explains better than it explains 95 % of random filters.",
    "largely: more than half of them; 0.1 above the untrained ones is twice"
    " what chance allows",
    parts=(
      Part(
        "share of edge detectors",
        value(Select("zero padded", "edge_detectors", (At(),))),
        "at_least",
        0.5,
      ),
      Part(
        "trained less untrained",
        difference(
          Select("zero padded", "edge_detectors", (At(),)),
          Select("zero padded", "edge_detectors", (At(),), stage="init"),
        ),
        margin=0.1,
      ),
    ),
  ),
  Claim(
    "higher-layers-more-invariant-to-rotation",
    "Higher layers are more invariant to rotation, by measures of spread and by"
    " measures of firing alike",
    "Goodfellow et al., 2009 (firing): the higher the more invariant; Quiroga"
    " et al., 2019 (spread): the lower the more",
    "Normalised variance of the first activation less that of the third, and"
    " Goodfellow's score of the third less that of the first, over rotations up"
    " to 90 degrees.",
    "0.1 of the normalised variance, whose scale is 0 to about 1, and 1 of"
    " Goodfellow's score, which is 1 for units that ignore the transformation",
    parts=(
      _falls(
        "spread: normalised variance", "normalized_variance", 0.1, "pooled"
      ),
      _rises("firing: Goodfellow's score", "goodfellow", 1.0, "pooled"),
    ),
    beside=(
      _falls(
        "spread, as published: mean over units",
        *("normalized_variance_reference", 0.1, "pooled"),
      ),
      _falls(
        "spread: normalised distance", "normalized_distance", 0.1, "pooled"
      ),
      Part(
        "spread: invariance error at 15 degrees",
        difference(
          *(
            Select("pooled", at=REFERENCES[1:2], layers=(f"relu{i}",))
            for i in (1, 3)
          )
        ),
      ),
      Part(
        "direction: cosine at 15 degrees",
        difference(
          *(
            Select("pooled", "cosine", REFERENCES[1:2], (f"relu{i}",))
            for i in (3, 1)
          )
        ),
      ),
      Part(
        "information: CKA at 15 degrees",
        difference(
          *(
            Select("pooled", "cka", REFERENCES[1:2], (f"relu{i}",))
            for i in (3, 1)
          )
        ),
      ),
      _falls(
        "significance: share of units with an effect", "anova", 0.1, "pooled"
      ),
      _falls(
        "spread, unpooled: normalised variance",
        *("normalized_variance", 0.1, "unpooled"),
      ),
      _rises(
        "firing, unpooled: Goodfellow's score", "goodfellow", 1.0, "unpooled"
      ),
    ),
    view=View(
      *("layer", ("pooled", "unpooled"), "normalized_variance|goodfellow"),
      transforms=("rotation",),
      layers=(),
    ),
  ),
)
