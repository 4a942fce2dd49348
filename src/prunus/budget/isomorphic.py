"""One ranking among units that play the same part: each kind of axis keeps the same share, ranked within the kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.integer_repair import refill
from prunus.budget.one_threshold import guarded_least
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling
from prunus.graph.layout import atoms_of


def isomorphic_groups(coupling: Coupling, axes: Iterable[str]) -> list[list[str]]:
    """Group axes that run through the same kinds of parameters in the same places.

    Two axes are alike if their members agree in class of the module, name of the parameter, dim, place of the axis
    within the dim, and kernel; "one" and "more than one" of a kind are told apart, further numbers are not, so that
    residual streams of stages with different numbers of blocks are still alike.
    """
    groups: dict[object, list[str]] = {}
    for name in axes:
        groups.setdefault(_form(coupling, coupling.axis(name)), []).append(name)
    return list(groups.values())


def _form(coupling: Coupling, axis: Axis) -> object:
    graph = coupling.graph
    parts: Counter[tuple[object, ...]] = Counter()
    for member in axis.members:
        info = graph.tensors[member.tensor]
        if info.kind == "parameter":
            path, _, leaf = member.tensor.rpartition(".")
            atoms = list(dict.fromkeys(atoms_of(member.expr)))
            place = (atoms.index(axis.atom), len(atoms)) if len(atoms) <= 4 else (0, 0)
            parts[graph.modules.get(path, ""), leaf, member.dim, place, info.shape[2:]] += 1
    return frozenset((part, min(n, 2)) for part, n in parts.items())


@ALLOCATORS.register("isomorphic")
def isomorphic(problem: UnitProblem, /) -> dict[str, int]:
    """Of every group of like axes keep the same share p of all units, the best of the group, with the largest p.

    Scores of layers that do different work are never compared. A tenth of each axis stays where that fits.
    Source: Fang et al., "Isomorphic pruning for vision models", arXiv:2407.04616.
    """
    least = guarded_least(problem)
    groups = isomorphic_groups(problem.cost.coupling, problem.scores)
    ranked = [(group, np.sort(np.concatenate([problem.scores[a] for a in group]))[::-1]) for group in groups]

    def counts(share: float) -> dict[str, int]:
        chosen = {}
        for group, scores in ranked:
            n = int(share * len(scores) + 1e-9)
            threshold = scores[n - 1] if n else np.inf
            # Equal scores at the threshold: no more than n units in all.
            ties = n - int(np.count_nonzero(scores > threshold))
            for a in group:
                here = int(np.count_nonzero(problem.scores[a] > threshold))
                extra = min(ties, int(np.count_nonzero(problem.scores[a] == threshold)))
                ties -= extra
                chosen[a] = max(least[a], problem.snap(a, here + extra))
        return chosen

    if problem.fits(counts(1.0)):
        return counts(1.0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.fits(counts(middle)) else (low, middle)
    return refill(problem, counts(low))
