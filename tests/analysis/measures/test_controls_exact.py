"""Networks that are exactly invariant by design, beside such as are nearly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.assertions import assert_equivariant, assert_invariant
from analysis.orbits import measure, orbit
from analysis.transforms import rotation, translation
from models import group, layers
from models.downsampling import adaptive_polyphase, blur_pool
from tests.analysis import networks

# --- 3: polyphase sampling ---------------------------------------------------

SHIFTS = [(1, 0), (0, -3), (7, 5), (-16, 11), (8, -8)]


def _measured(network, images, transformations):
  """Invariance errors by layer and the consistency, one an element."""
  table = measure(
    network, images, transformations, ["invariance_error", "consistency"]
  )
  by_name = table.assign(
    name=table["layer"].where(
      table["measure"] == "invariance_error", table["measure"]
    )
  )
  return {
    name: rows.to_numpy() for name, rows in by_name.groupby("name")["value"]
  }


def test_polyphase_sampling_makes_logits_invariant_to_shifts(digits):
  network = jax.jit(networks.circular_stack(adaptive_polyphase))
  for shift in SHIFTS:
    assert_invariant(
      network,
      (translation, shift),
      digits,
      layers=["gap", "logits"],
      border="circular",
    )
  _, maps = jax.eval_shape(network, digits)
  assert maps["down3"].shape == (16, 4, 4, 6)  # 32 px halved three times
  circular = orbit(translation, SHIFTS, border="circular")
  values = _measured(network, digits[:4], circular)
  assert values["relu1"].min() > 0.1  # what comes before does vary
  assert values["logits"].max() < 1e-5
  assert (values["consistency"] == 1).all()


def test_max_pooling_is_not_invariant_to_odd_shifts(digits):
  network = jax.jit(networks.circular_stack(layers.max_pool))
  circular = orbit(translation, SHIFTS, border="circular")
  *odd, whole = _measured(network, digits[:4], circular)["logits"]
  assert min(odd) > 0.3
  assert whole < 1e-5  # 8 px are a whole position of the last map


@pytest.mark.parametrize(
  ("downsample", "rtol"),
  [
    (layers.max_pool, 0.3),
    (lambda x: x[:, ::2, ::2], 0.3),
    (functools.partial(blur_pool, size=3, border="circular"), 0.1),
    (functools.partial(blur_pool, size=5, border="circular"), 0.03),
  ],
  ids=["max", "stride", "blur3", "blur5"],
)
def test_other_downsampling_fails_by_far_at_odd_shifts(
  digits, downsample, rtol
):
  network = jax.jit(networks.circular_stack(downsample))
  *odd, whole = SHIFTS
  for shift in odd:
    with pytest.raises(AssertionError, match="layer 'logits' is not invariant"):
      assert_invariant(
        network,
        (translation, shift),
        digits,
        layers="logits",
        border="circular",
        rtol=rtol,
      )
  assert_invariant(
    network, (translation, whole), digits, layers="logits", border="circular"
  )


# --- 4: convolutions over the group of quarter turns -------------------------

TURNS = (1, 2, 3)
_ORIENTED = ["lift", "relu1", "pool1", "conv2", "relu2", "conv3"]


def _p4(images):
  """Three convolutions over p4, a pooling of positions; zero padding."""

  def random(seed, *shape):
    rng = np.random.default_rng(seed)
    scale = np.sqrt(2 / np.prod(shape[:-1]))
    return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)

  def bias(seed, outputs):
    return random(seed, 1, outputs)[0] / 10

  out = {}
  x = out["lift"] = group.lifting_convolution(
    images, random(0, 5, 5, 1, 4), bias(10, 4)
  )
  x = out["relu1"] = jax.nn.relu(x)
  pooled = layers.max_pool(x.reshape(*x.shape[:3], -1))
  x = out["pool1"] = pooled.reshape(*pooled.shape[:3], 4, -1)
  x = out["conv2"] = group.group_convolution(
    x, random(1, 3, 3, 4, 4, 6), bias(11, 6)
  )
  x = out["relu2"] = jax.nn.relu(x)
  x = out["conv3"] = group.group_convolution(
    x, random(2, 3, 3, 4, 6, 8), bias(12, 8)
  )
  out["orientations"] = group.group_pool(x)
  out["pooled"] = group.global_group_pool(x)
  logits = out["logits"] = out["pooled"] @ random(3, 8, 10)
  return logits, out


def test_convolutions_over_p4_turn_with_the_image(digits):
  """Each map turns and its orientations move on by as many places."""
  network = jax.jit(_p4)
  for k in TURNS:
    turn = (rotation, 90 * k)
    assert_equivariant(
      network,
      turn,
      digits,
      layers=[*_ORIENTED, "orientations"],
      act={
        name: functools.partial(group.turn, quarter_turns=k)
        for name in _ORIENTED
      },
      geometry={"orientations": networks.Where(2, 0.5, 1, True)},
    )
    assert_invariant(network, turn, digits, layers=["pooled", "logits"])
  # Were the orientations to stay in place, it would not hold.
  with pytest.raises(AssertionError, match="layer 'conv3' is not equivariant"):
    assert_equivariant(
      network,
      (rotation, 90),
      digits,
      layers="conv3",
      act=lambda maps: jnp.rot90(maps, 1, axes=(1, 2)),
    )


def test_the_measure_finds_p4_invariant_and_a_cnn_not(digits):
  turns = [(rotation, [90.0 * k for k in TURNS])]
  values = _measured(_p4, digits[:4], turns)
  assert values["pooled"].max() < 1e-5
  assert values["logits"].max() < 1e-5
  assert (values["consistency"] == 1).all()
  assert values["lift"].min() > 0.5


def test_an_ordinary_cnn_is_not_equivariant_to_turns(digits):
  cnn = jax.jit(networks.circular_stack(layers.max_pool))
  for layer in ("gap", "logits"):
    with pytest.raises(AssertionError, match=f"'{layer}' is not invariant"):
      assert_invariant(cnn, (rotation, 90), digits, layers=layer, rtol=0.3)
  with pytest.raises(AssertionError, match="'relu1' is not equivariant"):
    assert_equivariant(cnn, (rotation, 90), digits, layers="relu1", rtol=0.3)
