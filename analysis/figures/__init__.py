"""The figures: a table in, a matplotlib Figure out.

Nothing here reads a file or a model. A figure drawn twice from the same table
is the same, byte for byte, when rendered by `render`.
"""

from analysis.figures.claims import claim_figure
from analysis.figures.exact import exact_figure
from analysis.figures.layers import (
  dose_response,
  invariance_by_layer,
  sensitivity_map,
)
from analysis.figures.measures import measures_by_layer, other_measures
from analysis.figures.performance import (
  accuracy_and_consistency,
  training_curves,
)
from analysis.figures.style import render

__all__ = [
  "accuracy_and_consistency",
  "claim_figure",
  "dose_response",
  "exact_figure",
  "invariance_by_layer",
  "measures_by_layer",
  "other_measures",
  "render",
  "sensitivity_map",
  "training_curves",
]
