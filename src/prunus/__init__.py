"""prunus: hierarchical pruning for any PyTorch network; smaller, faster, proved, explained."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus.analysis import Analysis, analyse
    from prunus.data.splits import splits_from_loaders as splits
    from prunus.errors import PrunusError
    from prunus.experiments.citation import cite
    from prunus.experiments.comparison import compare
    from prunus.experiments.recipe import Recipe, load_recipe
    from prunus.exporters import load, save, undo
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.measurement.network import measure
    from prunus.outcome import Outcome, check_calls, export, realise, recover, repair, verify
    from prunus.pipeline import apply, plan, prune
    from prunus.pipeline.recovering import recover_
    from prunus.pipeline.shrinking import shrink
    from prunus.pipeline.training_frontier import frontier
    from prunus.plans import Plan
    from prunus.pruner import Pruner, PrunerOptions
    from prunus.repairs import repair_
    from prunus.report.inspection import inspect_model as inspect
    from prunus.tree import grow_tree

_HOMES = {
    "Analysis": "prunus.analysis",
    "Outcome": "prunus.outcome",
    "Plan": "prunus.plans",
    "Pruner": "prunus.pruner",
    "PrunerOptions": "prunus.pruner",
    "PrunusError": "prunus.errors",
    "Recipe": "prunus.experiments.recipe",
    "analyse": "prunus.analysis",
    "apply": "prunus.pipeline",
    "capture": "prunus.graph.capture",
    "check_calls": "prunus.outcome",
    "cite": "prunus.experiments.citation",
    "compare": "prunus.experiments.comparison",
    "couple": "prunus.graph.coupling",
    "export": "prunus.outcome",
    "frontier": "prunus.pipeline.training_frontier",
    "grow_tree": "prunus.tree",
    "inspect": "prunus.report.inspection:inspect_model",
    "load": "prunus.exporters",
    "load_recipe": "prunus.experiments.recipe",
    "measure": "prunus.measurement.network",
    "plan": "prunus.pipeline",
    "prune": "prunus.pipeline",
    "realise": "prunus.outcome",
    "recover": "prunus.outcome",
    "recover_": "prunus.pipeline.recovering",
    "repair": "prunus.outcome",
    "repair_": "prunus.repairs",
    "save": "prunus.exporters",
    "shrink": "prunus.pipeline.shrinking",
    "splits": "prunus.data.splits:splits_from_loaders",
    "undo": "prunus.exporters",
    "verify": "prunus.outcome",
}
"""Public name → module, with the name inside the module where it differs."""

__all__ = [
    "Analysis",
    "Outcome",
    "Plan",
    "Pruner",
    "PrunerOptions",
    "PrunusError",
    "Recipe",
    "analyse",
    "apply",
    "capture",
    "check_calls",
    "cite",
    "compare",
    "couple",
    "export",
    "frontier",
    "grow_tree",
    "inspect",
    "load",
    "load_recipe",
    "measure",
    "plan",
    "prune",
    "realise",
    "recover",
    "recover_",
    "repair",
    "repair_",
    "save",
    "shrink",
    "splits",
    "undo",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import prunus`` stays light."""
    if name == "__version__":
        return import_module("prunus.foundation.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    home, _, own = _HOMES[name].partition(":")
    return getattr(import_module(home), own or name)


def __dir__() -> list[str]:
    return sorted(__all__)
