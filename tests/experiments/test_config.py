import dataclasses

import pytest
from absl import flags

from experiments import config
from experiments.errors import UsageError

CLASSES = (
  config.DataConfig,
  config.ModelConfig,
  config.TrainConfig,
  config.MeasureConfig,
)


@pytest.fixture
def parse(fresh_flags):
  """Parses flags as a command would, all of them defined."""
  config.define_flags(*CLASSES)
  config.define_seed_flags(5)
  return lambda *arguments: fresh_flags(["command", *arguments])


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_help_and_every_help_a_field(cls):
  names = [field.name for field in dataclasses.fields(cls)]
  text = config.attribute_help(cls)
  assert list(text) == names
  assert all(text[name].endswith(".") for name in names)


def test_help_of_several_lines_is_joined():
  text = config.attribute_help(config.TrainConfig)["augment"]
  assert "translation:4,rotation:15: each parameter uniform" in text


@pytest.mark.parametrize("cls", CLASSES)
def test_flags_default_to_the_dataclass(parse, cls):
  parse()
  assert config.from_flags(cls) == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_flags_carry_the_help(parse, cls):
  for name, text in config.attribute_help(cls).items():
    assert flags.FLAGS[name].help == text


def test_given_flags_keep_their_type(parse):
  parse("--epochs=3", "--learning_rate=1", "--augment=rotation:15")
  train = config.from_flags(config.TrainConfig)
  assert train == config.TrainConfig(
    epochs=3, learning_rate=1.0, augment="rotation:15"
  )
  assert isinstance(train.epochs, int)
  assert isinstance(train.learning_rate, float)


@pytest.mark.parametrize(
  "argument", ["--epochs=many", "--epochs=1.5", "--learning_rate=fast"]
)
def test_values_of_another_type_are_refused(parse, argument):
  with pytest.raises(flags.IllegalFlagValueError, match=argument[2:]):
    parse(argument)


def test_skipped_fields_get_no_flag(fresh_flags):
  config.define_flags(config.ModelConfig, skip=("pooling", "depth"))
  assert "pooling" not in fresh_flags
  assert "depth" not in fresh_flags
  assert "width" in fresh_flags


@pytest.mark.parametrize(
  ("arguments", "seeds"),
  [
    ([], (0, 1, 2, 3, 4)),
    (["--seeds=2"], (0, 1)),
    (["--seed=7"], (7,)),
    (["--seed=0"], (0,)),
  ],
)
def test_seeds(parse, arguments, seeds):
  parse(*arguments)
  assert config.seeds_from_flags() == seeds


def test_seeds_and_seed_exclude_each_other(parse):
  parse("--seeds=5", "--seed=1")
  with pytest.raises(UsageError, match="--seeds and --seed exclude each other"):
    config.seeds_from_flags()


@pytest.mark.parametrize(
  "argument", ["--seeds=0", "--seeds=-1", "--seed=-1", "--seed=4294967296"]
)
def test_impossible_seeds_are_refused(parse, argument):
  with pytest.raises(flags.IllegalFlagValueError):
    parse(argument)


@pytest.mark.parametrize("cls", CLASSES)
def test_configurations_are_frozen_and_hashable(cls):
  value = cls()
  name = dataclasses.fields(cls)[0].name
  with pytest.raises(dataclasses.FrozenInstanceError):
    setattr(value, name, "another")
  assert hash(value) == hash(cls())
