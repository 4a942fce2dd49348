"""The branches that a cut can remove where forwards are kept."""

from __future__ import annotations

import numpy as np
from torch import nn

from prunus.errors import PlanError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, ModuleCall, Ref
from prunus.plans import Plan
from prunus.surgery.bypassing import silenced
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.tree import Branch, find_branches


def removable_branches(model: nn.Module, coupling: Coupling) -> tuple[Branch, ...]:
    """Return the branches that a cut can remove: no module can return zeros in the place of one that reads ids."""
    branches = find_branches(coupling)
    if coupling.forward is None:
        return branches
    readers = {call.path for call in coupling.graph.calls if not _reads_floats(coupling.graph, call)}
    return tuple(
        b
        for b in branches
        if readers.isdisjoint(name.rpartition(".")[0] for name in b.tensors) or _can_silence(model, coupling, b)
    )


def _reads_floats(graph: Graph, call: ModuleCall) -> bool:
    return any(isinstance(leaf, Ref) and graph.meta(leaf).dtype.is_floating_point for leaf in call.in_leaves)


def _can_silence(model: nn.Module, coupling: Coupling, branch: Branch) -> bool:
    axes = {name: np.zeros(coupling.axes[name].size, bool) for name in branch.axes}
    drops = () if branch.drop is None else (branch.drop,)
    try:
        edited = rewrite(coupling, axes, drops)
    except PlanError:
        return True  # needed by what stays, which a method finds out when it drops the branch
    try:
        silenced(model, coupling, Plan("", axes, {}, drops), edited)
    except PlanError:
        return False
    return True
