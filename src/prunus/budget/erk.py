"""ERK: small layers stay dense, large ones give more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.proportional import spread_shares
from prunus.errors import BudgetError
from prunus.graph.coupling import Coupling


def erk_proportion(shapes: Sequence[Sequence[int]]) -> float:
    """Return Σ dims / Π dims of a weight; several weights count together: Σ Σ dims / Σ Π dims."""
    return sum(sum(s) for s in shapes) / sum(math.prod(s) for s in shapes)


def erk_counts(shapes: Mapping[str, Sequence[int]], keep_count: int) -> dict[str, int]:
    """Return how many weights each tensor keeps, ``keep_count`` in all.

    density_l = min(1, ε · Σ dims_l / Π dims_l); what a tensor that is full cannot take goes to the others; fractions
    go to the largest remainders.
    Source: Evci et al., "Rigging the lottery", arXiv:1911.11134 (Erdős–Rényi kernel).

    Raises:
        BudgetError: more weights than there are.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if not 0 <= keep_count <= sum(sizes.values()):
        raise BudgetError(f"keep_count is {keep_count:,}; allowed: 0 to {sum(sizes.values()):,}, all there are.")
    # A tensor's wish is ε · Σ dims weights; the full ones are those with the least size per wish.
    wish = {name: float(sum(shape) or 1) for name, shape in shapes.items()}
    full: set[str] = set()
    for name in sorted(sizes, key=lambda name: sizes[name] / wish[name]):
        rest = sum(w for other, w in wish.items() if other not in full)
        scale = (keep_count - sum(sizes[other] for other in full)) / rest
        if scale * wish[name] < sizes[name]:
            break
        full.add(name)
    left = keep_count - sum(sizes[name] for name in full)
    open_ = [name for name in sizes if name not in full]
    total = sum(wish[name] for name in open_)
    exact = {name: left * wish[name] / total for name in open_}
    counts = {name: sizes[name] if name in full else math.floor(exact[name] + 1e-9) for name in sizes}
    for name in sorted(open_, key=lambda name: math.floor(exact[name] + 1e-9) - exact[name])[
        : keep_count - sum(counts.values())
    ]:
        counts[name] += 1
    return counts


@ALLOCATORS.register("erk")
def erk(problem: UnitProblem, /) -> dict[str, int]:
    """n_a ∝ size_a · Σ dims / Π dims over the weights that the axis runs through, clipped to size_a, to the budget.

    Source: Evci et al., "Rigging the lottery", arXiv:1911.11134 (for weights; here units).
    """
    coupling = problem.cost.coupling
    return spread_shares(problem, {a: erk_proportion(_weights(coupling, a)) for a in problem.scores})


def _weights(coupling: Coupling, axis: str) -> list[tuple[int, ...]]:
    infos = [coupling.graph.tensors[m.tensor] for m in coupling.axis(axis).members]
    shapes = {i.name: i.shape for i in infos if i.kind == "parameter"}
    matrices = [s for s in shapes.values() if len(s) > 1]
    return matrices or list(shapes.values())
