"""Build a `UnitProblem` from scores, limits and bounds, and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.bounds import Bound
from prunus.budget.limits import LATENCY, Limit
from prunus.budget.tied import with_ties
from prunus.cost.price import CostModel
from prunus.errors import BudgetError, OptionError
from prunus.plans import Cost


def unit_problem(
    cost: CostModel,
    scores: Mapping[str, np.ndarray],
    limit: Limit | Sequence[Limit],
    *,
    base: Mapping[str, np.ndarray] | None = None,
    floor: int = 1,
    bounds: Mapping[str, Bound] | None = None,
    damage: Mapping[str, np.ndarray] | None = None,
) -> UnitProblem:
    """Order the units by score and collect their limits.

    Args:
        cost: price model of the network.
        scores: axis id → one score a unit; only these axes are chosen. Ties keep the lower index.
        limit: one limit or several.
        base: axis id → units that are not removed yet (bool).
        floor: least number of units of an axis; `Axis.least` may be larger.
        bounds: axis id → bound of its width.
        damage: axis id → measured loss increase when it alone keeps 0, 1, … of its units, the best first.

    Raises:
        BudgetError: even the least allowed widths break a limit; names it and the axis that prevents less.
        OptionError: a bound leaves no width, or shrinks an axis that is held; a damage curve of another length.
        SelectorError: a bound on an axis that does not exist.
    """
    present = {a: np.asarray(m, bool) for a, m in (base or {}).items()}
    units: dict[str, np.ndarray] = {}
    for a, s in scores.items():
        alive = np.flatnonzero(present.get(a, np.ones(len(s), bool)))
        if len(alive):
            units[a] = alive[np.argsort(-np.asarray(s, float)[alive], kind="stable")]
    problem = UnitProblem(
        cost=cost,
        scores={a: np.asarray(scores[a], float)[index] for a, index in units.items()},
        limits=(limit,) if isinstance(limit, Limit) else tuple(limit),
        floor={a: min(max(floor, cost.coupling.axes[a].least), len(index)) for a, index in units.items()},
        fixed={a: int(m.sum()) for a, m in present.items() if a not in units},
        bounds=dict(bounds or {}),
        damage={a: d for a, d in (damage or {}).items() if a in units},
        units=units,
        present=present,
    )
    _check(problem)
    problem = with_ties(problem)
    if not problem.fits(problem.least):
        raise BudgetError(_unreachable(problem))
    return problem


def _check(problem: UnitProblem) -> None:
    for a, bound in problem.bounds.items():
        size = problem.cost.coupling.axis(a).size
        if a not in problem.scores and (bound.forced is not None or bound.ceiling is not None):
            raise OptionError(
                f"Axis {a!r} is frozen, but keeps fewer than its {size} units; unfreeze it, or keep all its units."
            )
    for a, curve in problem.damage.items():
        length = len(problem.scores[a]) + 1
        if np.shape(curve) != (length,) or not np.isfinite(curve).all():
            raise OptionError(
                f"The damage of axis {a!r} has shape {np.shape(curve)}; needed: {length} finite numbers, for keeping 0 "
                f"to {length - 1} units."
            )


def _unreachable(problem: UnitProblem) -> str:
    least = problem.price(problem.least)
    broken = next(limit for limit in problem.limits if not limit.holds(least))
    total = broken.of(problem.price({a: len(s) for a, s in problem.scores.items()}))
    name, share = _largest(problem, broken, least)
    return (
        f"Budget {broken.metric} ≤ {broken.shown()} cannot be met: the least reachable is "
        f"{broken.shown(broken.of(least))} of {broken.shown(total)}, of which {broken.shown(share)} lie in "
        f"{name!r}, which cannot shrink further. Raise the budget{_loosest(problem, broken, least)}."
    )


def _largest(problem: UnitProblem, limit: Limit, least: Cost) -> tuple[str, int]:
    terms = {"macs": problem.cost.macs, LATENCY: problem.cost.times}.get(limit.metric, problem.cost.params)
    amounts = problem.cost.amounts(terms, {**problem.fixed, **problem.kept(problem.least)})
    best = max(amounts, key=lambda owner: amounts[owner], default="")
    scale = problem.cost.item_bytes.get(best, 1) if limit.metric == "bytes" else 1
    amount = amounts.get(best, limit.of(least)) * scale
    graph = problem.cost.coupling.graph
    if limit.metric in ("macs", LATENCY) and best:
        best = graph.module_of(graph.node(best)) or best
    return best, amount


def _loosest(problem: UnitProblem, limit: Limit, least: Cost) -> str:
    """Return advice that names the axis whose bound costs most, or nothing where no bound matters."""
    saved = {
        a: limit.of(least) - limit.of(problem.price({**problem.least, a: problem.floor[a]}))
        for a in problem.bounds
        if a in problem.scores and problem.least[a] > problem.floor[a]
    }
    if not saved:
        return ""
    worst = max(saved, key=lambda a: saved[a])
    return (
        f", or loosen the limits of {worst!r}: it must keep {problem.least[worst]} of {len(problem.scores[worst])} "
        f"units, which holds {limit.shown(saved[worst])}"
    )
