"""The two ways in which a command ends badly, each one line for the user."""


class UsageError(Exception):
  """The command line is wrong; exit code 2. Says what value and what to do."""


class ExperimentError(Exception):
  """The work failed; exit code 1. Says what, where and what to do."""
