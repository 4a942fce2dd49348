"""A step of the training and its gradients in; masks out: one strategy per file, registered by this import."""

from prunus.pruner.strategies import (  # noqa: F401  (enrols them)
    adaptive,
    dynamic_threshold,
    gradient_threshold,
    gradual,
    joint,
    key_path,
    key_path_pace,
    movement,
    pressure,
    regrow,
    rounds,
    sensitivity,
    units,
)
