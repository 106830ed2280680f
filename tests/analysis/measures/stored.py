"""The networks behind the stored reference values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def load(folder, stem):
  """(arrays, description)."""
  with np.load(folder / f"{stem}.npz", allow_pickle=False) as archive:
    return dict(archive), json.loads((folder / f"{stem}.json").read_text())


def apply(layers, arrays, x, kernels="w_<layer>_kernel"):
  """Every layer's activation, in the precision of the images."""

  def weight(name):
    return jnp.asarray(arrays[name]).astype(x.dtype)

  activations = {}
  for layer in layers:
    kind, name = layer["type"], layer["name"]
    if kind == "conv":
      padding = layer["padding"]
      if layer["pad_mode"] == "circular":
        x = jnp.pad(x, [(0, 0), *padding, (0, 0)], mode="wrap")
        padding = [(0, 0)] * 2
      x = lax.conv_general_dilated(
        x,
        weight(kernels.replace("<layer>", name)),
        layer["strides"],
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      x = x + weight(f"w_{name}_bias")[None, None, None]
    elif kind == "avgpool":
      n, h, w, c = x.shape
      x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    elif kind == "gap":
      x = x.mean(axis=(1, 2))
    elif kind == "flatten":
      x = x.reshape(len(x), -1)
    elif kind == "dense":
      x = x @ weight(f"w_{name}_kernel") + weight(f"w_{name}_bias")[None]
    else:
      x = _POINTWISE[kind](x)
    activations[name] = x
  return activations


_POINTWISE = {
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
  "softplus": jax.nn.softplus,
  "softmax": jax.nn.softmax,
}
