"""Allocators by shares in given proportions, uniform and ERK: the shares are as large as the limits allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prunus.budget.allocator import UnitProblem
from prunus.budget.spend_rest import top_up
from prunus.errors import BudgetError
from prunus.graph.coupling import Coupling


def uniform(problem: UnitProblem, /) -> dict[str, int]:
    """Keep n_a = max(floor_a, ⌊p·size_a⌋) with the largest p that fits; the rest goes to the largest remainders.

    Source: own.
    """
    return spread_shares(problem, dict.fromkeys(problem.scores, 1.0))


def erk(problem: UnitProblem, /) -> dict[str, int]:
    """Keep n_a ∝ size_a · Σ dims / Π dims over the weights on the axis, at most size_a, as many as the budget allows.

    Source: Evci et al., "Rigging the lottery", arXiv:1911.11134 (for weights; here units).
    """
    coupling = problem.cost.coupling
    return spread_shares(problem, {a: erk_proportion(_weights(coupling, a)) for a in problem.scores})


def spread_shares(problem: UnitProblem, proportions: Mapping[str, float]) -> dict[str, int]:
    """Keep n_a = max(floor_a, ⌊min(1, p·w_a)·size_a⌋) with the largest p that fits, then the largest remainders.

    The price is monotone in p, so bisection finds p; a second bisection finds how many of the ordered remainders fit.
    An axis that keeps all units leaves more to the others.

    Args:
        problem: sizes, floors and limits.
        proportions: axis id → w_a > 0.
    """
    sizes = {a: len(s) for a, s in problem.scores.items()}

    def target(a: str, p: float) -> float:
        return min(1.0, p * proportions[a]) * sizes[a]

    def counts(p: float) -> dict[str, int]:
        return {a: problem.snap(a, math.floor(target(a, p) + 1e-9)) for a in sizes}

    low, high = 0.0, 1.0 / min(proportions.values(), default=1.0)
    if problem.fits(counts(high)):
        return counts(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.fits(counts(middle)) else (low, middle)
    base = counts(low)
    room = [a for a in sizes if problem.above(a, base[a]) is not None]
    room.sort(key=lambda a: (math.floor(target(a, low)) - target(a, low), a))
    first, last = 0, len(room)
    while first < last:
        middle_index = (first + last + 1) // 2
        more = base | _raised(problem, base, room[:middle_index])
        first, last = (middle_index, last) if problem.fits(more) else (first, middle_index - 1)
    return top_up(problem, base | _raised(problem, base, room[:first]), [*room[first:], *room[:first]])


def erk_proportion(shapes: Sequence[Sequence[int]]) -> float:
    """Return Σ dims / Π dims of a weight; several weights count together: Σ Σ dims / Σ Π dims."""
    return sum(sum(s) for s in shapes) / sum(math.prod(s) for s in shapes)


def erk_counts(shapes: Mapping[str, Sequence[int]], keep_count: int) -> dict[str, int]:
    """Return the number of weights that each tensor keeps, ``keep_count`` in all.

    density_l = min(1, ε · Σ dims_l / Π dims_l), with ε such that the counts add up to ``keep_count``; largest
    remainders give integers.
    Source: Evci et al., "Rigging the lottery", arXiv:1911.11134 (Erdős–Rényi kernel).

    Raises:
        BudgetError: more weights than there are.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if not 0 <= keep_count <= sum(sizes.values()):
        raise BudgetError(f"keep_count is {keep_count:,}; allowed: 0 to {sum(sizes.values()):,}, all there are.")
    # A tensor requests ε · Σ dims weights; the full tensors are those with the least size per request.
    request = {name: float(sum(shape) or 1) for name, shape in shapes.items()}
    full: set[str] = set()
    for name in sorted(sizes, key=lambda name: sizes[name] / request[name]):
        rest = sum(w for other, w in request.items() if other not in full)
        scale = (keep_count - sum(sizes[other] for other in full)) / rest
        if scale * request[name] < sizes[name]:
            break
        full.add(name)
    left = keep_count - sum(sizes[name] for name in full)
    open_tensors = [name for name in sizes if name not in full]
    total = sum(request[name] for name in open_tensors)
    exact = {name: left * request[name] / total for name in open_tensors}
    counts = {name: sizes[name] if name in full else math.floor(exact[name] + 1e-9) for name in sizes}
    for name in sorted(open_tensors, key=lambda name: math.floor(exact[name] + 1e-9) - exact[name])[
        : keep_count - sum(counts.values())
    ]:
        counts[name] += 1
    return counts


def _raised(problem: UnitProblem, base: Mapping[str, int], axes: list[str]) -> dict[str, int]:
    return {a: problem.above(a, base[a]) or base[a] for a in axes}


def _weights(coupling: Coupling, axis: str) -> list[tuple[int, ...]]:
    infos = [coupling.graph.tensors[m.tensor] for m in coupling.axis(axis).members]
    shapes = {i.name: i.shape for i in infos if i.kind == "parameter"}
    matrices = [s for s in shapes.values() if len(s) > 1]
    return matrices or list(shapes.values())
