"""Networks that were not written for this project, as functions to measure.

Each adapter returns `images -> (output, {layer: activation})`, jittable, as a
`jax.tree_util.Partial` over the parameters. A layer is a submodule, named by
its path ("encoder/conv1"), in the order of the calls; a module that returns
what a submodule returned is no layer of its own. What a network does between
submodules (an activation function, a reshape) is not seen, unless a Linen
module sows it.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.extend import core as jax_core

# The layer of what the network returns, if no submodule has returned it.
RESULT = "result"

Activations = dict[str, Any]


def from_linen(
  module: linen.Module,
  variables: Mapping[str, Any],
  *,
  layers: Collection[str] | None = None,
  method: str | Callable[..., Any] | None = None,
  **arguments: Any,
) -> jax.tree_util.Partial:
  """A Flax Linen module, by `capture_intermediates`.

  Args:
    module: called with images (n, h, w, c); what it returns, or the first of
      a tuple that it returns, is the output and the last layer.
    variables: its parameters and other collections; none is changed.
    layers: names of the layers to keep; all if None.
    method: called in place of `__call__`.
    **arguments: passed on, such as `train=False`.

  Returns:
    The network. A module that is called twice has a layer "name" and a layer
    "name#2"; one that returns several arrays has "name/0", "name/1". Values
    that the module sows in "intermediates" are layers too.

  Raises:
    ValueError: (when called) a layer to keep that is not there.
  """

  def network(variables: Mapping[str, Any], images: Any) -> tuple[Any, Any]:
    result, state = module.apply(
      variables,
      images,
      method=method,
      mutable=["intermediates"],
      capture_intermediates=True,
      **arguments,
    )
    seen = dict(_captured(state["intermediates"]))
    return _finish(result, seen, layers)

  return jax.tree_util.Partial(network, dict(variables))


def from_nnx(
  module: Any, *, layers: Collection[str] | None = None, **arguments: Any
) -> jax.tree_util.Partial:
  """A Flax NNX module, a function of its state by `nnx.split` and `nnx.merge`.

  Args:
    module: an `nnx.Module`, called with images (n, h, w, c); what it returns,
      or the first of a tuple that it returns, is the output. Call its `eval()`
      first where it has dropout or batch normalisation.
    layers: names of the layers to keep; all if None.
    **arguments: passed on to the call.

  Returns:
    The network. It holds the state that the module has now; the module is
    neither changed by it nor seen to change. Names as in `from_linen`.

  Raises:
    ValueError: (when called) a layer to keep that is not there.
  """
  from flax import nnx

  graph, state = nnx.split(module)
  state = jax.tree.map(lambda a: a, state)  # variables of its own

  def network(state: Any, images: Any) -> tuple[Any, Any]:
    copy = nnx.merge(graph, state)
    modules = nnx.iter_modules(copy)
    parts = [("/".join(map(str, path)), part) for path, part in modules]
    with _recording(parts) as seen:
      result = copy(images, **arguments)
    return _finish(result, seen, layers)

  return jax.tree_util.Partial(network, state)


def from_equinox(
  module: Any,
  *,
  channels_first: bool = True,
  layers: Collection[str] | None = None,
  **arguments: Any,
) -> jax.tree_util.Partial:
  """An Equinox module, which takes one image at a time.

  Args:
    module: an `equinox.Module`, called with one image; what it returns, or the
      first of a tuple that it returns, is the output. Bring it into inference
      mode first with `equinox.nn.inference_mode`.
    channels_first: whether it takes (c, h, w), as `equinox.nn`'s layers do:
      images are brought to that form and maps back from it. False for
      (h, w, c).
    layers: names of the layers to keep; all if None.
    **arguments: passed on to the call, the same for every image.

  Returns:
    The network. Names as in `from_linen`; in an `equinox.nn.Sequential` they
    are "layers/0", "layers/1" and so on.

  Raises:
    ImportError: equinox is not installed.
    ValueError: (when called) a layer to keep that is not there.
  """
  import equinox

  arrays, rest = equinox.partition(module, equinox.is_array)
  names: list[str] = []

  def single(arrays: Any, image: Any) -> tuple[Any, tuple[Any, ...]]:
    copy = equinox.combine(arrays, rest)
    if channels_first:
      image = jnp.moveaxis(image, -1, 0)
    with _recording(list(_equinox_parts(copy, equinox.Module))) as seen:
      result = copy(image, **arguments)
    output, seen = _finish(result, seen, layers)
    names[:] = seen  # in order: vmap would sort a dictionary's keys
    maps = [channels_first and jnp.ndim(a) == 3 for a in seen.values()]
    values = zip(seen.values(), maps, strict=True)
    return output, tuple(jnp.moveaxis(a, 0, -1) if m else a for a, m in values)

  def network(arrays: Any, images: Any) -> tuple[Any, Activations]:
    output, values = jax.vmap(single, in_axes=(None, 0))(arrays, images)
    return output, dict(zip(names, values, strict=True))

  return jax.tree_util.Partial(network, arrays)


# --- recording ---------------------------------------------------------------


def _captured(
  intermediates: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any]]:
  """Names and values of Linen's intermediates, in the order of the calls."""
  for key, value in intermediates.items():
    name = path if key == "__call__" else f"{path}/{key}" if path else key
    if isinstance(value, Mapping):
      yield from _captured(value, name)
    elif name:  # what the whole module returns has none
      calls = value if isinstance(value, tuple) else (value,)
      for count, result in enumerate(calls, start=1):
        yield from _arrays(_numbered(name, count), result)


def _equinox_parts(node: Any, kind: type, path: str = "") -> Iterator[Any]:
  """Paths and submodules of an Equinox module, from the leaves up."""
  parts, _ = jax.tree_util.tree_flatten_with_path(
    node, is_leaf=lambda n: n is not node and isinstance(n, kind)
  )
  for keys, part in parts:
    if isinstance(part, kind):
      name = jax.tree_util.keystr(keys, simple=True, separator="/")
      name = f"{path}/{name}" if path else name
      yield from _equinox_parts(part, kind, name)
      yield name, part


@contextlib.contextmanager
def _recording(parts: Iterable[tuple[str, Any]]) -> Iterator[Activations]:
  """Records what submodules return while the block runs.

  Python looks `__call__` up on the class, so the classes are wrapped for as
  long as the block runs, which is while jax traces. A call inside a
  transformation of its own (vmap, scan, jit) is not recorded: its values do
  not exist outside of it.

  Args:
    parts: names and submodules; one without a name is not recorded.

  Yields:
    The activations, filled as the calls return.
  """
  # The modules are kept beside their names, lest another gets the same id.
  known = {id(part): (name, part) for name, part in parts if name}
  seen: Activations = {}
  counts: dict[str, int] = {}
  running: set[int] = set()
  level = _trace_state()

  def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
      # A class may call its base class's: that is the same call.
      if id(self) not in known or id(self) in running:
        return call(self, *args, **kwargs)
      running.add(id(self))
      try:
        result = call(self, *args, **kwargs)
      finally:
        running.remove(id(self))
      name = known[id(self)][0]
      if _trace_state() == level:
        counts[name] = counts.get(name, 0) + 1
        seen.update(_arrays(_numbered(name, counts[name]), result))
      return result

    return recorded

  classes = {type(part) for _, part in known.values()}
  # By the classes' own dictionaries: what a class inherits must be found before
  # anything is wrapped, and taken off again, not written into the class.
  own = {c: vars(c).get("__call__") for c in classes}
  calls = {c: _inherited_call(c) for c in classes}
  try:
    for cls, call in calls.items():
      if call is not None:
        cls.__call__ = wrap(call)
    yield seen
  finally:
    for cls, call in own.items():
      if call is not None:
        cls.__call__ = call
      elif "__call__" in vars(cls):
        del cls.__call__


def _inherited_call(cls: type) -> Callable[..., Any] | None:
  """`__call__` of a class; plain access would find its metaclass's."""
  found = (vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c))
  return next(found, None)


def _trace_state() -> Any:
  """Equal where no transformation of jax begins or ends between."""
  return jax_core.get_opaque_trace_state(convention="flax")


def _numbered(name: str, count: int) -> str:
  return name if count == 1 else f"{name}#{count}"


def _arrays(name: str, result: Any) -> Iterator[tuple[str, Any]]:
  """What a module returned, by name; the arrays of a structure one by one."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(result)
  for keys, leaf in leaves:
    if isinstance(leaf, jax.Array):
      place = jax.tree_util.keystr(keys, simple=True, separator="/")
      yield (f"{name}/{place}" if place else name), leaf


def _finish(
  result: Any, seen: Activations, layers: Collection[str] | None
) -> tuple[Any, Activations]:
  """Output and layers; the output is a layer if no submodule returned it."""
  output = result[0] if isinstance(result, tuple) else result
  distinct: Activations = {}
  for name, value in [*seen.items(), (RESULT, output)]:
    # A module may return what its last submodule did: that is one layer.
    if not any(value is other for other in distinct.values()):
      distinct[name] = value
  for name in layers or ():
    if name not in distinct:
      raise ValueError(f"layer {name!r} is not one of {', '.join(distinct)}")
  return output, {
    name: value
    for name, value in distinct.items()
    if layers is None or name in layers
  }
