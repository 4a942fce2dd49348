"""Key path: keep the most important path through the network, drop the branches beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.join_importance import GateImportance, Gates
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, savings, trimmed, whole
from prunus.plans import Plan
from prunus.tree import Branch
from prunus.tree.paths import key_path

_ROUNDS = 8
"""Most rounds; each drops at least this part of the excess at the start."""


@method("key-path", "structure", "keep the most important path from input to output, drop the branches beside it")
def plan_key_path(analysis: Analysis, limits: Limits) -> Plan:
    """Drop the branches beside the key path, least important per parameter first, until the budget is met.

    After every round importances and path are measured again on the reduced network; the path may change. When no
    branch beside it is left, branches on it are dropped, the least important first. A branch that would save more than
    needed stays; units are trimmed until the budget holds.

    Source: own; the importance of a gate: Molchanov et al., "Importance Estimation for Neural Network Pruning",
    arXiv:1906.10771.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    limit, branches, gates = limits[0].value, droppable(analysis), Gates(analysis)
    reduction = whole(analysis)
    share = (reduction.spent - limit) / _ROUNDS
    reasons: dict[str, str] = {}
    analysis.progress.start("key path", len(branches))
    while reduction.spent > limit and (candidates := reduction.left(branches)):
        following, why = _round(reduction, candidates, gates.importance(reduction), limit, share)
        if not why:
            break
        reasons |= why
        analysis.progress.advance("key path", len(why))
        reduction = following
    analysis.progress.finish("key path")
    return trimmed(reduction, limits[0], reasons, method="key-path")


def _round(
    reduction: Reduction, candidates: Sequence[Branch], importance: GateImportance, limit: int, share: float
) -> tuple[Reduction, dict[str, str]]:
    """Drop branches until ``share`` is removed, at least one; none where none fits."""
    bypassed = dict.fromkeys((edge for branch in reduction.dropped for edge in branch.edges), -math.inf)
    path = frozenset(key_path(reduction.analysis.coupling.graph, {**importance, **bypassed}))
    beside = [b for b in candidates if path.isdisjoint(b.edges)]
    on_it = [b for b in candidates if not path.isdisjoint(b.edges)]
    worth = {b.id: sum(importance[edge] for edge in b.edges) for b in candidates}
    saves = savings(reduction.analysis, candidates)
    for pool, place in ((beside, "beside the key path"), (on_it, "on the key path; nothing beside it could go")):
        pool.sort(key=lambda b: (worth[b.id] / max(1, saves[b.id]), b.id))
        smaller, taken, too_large = _drop(reduction, pool, worth, limit, share)
        if taken or too_large:
            return smaller, {
                b.id: f"{place}: gate importance {worth[b.id]:.3g} for {b.params:,} parameters" for b in taken
            }
    return reduction, {}


def _drop(
    reduction: Reduction, pool: Sequence[Branch], worth: Mapping[str, float], limit: int, share: float
) -> tuple[Reduction, list[Branch], bool]:
    """Drop branches from the front of the pool; also return True if one stayed because it saves more than needed."""
    start, taken, ceiling = reduction.spent, list[Branch](), math.inf
    for branch in pool:
        # It is worth more than a branch that would have met the budget alone, so trimming units costs less.
        if worth[branch.id] > ceiling:
            continue
        if branch not in reduction.left(pool) or (smaller := reduction.without(branch)) is None:
            continue
        if smaller.spent < (1 - SLACK) * limit:
            ceiling = min(ceiling, worth[branch.id])
            continue
        reduction = smaller
        taken.append(branch)
        if reduction.spent <= limit or start - reduction.spent >= share:
            break
    return reduction, taken, ceiling < math.inf
