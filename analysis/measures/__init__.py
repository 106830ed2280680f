"""The measures by name. Each module's docstrings hold the definitions."""

from collections.abc import Iterable, Mapping

from analysis.measures.base import MapAction, Measure, OrbitBatch, Row
from analysis.measures.equivariance import equivariance_error
from analysis.measures.invariance import invariance_error
from analysis.measures.output import accuracy, consistency
from analysis.measures.variance import normalized_variance

MEASURES: Mapping[str, Measure] = {
  "invariance_error": invariance_error,
  "equivariance_error": equivariance_error,
  "normalized_variance": normalized_variance,
  "accuracy": accuracy,
  "consistency": consistency,
}

# Rows that a measure of another name computes along with its own.
_ROWS = {
  "transformation_variance": "normalized_variance",
  "sample_variance": "normalized_variance",
  "normalized_variance_reference": "normalized_variance",
  "equivariance_error_full": "equivariance_error",
}


def resolve(measures: Iterable[str | Measure]) -> tuple[Measure, ...]:
  """Measures from their names or themselves, each once, in order.

  Args:
    measures: names (of measures or of their rows) or `Measure`s.

  Returns:
    The measures without repetition.

  Raises:
    ValueError: an unknown name, or no measure at all.
  """
  measures = [measures] if isinstance(measures, str | Measure) else measures
  result = []
  for measure in measures:
    if isinstance(measure, str):
      name = _ROWS.get(measure, measure)
      if name not in MEASURES:
        known = ", ".join([*MEASURES, *_ROWS])
        raise ValueError(f"unknown measure {measure!r}; known are {known}")
      measure = MEASURES[name]
    if measure not in result:
      result.append(measure)
  if not result:
    raise ValueError("no measure given")
  return tuple(result)


__all__ = [
  "MEASURES",
  "MapAction",
  "Measure",
  "OrbitBatch",
  "Row",
  "resolve",
]
