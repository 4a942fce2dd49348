"""Modular: score every branch of the network, keep the best, reconnect the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria import CriterionLike, criterion_name
from prunus.errors import OptionError
from prunus.foundation.defaults import DEFAULTS
from prunus.methods.branch_scores import GATE, branch_scores, branch_words
from prunus.methods.bridges import best_plan, reconnected
from prunus.methods.method import method
from prunus.methods.reconnect import module_runs
from prunus.methods.reduction import SLACK, Reduction, droppable, savings, trimmed, whole
from prunus.plans import Plan
from prunus.tree import Branch


@method(
    "modular",
    "structure",
    "score blocks and branches, keep the top share, reconnect the rest",
    options=("criterion",),
    criteria="modules",
    counts="modules",
    switches=("reconnect",),
)
def plan_modular(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    reconnect: str | None = None,
) -> Plan:
    """Keep the modules of highest score per amount of the budget's metric, as many as the budget allows.

    Modules are the branches of the network; score = gate importance in the dense network, or another criterion of
    `branch_scores`, / their amount of the budget's metric: parameters, MACs, bytes or time. They are dropped from the
    lowest score up, as in the greedy solution of a 0/1 knapsack; one that would save more than needed stays. Then
    dropped modules are exchanged for kept ones of less importance where the budget still holds. In place of a residual
    branch its identity or projection remains, in place of a segment of a concatenation the other segments. Units are
    trimmed until the budget holds.

    With ``reconnect``, modules are stages, blocks, recurrent layers and attentions of any network, and each is replaced
    by a bridge: ``identity``, ``pooling`` where resolution or width change, a ``projection`` fitted by ridge regression
    on calibration data, or the best of all (``auto``). They are ranked once by the rise of the true loss with their
    bridge for what it saves; each bridge is fitted on the network so far.

    Source: own; the importance of a gate: Molchanov et al., "Importance Estimation for Neural Network Pruning",
    arXiv:1906.10771.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.
        criterion: criterion of the branches; None is gate importance.
        reconnect: None drops branches; ``identity``, ``pooling``, ``projection`` or ``auto`` bridges modules.

    Raises:
        OptionError: the criterion scores no branches.
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    if reconnect is not None:
        if criterion is not None:
            raise OptionError(
                f"criterion {criterion_name(criterion)!r} ranks branches, and reconnect {reconnect!r} ranks modules by "
                "the loss with their bridge; leave one of the two out."
            )
        rounds = reconnected(analysis, module_runs(reconnect), limit=limits[0].value, again=False)
        return best_plan(analysis, rounds, limits[0], "modular")
    limit, branches, name = limits[0].value, droppable(analysis), criterion or GATE
    reduction = whole(analysis)
    reasons: dict[str, str] = {}
    if branches:
        worth = branch_scores(reduction, branches, name)
        reduction = exchanged(greedy(reduction, branches, worth, limit), branches, worth, limit)
        reasons = {
            b.id: f"low share of the score: {branch_words(name)} {worth[b.id]:.3g} for {b.params:,} parameters"
            for b in reduction.dropped
        }
    plan = trimmed(reduction, limits[0], reasons, method="modular")
    return replace(plan, settings={**plan.settings, "criterion": criterion_name(name)})


def greedy(reduction: Reduction, branches: Sequence[Branch], worth: Mapping[str, float], limit: int) -> Reduction:
    """Drop branches, least worth per amount saved first, none that would leave clearly less than ``limit``.

    Args:
        reduction: network to start from.
        branches: all candidates.
        worth: branch id → importance.
        limit: amount of the metric that may stay.
    """
    ceiling = math.inf
    saves = savings(reduction.analysis, branches)
    for branch in sorted(branches, key=lambda b: (worth[b.id] / max(1, saves[b.id]), b.id)):
        # It is worth more than a branch that would have met the budget alone, so trimming units costs less.
        if reduction.spent <= limit or worth[branch.id] > ceiling:
            continue
        if branch in reduction.left(branches) and (smaller := reduction.without(branch)) is not None:
            if smaller.spent >= (1 - SLACK) * limit:
                reduction = smaller
            else:
                ceiling = min(ceiling, worth[branch.id])
    return reduction


def exchanged(reduction: Reduction, branches: Sequence[Branch], worth: Mapping[str, float], limit: int) -> Reduction:
    """Restore dropped branches, those worth most first: if the budget allows, else in exchange for one worth less.

    The amount stays at most ``limit``, or at most the initial amount where that is more, and not clearly below
    ``limit``.
    """
    saves = savings(reduction.analysis, branches)
    most, least = max(limit, reduction.spent), (1 - SLACK) * limit
    for branch in sorted(reduction.dropped, key=lambda b: (-worth[b.id], b.id)):
        rest = [b for b in reduction.dropped if b is not branch]
        others = [b for b in reduction.left(branches) if worth[b.id] < worth[branch.id] and not branch.holds(b)]
        others.sort(key=lambda b: (worth[b.id], b.id))
        room = most - reduction.spent
        for swap in ([], *([other] for other in others)):
            # The sum of single savings is exact unless branches share a consumer; this check avoids most rewrites.
            if saves[branch.id] > room + sum(saves[b.id] for b in swap):
                continue
            candidate = Reduction.of(reduction.analysis, [*rest, *swap])
            if candidate is not None and least <= candidate.spent <= most:
                reduction = candidate
                break
    return reduction
