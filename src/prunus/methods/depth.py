"""Depth: drop residual branches one at a time, always the one whose removal raises the true loss least."""

from __future__ import annotations

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.masked_run import Replay
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, trimmed, whole
from prunus.plans import Plan


@method("depth", "structure", "drop residual branches one at a time, each time the one the true loss misses least")
def plan_depth(analysis: Analysis, limits: Limits) -> Plan:
    """Make the network shallower by the true loss, then trim units until the budget holds.

    Source: own; blocks scored by the loss without them: Kim et al., "Shortened LLaMA: A Simple Depth Pruning for Large
    Language Models", arXiv:2402.02834.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    reduction, reasons = shallower(analysis, limits[0].value)
    return trimmed(reduction, limits[0], reasons, method="depth")


def shallower(analysis: Analysis, limit: int) -> tuple[Reduction, dict[str, str]]:
    """Drop residual branches until ``limit`` of the metric is left, or the next one would remove more than needed.

    Every round runs the network without each remaining branch, on the selection split, and drops argmin_b L(without b):
    single losses do not add up, so all are measured again after each removal. Norm statistics stay unchanged. The
    rounds end where the branch of least loss would leave clearly less than ``limit``: trimming units then costs less.

    Args:
        analysis: the network.
        limit: amount of the metric that may stay.

    Returns:
        The reduced network, and branch id → why it was dropped.
    """
    branches = [branch for branch in droppable(analysis) if branch.kind == "residual"]
    reduction, replay, reasons = whole(analysis), Replay(analysis), dict[str, str]()
    analysis.progress.start("depth", len(branches))
    while reduction.spent > limit:
        tried = {branch: smaller for branch in reduction.left(branches) if (smaller := reduction.without(branch))}
        losses = {branch: replay.loss(analysis.selection, smaller.as_plan()) for branch, smaller in tried.items()}
        best = min(losses, key=lambda branch: (losses[branch], branch.id), default=None)
        if best is None or tried[best].spent < (1 - SLACK) * limit:
            break
        reduction = tried[best]
        reasons[best.id] = f"least loss of {len(losses)} branches: {losses[best]:.4g} without it"
        analysis.progress.advance("depth")
    analysis.progress.finish("depth")
    return reduction, reasons
