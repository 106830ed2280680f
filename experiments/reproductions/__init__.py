"""Published experiments, one a module, run by `experiments.reproduce`.

Each module's docstring says what was asked, how it is asked here, what differs
from the publication and what a full-size run needs; its `EXPERIMENT` says what
is run, what was published and which rule decides whether it is reproduced.
"""

# In the order of --help. Names only: what they stand for takes jax to import.
NAMES = (
  "red_green",
  "aps",
  "antialias",
  "learned_or_built",
  "augmentation",
  "rot_mnist",
)
