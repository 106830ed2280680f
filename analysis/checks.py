"""What the pass refuses, each with one line that names the value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.actions import Orbit, as_orbits
from analysis.measures import Measure


def check_images(images: Any) -> np.ndarray:
  """Images as uint8 or float32 (n, h, w, c).

  Raises:
    ValueError: another rank or type, or fewer than two.
  """
  images = np.asarray(images)
  if images.ndim != 4:
    raise ValueError(
      f"images must have shape (n, height, width, channels), got {images.shape}"
    )
  if images.dtype != np.uint8:
    if not np.issubdtype(images.dtype, np.floating):
      raise ValueError(
        f"images must be uint8 or floating point in [0, 1], got {images.dtype}"
      )
    images = images.astype(np.float32)
  check_count(len(images))
  return images


def check_count(count: int) -> None:
  """Refuses fewer than two images.

  Raises:
    ValueError: saying how many.
  """
  if count < 2:
    raise ValueError(
      f"{count} image given: a variance over images needs at least 2"
    )


def check_orbit_size(
  measures: Sequence[Measure], elements: int, name: str
) -> None:
  """Refuses an orbit smaller than a measure is defined for.

  Raises:
    ValueError: naming the measure and the orbit.
  """
  for m in measures:
    if elements < m.min_elements:
      raise ValueError(
        f"{m.name} needs an orbit of at least {m.min_elements} elements, the"
        f" {name} orbit has {elements}"
      )


def check_labels(
  labels: Any, count: int, measures: Sequence[Measure]
) -> np.ndarray:
  """Labels as int32, -1 for none.

  Raises:
    ValueError: missing though a measure needs them, or of the wrong shape.
  """
  if labels is None:
    for m in measures:
      if "labels" in m.needs:
        raise ValueError(f"{m.name} needs labels=, one class an image")
    return np.full(count, -1, np.int32)
  labels = np.asarray(labels, np.int32)
  if labels.shape != (count,):
    raise ValueError(
      f"labels have shape {labels.shape}, expected ({count},): one an image"
    )
  return labels


def check_arrays(
  reference: Mapping[str, Any], transformed: Mapping[str, Any]
) -> tuple[list[str], int, int]:
  """Layer names, number of images and of orbit elements.

  Raises:
    ValueError: layers or shapes that do not fit each other.
  """
  if not reference or set(reference) != set(transformed):
    raise ValueError(
      f"reference has layers {sorted(reference)}, transformed has"
      f" {sorted(transformed)}: they must be the same, at least one"
    )
  first = next(iter(reference))
  count, elements = len(reference[first]), len(transformed[first])
  for name in reference:
    shape = np.shape(reference[name])
    if len(shape) < 2 or shape[0] != count:
      raise ValueError(
        f"reference[{name!r}] has shape {shape}, expected ({count}, ...)"
      )
    if np.shape(transformed[name]) != (elements, *shape):
      raise ValueError(
        f"transformed[{name!r}] has shape {np.shape(transformed[name])},"
        f" expected {(elements, *shape)}"
      )
  check_count(count)
  return list(reference), count, elements


def output_layer(
  output: str | None, layers: Sequence[str], measures: Sequence[Measure]
) -> str:
  """The layer that is the output; any will do if no measure needs it.

  Raises:
    ValueError: it is not there, or nobody can tell which it is.
  """
  if output is None:
    likely = [k for k in layers if k in ("logits", "output")] or list(layers)
    if len(likely) > 1 and any(m.scope == "output" for m in measures):
      raise ValueError(
        f"which of {', '.join(likely)} is the network's output? give output="
      )
    return likely[0]
  if output not in layers:
    raise ValueError(f"output={output!r} is not one of {', '.join(layers)}")
  return output


def check_given_orbit(
  transformations: Any,
  elements: int,
  geometry: Any,
  image_shape: tuple[int, int] | None,
) -> Orbit | None:
  """The one orbit that made given activations, if it is known.

  Raises:
    ValueError: several orbits, another number of elements, or a geometry
      without the transformations and the images' shape.
  """
  if transformations is None:
    if geometry:
      raise ValueError("geometry= needs transformations= and image_shape= too")
    return None
  orbits = as_orbits(transformations)
  if len(orbits) > 1 or len(orbits[0].thetas) != elements:
    found = ", ".join(f"{o.name} of {len(o.thetas)}" for o in orbits)
    raise ValueError(
      f"transformations= must be one orbit of {elements} elements, as in the"
      f" arrays; got {found}"
    )
  if geometry and image_shape is None:
    raise ValueError("geometry= needs image_shape=(height, width)")
  return orbits[0]
