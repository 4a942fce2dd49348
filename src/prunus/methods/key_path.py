"""Key path: keep the most important path through the network, drop the branches beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.errors import OptionError
from prunus.methods.join_importance import GateImportance, Gates
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, savings, trimmed, whole
from prunus.plans import Plan
from prunus.training.schedules import DECAY
from prunus.tree import Branch
from prunus.tree.given_path import above_gradient, check_divides, on_path
from prunus.tree.paths import key_path as best_path

KeyPath = Sequence[str] | Mapping[str, float]
"""Names of modules in order, or ``{"gradient": τ}``."""
_ROUNDS = 8
"""Most rounds; each drops at least this part of the excess at the start."""


@method(
    "key-path",
    "structure",
    "keep the most important path from input to output, drop the branches beside it",
    switches=("key_path",),
)
def plan_key_path(analysis: Analysis, limits: Limits, *, key_path: KeyPath | None = None) -> Plan:
    """Drop the branches beside the key path, least important per parameter first, until the budget is met.

    After every round importances and path are measured again on the reduced network; the path may change. When no
    branch beside it is left, branches on it are dropped, the least important first. A branch that would save more than
    needed stays; units are trimmed until the budget holds.

    A path that is given, or found by gradient, is fixed: every branch beside it that can go goes, whatever the budget;
    then units are trimmed if the network is still above it.

    Source: own; the importance of a gate: Molchanov et al., "Importance Estimation for Neural Network Pruning",
    arXiv:1906.10771.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.
        key_path: None finds it by importance; a list of modules gives it; ``{"gradient": 0.01}`` puts the branches with
            |g| > τ on it, |g| = √E[(∂ℓ/∂γ)²] of their gate: in the order of the program, each lowers τ to 0.9 τ.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
        OptionError: a path that is no path, or a threshold that leaves nothing on the path, or nothing beside it.
    """
    if key_path is not None:
        return _fixed(analysis, limits, key_path)
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


def check_key_path(value: object) -> None:
    """Refuse a value that gives no path.

    Raises:
        OptionError: neither a list of names nor ``{"gradient": τ}`` with τ above 0.
    """
    if isinstance(value, Mapping):
        level = value.get("gradient")
        number = isinstance(level, int | float) and not isinstance(level, bool)
        if number and set(value) == {"gradient"} and 0 < float(level or 0) < math.inf:
            return
    elif isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return
    raise OptionError(
        f"key_path is {value!r}; allowed: a list of modules, ['stem', 'layer1', 'head'], or {{'gradient': 0.01}}."
    )


def _fixed(analysis: Analysis, limits: Limits, given: KeyPath) -> Plan:
    """Drop every branch that can go and is not on a fixed path, then trim units."""
    check_key_path(given)
    branches, reduction = droppable(analysis), whole(analysis)
    if isinstance(given, Mapping):
        if not branches:
            raise OptionError(
                f"key_path is {dict(given)!r}, and the network has no branch that it can do without, so there is no "
                "path to choose; leave key_path out."
            )
        importance = Gates(analysis).importance(reduction)
        slopes = [(b.id, math.sqrt(sum(importance[edge] for edge in b.edges))) for b in branches]
        stay = above_gradient(slopes, float(given["gradient"]), DECAY)
        why = f"|g| at or below the threshold {given['gradient']:g}"
        check_divides(slopes, stay, f"key_path is {dict(given)!r}")
    else:
        stay, why = on_path(analysis.coupling.graph, branches, list(given)), "beside the given key path"
    for branch in branches:
        smaller = reduction.without(branch) if branch.id not in stay and branch in reduction.left(branches) else None
        reduction = smaller or reduction
    return trimmed(reduction, limits[0], {b.id: why for b in reduction.dropped}, method="key-path")


def _round(
    reduction: Reduction, candidates: Sequence[Branch], importance: GateImportance, limit: int, share: float
) -> tuple[Reduction, dict[str, str]]:
    """Drop branches until ``share`` is removed, at least one; none where none fits."""
    bypassed = dict.fromkeys((edge for branch in reduction.dropped for edge in branch.edges), -math.inf)
    path = frozenset(best_path(reduction.analysis.coupling.graph, {**importance, **bypassed}))
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
