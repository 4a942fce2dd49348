"""prunus: hierarchical pruning for any PyTorch network; smaller, faster, proved, explained."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus.citation import cite
    from prunus.comparison import compare
    from prunus.export import load, save
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.measuring import measure
    from prunus.pipeline import apply, plan, prune
    from prunus.pruner import Pruner, PrunerOptions
    from prunus.recovering import recover_
    from prunus.repair import repair_
    from prunus.scored import score
    from prunus.shrinking import shrink
    from prunus.surgery.verify import verify
    from prunus.tree import grow_tree

_HOMES = {
    "prune": "prunus.pipeline",
    "capture": "prunus.graph.capture",
    "couple": "prunus.graph.coupling",
    "plan": "prunus.pipeline",
    "apply": "prunus.pipeline",
    "verify": "prunus.surgery.verify",
    "measure": "prunus.measuring",
    "compare": "prunus.comparison",
    "save": "prunus.export",
    "load": "prunus.export",
    "shrink": "prunus.shrinking",
    "repair_": "prunus.repair",
    "recover_": "prunus.recovering",
    "Pruner": "prunus.pruner",
    "PrunerOptions": "prunus.pruner",
    "score": "prunus.scored",
    "grow_tree": "prunus.tree",
    "cite": "prunus.citation",
}

__all__ = [
    "Pruner",
    "PrunerOptions",
    "apply",
    "capture",
    "cite",
    "compare",
    "couple",
    "grow_tree",
    "load",
    "measure",
    "plan",
    "prune",
    "recover_",
    "repair_",
    "save",
    "score",
    "shrink",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import prunus`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
