"""Depth: residual branches go one at a time, always the one that the true loss misses least."""

from __future__ import annotations

from prunus.methods.reduction import SLACK, Reduction, droppable, trimmed, whole
from prunus.methods.replay import Replay
from prunus.methods.subject import Subject, method
from prunus.plans import Plan


@method("depth", "structure", "drop residual branches one at a time, each time the one the true loss misses least")
def plan_depth(subject: Subject, kept: float) -> Plan:
    """Make the network shallower by the true loss, then trim what is still above the budget.

    Source: own; blocks scored by the loss without them: Kim et al., "Shortened LLaMA: A Simple Depth Pruning for Large
    Language Models", arXiv:2402.02834.

    Args:
        subject: the network.
        kept: share of the metric that may stay.

    Raises:
        BudgetError: out of reach even with one unit an axis.
    """
    reduction, reasons = shallower(subject, subject.limit(kept).value)
    return trimmed(reduction, kept, reasons, method="depth")


def shallower(subject: Subject, limit: int) -> tuple[Reduction, dict[str, str]]:
    """Drop residual branches until ``limit`` of the metric is left, or the next one is more than has to go.

    Every round runs the network without each branch that is left, on the selection split, and drops
    argmin_b L(without b): single losses do not add up, so all are measured anew after each removal. Norm statistics
    stay as they are. Where the branch of least loss would leave clearly less than ``limit``, the rounds end: trimming
    units is the lesser loss.

    Args:
        subject: the network.
        limit: how much of the metric may stay.

    Returns:
        What is left, and branch id → why it went.
    """
    branches = [branch for branch in droppable(subject) if branch.kind == "residual"]
    reduction, replay, reasons = whole(subject), Replay(subject), dict[str, str]()
    subject.progress.start("depth", len(branches))
    while reduction.spent > limit:
        tried = {branch: smaller for branch in reduction.left(branches) if (smaller := reduction.without(branch))}
        losses = {branch: replay.loss(subject.selection, smaller.as_plan()) for branch, smaller in tried.items()}
        best = min(losses, key=lambda branch: (losses[branch], branch.id), default=None)
        if best is None or tried[best].spent < (1 - SLACK) * limit:
            break
        reduction = tried[best]
        reasons[best.id] = f"least loss of {len(losses)} branches: {losses[best]:.4g} without it"
        subject.progress.advance("depth")
    subject.progress.finish("depth")
    return reduction, reasons
