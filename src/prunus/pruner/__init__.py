"""A network and any training loop in; masks at every step, cut networks and their outcomes out."""

from prunus.pruner import strategies  # noqa: F401  (enrols them)
from prunus.pruner.options import Moment, PrunerOptions, PrunerReport, options_of
from prunus.pruner.pruner import Pruner
from prunus.pruner.strategy import STRATEGIES, Scene, Strategy

__all__ = ["STRATEGIES", "Moment", "Pruner", "PrunerOptions", "PrunerReport", "Scene", "Strategy", "options_of"]
