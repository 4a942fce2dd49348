"""Scores + limits → which units stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunus.budget import global_rank, uniform  # noqa: F401  (enrols the allocators)
from prunus.budget.allocator import ALLOCATORS, Allocator, UnitProblem
from prunus.budget.limits import Limit
from prunus.errors import BudgetError
from prunus.measurement.price import CostModel
from prunus.plans import Cost


def fit_units(
    cost: CostModel,
    scores: Mapping[str, np.ndarray],
    limit: Limit | Sequence[Limit],
    *,
    allocator: str | Allocator = "uniform",
    base: Mapping[str, np.ndarray] | None = None,
    floor: int = 1,
) -> dict[str, np.ndarray]:
    """Choose the units that stay so that every limit holds.

    Args:
        cost: price of the network.
        scores: axis id → one score a unit; only these axes are touched. Higher stays; ties keep the lower index.
        limit: one limit or several.
        allocator: ``uniform``, ``global``, any enrolled name, or an allocator itself.
        base: units that are gone already (bool, True = still there); emptied axes stay empty.
        floor: least number of units an axis keeps.

    Returns:
        Axis id → bool keep mask, for every axis in ``scores`` or ``base``.

    Raises:
        BudgetError: even at the floor a limit does not hold; names the least reachable and what stands in the way.
    """
    limits = (limit,) if isinstance(limit, Limit) else tuple(limit)
    present = {a: np.asarray(m, bool) for a, m in (base or {}).items()}
    order: dict[str, np.ndarray] = {}
    for a, s in scores.items():
        alive = np.flatnonzero(present.get(a, np.ones(len(s), bool)))
        if len(alive):
            order[a] = alive[np.argsort(-np.asarray(s, float)[alive], kind="stable")]
    problem = UnitProblem(
        cost=cost,
        scores={a: np.asarray(scores[a], float)[index] for a, index in order.items()},
        limits=limits,
        floor={a: min(floor, len(index)) for a, index in order.items()},
        fixed={a: int(m.sum()) for a, m in present.items() if a not in order},
    )
    if not problem.fits(problem.floor):
        raise BudgetError(_unreachable(problem))
    divide = ALLOCATORS.get(allocator) if isinstance(allocator, str) else allocator
    counts = divide(problem)
    keep = dict(present)
    for a, index in order.items():
        mask = np.zeros(len(scores[a]), bool)
        mask[index[: counts[a]]] = True
        keep[a] = mask
    return keep


def _unreachable(problem: UnitProblem) -> str:
    least = problem.price(problem.floor)
    broken = next(limit for limit in problem.limits if not limit.holds(least))
    total = broken.of(problem.price({a: len(s) for a, s in problem.scores.items()}))
    name, share = _largest(problem, broken, least)
    return (
        f"Budget {broken.metric} ≤ {broken.value:,} cannot be met: the least reachable is {broken.of(least):,} "
        f"of {total:,}, of which {share:,} lie in {name!r}, which cannot shrink further. Raise the budget."
    )


def _largest(problem: UnitProblem, limit: Limit, least: Cost) -> tuple[str, int]:
    terms = problem.cost.macs if limit.metric == "macs" else problem.cost.params
    amounts = problem.cost.amounts(terms, {**problem.fixed, **problem.floor})
    best = max(amounts, key=lambda owner: amounts[owner], default="")
    scale = problem.cost.item_bytes.get(best, 1) if limit.metric == "bytes" else 1
    amount = amounts.get(best, limit.of(least)) * scale
    graph = problem.cost.coupling.graph
    if limit.metric == "macs" and best:
        best = graph.module_of(graph.node(best)) or best
    return best, amount
