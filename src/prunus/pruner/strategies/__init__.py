"""The pruning strategies, one file each; importing this package enrols them."""

from prunus.pruner.strategies import (  # noqa: F401  (enrols them)
    adaptive,
    dynamic_threshold,
    gradual,
    key_path,
    movement,
    pressure,
    regrow,
    units,
)
