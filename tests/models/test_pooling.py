import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import downsampling, layers, pooling
from models.cnn import CNN
from models.pooling import Pooling, parse_pooling

# Every kind, once.
KINDS = (
  *("none", "stride", "dilate", "max", "max:3/2", "max:3/1", "max:3/3"),
  *("avg", "avg:3/2", "lp", "mixed", "blur", "blur:2", "blur:4", "blur:5"),
  *("max_blur:3", "avg_blur:2", "aps", "max_aps", "avg_aps", "lps", "max_lps"),
  "spectral",
)
# Numbers that a pooling layer after 4 channels learns.
LEARNED = {"lp": 1, "mixed": 1, "lps": 37 * 8 + 8, "max_lps": 37 * 8 + 8}


def _maps(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("none", Pooling("none")),
    ("max", Pooling("max_pool", 2, 2)),
    ("max:3/2", Pooling("max_pool", 3, 2)),
    ("lp:3/1", Pooling("lp_pool", 3, 1)),
    ("blur", Pooling("blur_pool", 3, 2)),
    ("max_blur:5", Pooling("blur_pool", 5, 2, "max")),
    ("avg_aps", Pooling("polyphase", 1, 2, "avg")),
    ("lps", Pooling("learned_polyphase", 1, 2)),
    ("spectral", Pooling("spectral")),
  ],
)
def test_names_say_what_is_done(text, expected):
  assert parse_pooling(text) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_only_learned_pooling_has_parameters(kind):
  model = CNN(depth=1, width=4, pooling=kind)
  counts = model.parameter_counts(32)
  of_pooling = {
    name: n for name, n in counts.items() if name not in ("conv1", "logits")
  }
  assert sum(of_pooling.values()) == LEARNED.get(kind, 0)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1))
  )
  names = {"conv1", "logits"} | ({"pool1"} if kind in LEARNED else set())
  assert set(shapes["params"]) == names


@pytest.mark.parametrize("padding", ["same", "circular", "reflect", "valid"])
@pytest.mark.parametrize("size", [32, 30, 28])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_the_size_that_the_geometry_says(kind, size, padding):
  model = CNN(depth=2, width=2, pooling=kind, padding=padding, head="gap")
  images = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)

  def run(x):
    return model.apply(model.init(jax.random.key(0), x), x)[1]

  try:
    geometry = model.geometry(size)
  except ValueError as error:
    with pytest.raises(ValueError, match=str(error)[:30]):
      jax.eval_shape(run, images)
    assert "aps" in kind or "lps" in kind or kind == "spectral"
    return
  shapes = jax.eval_shape(run, images)
  for name, where in geometry.items():
    if where.spatial:
      assert shapes[name].shape[1:3] == where.spatial, name


@pytest.mark.parametrize(
  ("kind", "size", "layer"),
  [("aps", 28, "pool3"), ("lps", 30, "pool2"), ("spectral", 28, "pool3")],
)
def test_odd_sides_are_refused_by_name(kind, size, layer):
  side = {28: 7, 30: 15}[size]
  with pytest.raises(
    ValueError, match=f"layer {layer} cannot sample .* {side}x{side} map"
  ):
    CNN(depth=3, pooling=kind).geometry(size)


# --- the functions -----------------------------------------------------------


def test_an_exponent_leads_from_the_mean_to_the_maximum():
  x = jnp.asarray(np.abs(_maps(2, 6, 6, 3)))
  at = functools.partial(downsampling.lp_pool, x)
  np.testing.assert_allclose(at(1.0), layers.avg_pool(x), rtol=1e-6)
  np.testing.assert_allclose(at(500.0), layers.max_pool(x), rtol=5e-3)
  blocks = np.asarray(x, np.float64).reshape(2, 3, 2, 3, 2, 3)
  expected = (blocks**3).mean(axis=(2, 4)) ** (1 / 3)
  np.testing.assert_allclose(at(3.0), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_powers_do_not_leave_the_range_of_floats(scale):
  x = jnp.asarray(np.abs(_maps(1, 4, 4, 1)))
  if scale > 1:
    expected = downsampling.lp_pool(x, 8.0) * scale
    np.testing.assert_allclose(
      downsampling.lp_pool(x * scale, 8.0), expected, rtol=1e-5
    )
  else:
    assert np.isfinite(downsampling.lp_pool(x * scale, 8.0)).all()


def test_an_exponent_can_be_learned_where_activations_are_zero():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(2.0)

  def total(x, exponent):
    return downsampling.lp_pool(x, exponent).sum()

  by_x, by_exponent = jax.grad(total, argnums=(0, 1))(x, 3.0)
  assert np.isfinite(by_x).all()
  # d/dp of 2 * (1/4)^(1/p).
  expected = 2 * 0.25 ** (1 / 3) * np.log(4) / 9
  assert float(by_exponent) == pytest.approx(expected, rel=1e-3)


def test_a_mix_starts_half_way_and_is_what_it_says():
  x = jnp.asarray(_maps(2, 6, 6, 3))
  module = pooling.MixedPool()
  variables = module.init(jax.random.key(0), x)
  half = (layers.max_pool(x) + layers.avg_pool(x)) / 2
  ours = np.asarray(module.apply(variables, x))
  np.testing.assert_allclose(ours, half, rtol=1e-6)
  variables = {"params": {"logit_of_max": jnp.log(3.0)}}
  mixed = 0.75 * layers.max_pool(x) + 0.25 * layers.avg_pool(x)
  ours = np.asarray(module.apply(variables, x))
  np.testing.assert_allclose(ours, mixed, rtol=1e-5)


@pytest.mark.parametrize("size", [6, 8, 12])
def test_spectral_pooling_is_a_crop_of_the_spectrum(size):
  """Against numpy's Fourier transform, the highest frequency halved."""
  x = _maps(2, size, size, 3)
  half = size // 2
  spectrum = np.fft.fftshift(np.fft.fft2(x, axes=(1, 2)), axes=(1, 2))
  first = half - (half // 2)
  kept = spectrum[:, first : first + half, first : first + half]
  if half % 2 == 0:  # -half / 2 alone: take the mean of both signs
    both = spectrum[:, first : first + half + 1, first : first + half + 1]
    both = np.concatenate(
      [(both[:, :1] + both[:, -1:]) / 2, both[:, 1:-1]], axis=1
    )
    kept = np.concatenate(
      [(both[:, :, :1] + both[:, :, -1:]) / 2, both[:, :, 1:-1]], axis=2
    )
  expected = np.fft.ifft2(np.fft.ifftshift(kept, axes=(1, 2)), axes=(1, 2)) / 4
  ours = downsampling.spectral_pool(jnp.asarray(x))
  np.testing.assert_allclose(ours, expected.real, atol=1e-5)


def test_spectral_pooling_samples_smooth_maps_exactly():
  angle = 2 * np.pi * np.arange(16) / 16
  wave = 1 + np.cos(angle)[:, None] * np.sin(3 * angle)[None]
  x = jnp.asarray(wave[None, :, :, None], jnp.float32)
  np.testing.assert_allclose(
    downsampling.spectral_pool(x), x[:, ::2, ::2], atol=1e-6
  )


def test_scored_sampling_takes_the_highest_score():
  x = jnp.asarray(_maps(8, 6, 6, 2))
  by_mean = downsampling.scored_polyphase(x, lambda c: c.mean((1, 2, 3)))
  parts = np.stack(
    [np.asarray(x)[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1
  )
  best = parts.mean((2, 3, 4)).argmax(1)
  assert len(set(best)) > 1
  np.testing.assert_array_equal(by_mean, parts[np.arange(8), best])


def test_a_score_learns_through_the_mix_of_all_components():
  x = jnp.asarray(_maps(3, 4, 4, 2))
  goal = _maps(3, 2, 2, 2, seed=1)

  def loss(slope, train):
    taken = downsampling.scored_polyphase(
      x, lambda c: slope * c.mean((1, 2, 3)), train=train
    )
    return (taken * goal).sum()

  value = functools.partial(jax.value_and_grad(loss), jnp.float32(0.7))
  (plain, still), (straight, moving) = value(False), value(True)
  assert float(plain) == float(straight)
  assert float(still) == 0
  parts = [np.asarray(x)[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  means = np.stack([p.mean((1, 2, 3)) for p in parts], 1).astype(np.float64)
  shares = np.exp(0.7 * means)
  shares /= shares.sum(1, keepdims=True)
  slopes = shares * (means - (shares * means).sum(1, keepdims=True))
  values = np.stack([(p * goal).sum((1, 2, 3)) for p in parts], 1)
  assert float(moving) == pytest.approx((slopes * values).sum(), rel=1e-4)


@pytest.mark.parametrize(
  "call",
  [
    downsampling.spectral_pool,
    lambda x: downsampling.scored_polyphase(x, lambda c: c.sum((1, 2, 3))),
  ],
)
def test_sides_that_do_not_divide_are_refused(call):
  with pytest.raises(ValueError, match="a 5x6 map does not split"):
    call(jnp.zeros((1, 5, 6, 1)))


# --- padding -----------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
  ("border", "mode"),
  [("zero", "constant"), ("circular", "wrap"), ("reflect", "reflect")],
)
def test_padding_is_numpy_s(border, mode, extra):
  x = _maps(2, 5, 6, 3)
  sides = (2, 2 + extra)
  np.testing.assert_array_equal(
    layers.pad_map(jnp.asarray(x), 2, extra, border=border),
    np.pad(x, ((0, 0), sides, sides, (0, 0)), mode=mode),
  )


def test_a_map_too_small_for_its_padding_is_refused():
  x = jnp.zeros((1, 3, 3, 1))
  with pytest.raises(ValueError, match=r"circular padding of 4 .* got 3x3"):
    layers.pad_map(x, 4, border="circular")
  with pytest.raises(ValueError, match=r"circular padding of 4 .* least 4 pos"):
    layers.pad_map(x, 3, 1, border="circular")
  with pytest.raises(ValueError, match=r"reflect padding of 3 .* least 4 pos"):
    layers.pad_map(x, 3, border="reflect")
