"""What a network's layer list says of it, the same for every architecture."""

from models.geometry import (
  LayerGeometry,
  LayerSpec,
  layer_geometries,
  parameter_counts,
)


class Specified:
  """A network described by its `specs`, to be mixed into a flax module."""

  @property
  def specs(self) -> tuple[LayerSpec, ...]:
    """The layers in forward order."""
    raise NotImplementedError

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the activations in forward order."""
    return tuple(spec.name for spec in self.specs)

  def geometry(self, image_size: int) -> dict[str, LayerGeometry]:
    """Geometry of every layer on a canvas of `image_size` pixels.

    Raises:
      ValueError: a layer would shrink its map below one position, or cannot
        sample a map of that size.
    """
    return layer_geometries(self.specs, image_size)

  def parameter_counts(
    self, image_size: int, channels: int = 1
  ) -> dict[str, int]:
    """Learned numbers of every layer on a canvas of `image_size` pixels."""
    return parameter_counts(self.specs, image_size, channels)
