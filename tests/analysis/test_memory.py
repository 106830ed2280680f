import json
import os
import subprocess
import sys

import numpy as np
import pytest

from analysis import memory
from analysis.actions import orbit
from analysis.measures import resolve
from analysis.orbits import measure
from tests.analysis import networks

ROTATION = orbit("rotation", [0, 15, -15])
GIB = 2**30

USUAL = resolve(["invariance_error", "equivariance_error", "accuracy"])
PAIRED = resolve(["cka"])


def sizes(limit, units=100_000, measures=USUAL, wanted=None, **options):
  return memory.choose_sizes(
    1000, ROTATION, units, measures, wanted=wanted, limit=limit, **options
  )


def test_less_memory_means_smaller_steps():
  batches = [sizes(limit).batch for limit in (GIB, 800 * 2**20, 788 * 2**20)]
  assert batches == sorted(batches, reverse=True)
  assert len(set(batches)) == 3
  assert batches[0] == sizes(100 * GIB).batch == 16


@pytest.mark.parametrize("wanted", [None, 1, 5, 1000])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("mib", [798, 828, 1000, 4000])
def test_no_step_takes_more_than_is_allowed(mib, devices, wanted):
  limit = mib * 2**20
  found = sizes(limit, wanted=wanted, devices=devices)
  affordable = memory.images_a_step(limit, 100_000, 3, USUAL, devices=devices)
  assert 1 <= found.chunk <= found.batch <= affordable
  assert found.batch % devices == 0
  assert found.batch * found.batches >= 1000


def test_more_is_allowed_to_measures_that_know_layers_beforehand():
  """They keep more, so that less is left for images."""
  usual, knowing = (
    memory.images_a_step(GIB, 100_000, 3, resolve([name]))
    for name in ("invariance_error", "goodfellow")
  )
  assert knowing < usual


def test_pairs_are_refused_rather_than_measured_otherwise():
  whole = sizes(100 * GIB, units=1000, measures=PAIRED)
  assert whole.batch == 1000
  assert sizes(2 * GIB, units=1000, measures=PAIRED) == whole
  with pytest.raises(
    memory.MemoryLimitError, match=r"778 MiB .* compare 1000 images .* rotation"
  ):
    sizes(778 * 2**20, units=1000, measures=PAIRED)


def test_the_least_that_is_needed_is_said_and_is_enough():
  with pytest.raises(memory.MemoryLimitError) as caught:
    sizes(700 * 2**20)
  assert str(caught.value).startswith(
    "rotation: 700 MiB of memory are too little: one image under 3"
    " transformations, 100,000 activations each, takes about 786 MiB;"
  )
  assert sizes(787 * 2**20).batch == 1


def test_the_default_is_a_part_of_the_machines():
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  assert 0 < memory.default_limit() <= 0.75 * total


def test_a_limit_changes_steps_but_no_value():
  images = np.random.default_rng(0).random((12, 16, 16, 1), np.float32)
  seen = {}

  def run(limit):
    steps = seen[limit] = []
    return measure(
      networks.plain,
      images,
      [ROTATION],
      ["invariance_error", "equivariance_error", "normalized_variance"],
      geometry=networks.PLAIN_GEOMETRY,
      memory_limit=limit,
      progress=steps.append,
    )

  units = sum(
    int(np.prod(a.shape[1:])) for a in networks.plain(images[:1])[1].values()
  )
  least = 768 * 2**20 + 4 * units * 3 * 12 + 4 * units * 4 * 3 * 2
  free, bound = run(None), run(least)
  assert max(seen[least]) == 2 < max(seen[None])
  np.testing.assert_allclose(
    free["value"], bound["value"], rtol=1e-5, atol=1e-6
  )
  with pytest.raises(memory.MemoryLimitError, match=r"^rotation: 768 MiB"):
    run(768 * 2**20)


@pytest.mark.parametrize(
  ("size", "text"),
  [(5, "5 B"), (999, "999 B"), (1536, "1.5 KiB"), (3.2 * GIB, "3.2 GiB")],
)
def test_sizes_are_readable(size, text):
  assert memory.shown(size) == text


# --- what is really taken ----------------------------------------------------

_MEASURE = """
import json, resource, sys
import jax, jax.numpy as jnp, numpy as np
from analysis.actions import orbit
from analysis.measures import MEASURES
from analysis.orbits import measure
from models import platform
from models.zoo import MODELS
platform.keep_freed_memory()
images, elements, limit, every = map(int, sys.argv[1:])
model = MODELS["cnn"](depth=3, width=32, pooling="none", num_classes=10)
params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
usual = ["invariance_error", "equivariance_error", "normalized_variance"]
names = [n for n in MEASURES if n not in ("sensitivity_map", "jaggedness")]
steps = []
measure(
  jax.tree_util.Partial(model.apply, params),
  np.random.default_rng(0).integers(0, 255, (images, 32, 32, 1), np.uint8),
  orbit("rotation", list(np.linspace(-45, 45, elements))),
  names if every else usual,
  geometry=model.geometry(32),
  labels=np.arange(images) % 10,
  memory_limit=limit,
  progress=steps.append,
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, max(steps)]))
"""


def peak(images, elements, limit, every=False):
  arguments = [str(int(x)) for x in (images, elements, limit, every)]
  result = subprocess.run(
    [sys.executable, "-c", _MEASURE, *arguments],
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_real_memory_stays_below_the_limit():
  for elements, limit, every in (
    (17, 1.0 * GIB, False),
    (49, 1.3 * GIB, False),
    (49, 2 * GIB, False),
    (17, 1.6 * GIB, True),
    (17, 3 * GIB, True),
  ):
    used, batch = peak(24, elements, limit, every)
    assert used < limit, (elements, limit / GIB, every, used / GIB, batch)


@pytest.mark.slow
def test_real_memory_does_not_grow_with_the_number_of_images():
  few, many = (peak(images, 17, 1 * GIB)[0] for images in (32, 320))
  assert many < few * 1.1
