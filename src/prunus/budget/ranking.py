"""Allocators that rank units: global, LAMP and isomorphic; the best units of a ranking stay, up to one threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.integer_repair import refill
from prunus.budget.spend_rest import top_up
from prunus.budget.width_grid import raised_least
from prunus.criteria.lamp import lamp_scores
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling
from prunus.graph.layout import atoms_of

_LEAST_SHARE = 0.1


def global_rank(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with s_u / mean_axis(s) ≥ t, with the smallest t that fits; at least floor_a units an axis.

    Each axis keeps at least a tenth of its units, so that no layer becomes the bottleneck of the network; where that
    does not fit, only its floor holds. A rest of the budget that is too small for the next unit goes to cheaper ones.
    Source: Fang et al., "DepGraph", arXiv:2301.12900 (normalised global ranking).
    """
    return keep_above(problem, {a: s / max(float(np.mean(s)), 1e-30) for a, s in problem.scores.items()})


def lamp(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with the highest LAMP scores of the whole network, with the lowest threshold that fits.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611 (for weights; here
    units).
    """
    return keep_above(problem, {a: lamp_scores(s) for a, s in problem.scores.items()})


def isomorphic(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the same share p of the units of every group of similar axes, the best of the group, with the largest p.

    Scores of layers of different kinds are never compared. A tenth of each axis stays where that fits.
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


def keep_above(problem: UnitProblem, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Keep the units with s ≥ t, with the smallest t that fits; the rest of the budget goes to the next best ones.

    Args:
        problem: the problem with its limits.
        scores: axis id → comparable scores of its units, best first.
    """
    least = guarded_least(problem)
    levels = np.unique(np.concatenate([*scores.values(), [np.inf]]))

    def counts(threshold: float) -> dict[str, int]:
        return {a: max(least[a], problem.snap(a, int(np.count_nonzero(s >= threshold)))) for a, s in scores.items()}

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if problem.fits(counts(levels[middle])) else (middle + 1, high)
    chosen = counts(levels[low])
    room = [a for a, s in scores.items() if chosen[a] < len(s)]
    return top_up(problem, chosen, sorted(room, key=lambda a: -float(scores[a][chosen[a]])))


def guarded_least(problem: UnitProblem) -> dict[str, int]:
    """Return the floors, raised to a tenth of each axis where the limits allow it.

    Scores predict badly how much it costs to remove nearly all of a layer, so they must not make a layer the bottleneck
    of the network.
    """
    return raised_least(problem, {a: int(_LEAST_SHARE * len(s)) for a, s in problem.scores.items()})


def isomorphic_groups(coupling: Coupling, axes: Iterable[str]) -> list[list[str]]:
    """Group axes that lie on the same kinds of parameters at the same positions.

    Two axes are similar if their members agree in class of the module, name of the parameter, dim, position of the axis
    within the dim, and kernel; of each kind, one member differs from several, but their number does not matter, so that
    residual streams of stages with different numbers of blocks are similar.
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
