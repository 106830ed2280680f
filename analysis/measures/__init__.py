"""The measures by name. Each module's docstrings hold the definitions."""

from collections.abc import Iterable, Mapping

from analysis.measures.base import (
  Elements,
  Images,
  MapAction,
  Measure,
  OrbitBatch,
  Row,
  Shapes,
  Statistics,
)
from analysis.measures.derivative import (
  lie_derivative,
  lie_derivative_cubic,
  lie_derivative_reference,
)
from analysis.measures.distance import normalized_distance
from analysis.measures.equivariance import equivariance_error
from analysis.measures.goodfellow import goodfellow
from analysis.measures.invariance import invariance_error, invariance_radius
from analysis.measures.linear_map import equivariant_map
from analysis.measures.output import (
  accuracy,
  consistency,
  jaggedness,
  pairwise_consistency,
)
from analysis.measures.sensitivity import sensitivity_map
from analysis.measures.similarity import cka, cosine
from analysis.measures.variance import (
  anova,
  normalized_variance,
  same_equivariance_variance,
)

MEASURES: Mapping[str, Measure] = {
  m.name: m
  for m in (
    invariance_error,
    invariance_radius,
    sensitivity_map,
    equivariance_error,
    normalized_variance,
    same_equivariance_variance,
    normalized_distance,
    goodfellow,
    anova,
    cosine,
    cka,
    equivariant_map,
    lie_derivative,
    lie_derivative_cubic,
    lie_derivative_reference,
    accuracy,
    consistency,
    pairwise_consistency,
    jaggedness,
  )
}

# Rows that a measure of another name computes along with its own.
ROWS: Mapping[str, str] = {
  "invariance_radius_px": "invariance_radius",
  "sensitivity_map_class_median": "sensitivity_map",
  "sensitivity_profile": "sensitivity_map",
  "sensitivity_profile_class_median": "sensitivity_map",
  "equivariance_error_full": "equivariance_error",
  "transformation_variance": "normalized_variance",
  "sample_variance": "normalized_variance",
  "normalized_variance_reference": "normalized_variance",
  "same_equivariance_transformation_variance": "same_equivariance_variance",
  "same_equivariance_sample_variance": "same_equivariance_variance",
  "same_equivariance_variance_reference": "same_equivariance_variance",
  "transformation_distance": "normalized_distance",
  "sample_distance": "normalized_distance",
  "normalized_distance_reference": "normalized_distance",
  "equivariant_map_none": "equivariant_map",
  "equivariant_map_geometric": "equivariant_map",
  "equivariant_map_1x1": "equivariant_map",
  "equivariant_map_3x3": "equivariant_map",
  "lie_derivative_equivariant": "lie_derivative",
  "lie_derivative_cubic_equivariant": "lie_derivative_cubic",
  "lie_derivative_reference_abs": "lie_derivative_reference",
  "consistency_correct": "consistency",
  "consistency_wrong": "consistency",
  "consistency_kappa": "consistency",
  "pairwise_consistency_correct": "pairwise_consistency",
  "pairwise_consistency_wrong": "pairwise_consistency",
  "pairwise_consistency_kappa": "pairwise_consistency",
  "jaggedness_step": "jaggedness",
  "jaggedness_centre": "jaggedness",
  "jaggedness_wobble": "jaggedness",
}


def resolve(measures: Iterable[str | Measure]) -> tuple[Measure, ...]:
  """Measures from their names or themselves, each once, in order.

  Args:
    measures: names (of measures or of their rows), "all", or `Measure`s.

  Returns:
    The measures without repetition.

  Raises:
    ValueError: an unknown name, or no measure at all.
  """
  measures = [measures] if isinstance(measures, str | Measure) else measures
  result: dict[str, Measure] = {}
  for measure in measures:
    if measure == "all":
      result |= MEASURES
    elif isinstance(measure, Measure):
      result[measure.name] = measure
    else:
      name = ROWS.get(measure, measure)
      if name not in MEASURES:
        known = ", ".join([*MEASURES, *ROWS])
        raise ValueError(f"unknown measure {measure!r}; known are {known}")
      result[name] = MEASURES[name]
  if not result:
    raise ValueError("no measure given")
  return tuple(result.values())


__all__ = [
  "MEASURES",
  "ROWS",
  "Elements",
  "Images",
  "MapAction",
  "Measure",
  "OrbitBatch",
  "Row",
  "Shapes",
  "Statistics",
  "resolve",
]
