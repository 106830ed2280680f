import json
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from models.downsampling import adaptive_polyphase, blur_pool, polyphase_index

# Compiled as a whole: its parts one by one take much longer.
_blur_pool = jax.jit(blur_pool, static_argnames=("size", "stride", "border"))
_adaptive_polyphase = jax.jit(adaptive_polyphase, static_argnames="stride")
_polyphase_index = jax.jit(polyphase_index, static_argnames="stride")

BORDERS: dict[str, Any] = {
  "reflect": "reflect",
  "circular": "wrap",
  "zero": "constant",
}


def _random(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


# --- blur_pool ---------------------------------------------------------------


@pytest.mark.parametrize("border", ["reflect", "circular"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_blur_pooling_is_the_published_layer(fixtures, size, border):
  cases = json.loads((fixtures / "blurpool.json").read_text())["cases"]
  assert len(cases) == 2
  for case in cases:
    x = jnp.asarray(case["input"], jnp.float32)[None]
    np.testing.assert_allclose(
      _blur_pool(x, size, border=border)[0],
      case[border][str(size)],
      atol=1e-5,
      rtol=0,
    )


@hypothesis.settings(max_examples=10)
@hypothesis.given(
  height=st.integers(1, 7),
  width=st.integers(1, 7),
  size=st.integers(1, 5),
  stride=st.integers(1, 3),
  border=st.sampled_from(sorted(BORDERS)),
)
def test_blur_pooling_is_a_padded_convolution(
  height, width, size, stride, border
):
  """Any size, down to maps that the padding mirrors more than once."""
  x = _random(2, height, width, 3)
  taps = np.poly1d([1, 1]) ** (size - 1)
  kernel = np.outer(taps.coeffs, taps.coeffs) / 4.0 ** (size - 1)
  pads = ((size - 1) // 2, size // 2)
  padded = np.pad(
    np.asarray(x, np.float64), ((0, 0), pads, pads, (0, 0)), BORDERS[border]
  )
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (size, size), axis=(1, 2)
  )
  expected = np.einsum("nhwcij,ij->nhwc", windows, kernel)
  pooled = _blur_pool(x, size, stride, border=border)
  assert pooled.shape[1:3] == (-(-height // stride), -(-width // stride))
  np.testing.assert_allclose(pooled, expected[:, ::stride, ::stride], atol=1e-6)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  size=st.sampled_from([2, 3, 5]), dy=st.integers(-4, 4), dx=st.integers(-4, 4)
)
def test_circular_blur_pooling_moves_with_shifts_by_its_stride(size, dy, dx):
  x = _random(2, 8, 6, 3)
  moved = jnp.asarray(np.roll(x, (2 * dy, 2 * dx), axis=(1, 2)))
  np.testing.assert_array_equal(
    _blur_pool(moved, size, border="circular"),
    np.roll(_blur_pool(x, size, border="circular"), (dy, dx), axis=(1, 2)),
  )


def test_a_wider_blur_changes_less_under_a_shift_by_one():
  x = _random(4, 16, 16, 3)

  def change(size):
    pooled, moved = (
      _blur_pool(maps, size, border="circular")
      for maps in (x, jnp.asarray(np.roll(x, 1, axis=2)))
    )
    return float(jnp.linalg.norm(pooled - moved) / jnp.linalg.norm(pooled))

  changes = [change(size) for size in range(1, 6)]
  assert changes == sorted(changes, reverse=True)
  assert changes[0] > 1.2 > 0.8 > changes[-1] > 0.1


def test_blur_pooling_of_one_tap_is_striding_and_keeps_the_type():
  x = _random(2, 7, 8, 3).astype(jnp.bfloat16)
  pooled = _blur_pool(x, 1)
  assert pooled.dtype == jnp.bfloat16
  np.testing.assert_array_equal(pooled, x[:, ::2, ::2])
  assert _blur_pool(x, 4).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda x: blur_pool(x, 6), "blur filter of size 6 does not exist"),
    (lambda x: blur_pool(x, 0), "blur filter of size 0 does not exist"),
    (lambda x: blur_pool(x, 3, 0), "stride=0 is not positive"),
    (lambda x: blur_pool(x, 3, border="same"), "border='same' is not one of"),
    (lambda x: adaptive_polyphase(x, 3), "a 9x8 map .* multiples of 3"),
    (lambda x: adaptive_polyphase(x), "a 9x8 map .* components of stride 2"),
    (lambda x: polyphase_index(x, -1), "stride=-1 is not positive"),
  ],
)
def test_wrong_values_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.zeros((1, 9, 8, 1)))


# --- adaptive_polyphase ------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_adaptive_sampling_takes_the_component_of_largest_norm(stride):
  x = _random(40, 6, 12, 3)
  index = np.asarray(_polyphase_index(x, stride))
  taken = np.asarray(_adaptive_polyphase(x, stride))
  assert taken.shape == (40, 6 // stride, 12 // stride, 3)
  for image, k, maps in zip(np.asarray(x), index, taken, strict=True):
    components = [
      image[i::stride, j::stride] for i in range(stride) for j in range(stride)
    ]
    norms = [np.linalg.norm(c) for c in components]
    assert k == np.argmax(norms)
    np.testing.assert_array_equal(maps, components[k])
  assert set(index) == set(range(stride**2))  # every image has its own


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  stride=st.integers(2, 3),
  dy=st.integers(-12, 12),
  dx=st.integers(-12, 12),
)
def test_adaptive_sampling_of_a_shifted_map_is_a_shifted_map(
  seed, stride, dy, dx
):
  x = _random(3, 12, 6, 2, seed=seed)
  moved = jnp.asarray(np.roll(x, (dy, dx), axis=(1, 2)))
  index = np.asarray(_polyphase_index(x, stride))
  before, after = (
    np.asarray(_adaptive_polyphase(m, stride)) for m in (x, moved)
  )
  rows, columns = index // stride + dy, index % stride + dx
  # The component moves along with the shift, by whole positions and a rest.
  np.testing.assert_array_equal(
    _polyphase_index(moved, stride), rows % stride * stride + columns % stride
  )
  for i in range(len(x)):
    steps = (rows[i] // stride, columns[i] // stride)
    np.testing.assert_array_equal(
      after[i], np.roll(before[i], steps, axis=(0, 1))
    )


def test_of_equal_components_the_first_is_taken():
  assert _polyphase_index(jnp.ones((2, 4, 4, 3))).tolist() == [0, 0]
  x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 1, 0].set(1.0).at[0, 3, 2, 0].set(-1.0)
  assert _polyphase_index(x).tolist() == [1]  # before component 2


def test_gradients_go_to_the_chosen_component_in_either_mode():
  x = _random(3, 4, 4, 2)
  gradient = jax.grad(lambda x: _adaptive_polyphase(x).sum())(x)
  _, tangent = jax.jvp(_adaptive_polyphase, (x,), (jnp.ones_like(x),))
  assert (tangent == 1).all()
  for image, k in zip(gradient, _polyphase_index(x).tolist(), strict=True):
    expected = np.zeros((4, 4, 2))
    expected[k // 2 :: 2, k % 2 :: 2] = 1
    np.testing.assert_array_equal(image, expected)
