"""The run-time type checker of the tests."""

from beartype import BeartypeConf, beartype

# An int is accepted where a float is declared, as type checkers do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
