"""Depth: drop residual branches one at a time, always the one whose removal raises the true loss least, or by score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria import CriterionLike, criterion_name
from prunus.foundation.defaults import DEFAULTS
from prunus.methods.branch_scores import branch_scores, branch_words
from prunus.methods.masked_run import Replay
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, trimmed, whole
from prunus.plans import Plan


@method(
    "depth",
    "structure",
    "drop residual branches one at a time, each time the one the true loss misses least",
    options=("criterion",),
    criteria="modules",
)
def plan_depth(analysis: Analysis, limits: Limits, *, criterion: CriterionLike | None = DEFAULTS.criterion) -> Plan:
    """Make the network shallower by the true loss, or by a criterion, then trim units until the budget holds.

    Source: own; blocks scored by the loss without them: Kim et al., "Shortened LLaMA: A Simple Depth Pruning for Large
    Language Models", arXiv:2402.02834.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.
        criterion: criterion of the branches, see `branch_scores`; None is the loss without the branch.

    Raises:
        OptionError: the criterion scores no branches.
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    reduction, reasons = shallower(analysis, limits[0].value, criterion)
    plan = trimmed(reduction, limits[0], reasons, method="depth")
    return (
        plan if criterion is None else replace(plan, settings={**plan.settings, "criterion": criterion_name(criterion)})
    )


def shallower(
    analysis: Analysis,
    limit: int,
    criterion: CriterionLike | None = None,
    *,
    start: Reduction | None = None,
    keep: Mapping[str, np.ndarray] | None = None,
) -> tuple[Reduction, dict[str, str]]:
    """Drop residual branches until ``limit`` of the metric is left, or the next one would remove more than needed.

    Every round runs the network without each remaining branch, on the selection split, and drops argmin_b L(without b):
    single losses do not add up, so all are measured again after each removal. With a criterion every round scores the
    remaining branches of the network so far, and drops the lowest. Norm statistics stay unchanged. The rounds end where
    the chosen branch would leave clearly less than ``limit``: trimming units then costs less.

    Args:
        analysis: the network.
        limit: amount of the metric that may stay.
        criterion: criterion of the branches; None is the loss.
        start: the network so far; None is the whole one.
        keep: axis id → units that stay, where some are removed already.

    Returns:
        The reduced network, and branch id → why it was dropped.
    """
    branches, kept = [branch for branch in droppable(analysis) if branch.kind == "residual"], keep or {}
    reduction, replay, reasons = start or whole(analysis), Replay(analysis), dict[str, str]()
    analysis.progress.start("depth", len(branches))
    while reduction.spent_with(kept) > limit:
        tried = {branch: smaller for branch in reduction.left(branches) if (smaller := reduction.without(branch))}
        if criterion is None:
            values = {b: replay.loss(analysis.selection, smaller.as_plan(kept)) for b, smaller in tried.items()}
        else:
            scores = branch_scores(reduction, list(tried), criterion, kept)
            values = {branch: scores[branch.id] for branch in tried}
        best = min(values, key=lambda branch: (values[branch], branch.id), default=None)
        if best is None or tried[best].spent_with(kept) < (1 - SLACK) * limit:
            break
        reduction = tried[best]
        what = f"{values[best]:.4g} without it" if criterion is None else f"{values[best]:.4g}"
        reasons[best.id] = f"least {_words(criterion)} of {len(values)} branches: {what}"
        analysis.progress.advance("depth")
    analysis.progress.finish("depth")
    return reduction, reasons


def _words(criterion: CriterionLike | None) -> str:
    return "loss" if criterion is None else branch_words(criterion)
