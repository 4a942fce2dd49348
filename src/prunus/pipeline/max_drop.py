"""The budget ``max_drop``: the smallest network whose accuracy falls by no more than the allowed share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from prunus.analysis import BATCH, Analysis
from prunus.errors import BudgetError
from prunus.foundation.registry import title_of
from prunus.measurement.interval import Interval
from prunus.measurement.quality import evaluate, paired_interval
from prunus.outcome import Recover, realise, recovery_of
from prunus.plans import Plan
from prunus.training import reestimate_statistics_

MAX_DROP = "max_drop"
_LEAST, _FINEST = 0.02, 0.02


@dataclass(frozen=True, slots=True)
class Tried:
    """One plan, and the drop of accuracy on the selection split after recovery, with its 95 % interval."""

    plan: Plan
    drop: Interval


def smallest_within(
    analysis: Analysis, allowed: float, plan_for: Callable[[float], Plan], recover: Recover = None
) -> Tried:
    """Return the most pruned plan whose drop stays within ``allowed`` with 97.5 % confidence.

    The drop is accuracy(dense) − accuracy(pruned and recovered) on the same samples of the selection split; its paired
    bootstrap interval must end at or below ``allowed``. The kept share is bisected down to steps of 0.02, so the answer
    is exact only if the drop grows when less is kept. The test split is not used.

    Args:
        analysis: the dense network and its data.
        allowed: share of accuracy, 0.01 is one point.
        plan_for: kept share → plan; may raise BudgetError, which counts as out of reach.
        recover: how every trial is trained; without it norm statistics are measured again.

    Raises:
        BudgetError: even the least pruned network that was tried drops more; the message says how much.
    """
    progress = analysis.progress
    dense = evaluate(analysis.user_model, analysis.selection.batches(BATCH), loss=title_of(analysis.loss)).correct
    low, high = _LEAST, 1.0
    best: Tried | None = None
    worst: Tried | None = None
    progress.start("max_drop", 6)
    while high - low > _FINEST:
        share = (low + high) / 2
        found = _tried(analysis, share, plan_for, dense, recover)
        progress.advance("max_drop")
        if found is not None and found.drop.high <= allowed:
            best, high = found, share
        else:
            low, worst = share, found or worst
    progress.finish("max_drop")
    if best is None:
        result = f"the least pruned that was tried drops {_said(worst.drop)}" if worst else "no plan was possible"
        raise BudgetError(
            f"Budget max_drop ≤ {allowed:.2%} cannot be met: {result} on {len(dense)} selection samples. Allow more, "
            "give recovery more steps, or give more selection data."
        )
    return best


def check_drop(analysis: Analysis, plan: Plan, allowed: float, recover: Recover = None) -> Tried:
    """Measure one plan against the allowed drop.

    Raises:
        BudgetError: it drops more.
    """
    dense = evaluate(analysis.user_model, analysis.selection.batches(BATCH), loss=title_of(analysis.loss)).correct
    found = _measured(analysis, plan, dense, recover)
    if found.drop.high > allowed:
        raise BudgetError(
            f"The plan meets its other budgets but drops {_said(found.drop)} of accuracy on {len(dense)} selection "
            f"samples; allowed is {allowed:.2%}. Raise one of the two."
        )
    return found


def with_drop(trial: Tried, allowed: float) -> Plan:
    """Return the plan with the allowed and the measured drop in its settings."""
    drop = trial.drop
    settings = {**trial.plan.settings, "measured_drop": [drop.estimate, drop.low, drop.high]}
    settings["budget"] = {**dict(settings.get("budget") or {}), MAX_DROP: allowed}
    return replace(trial.plan, settings=settings)


def _said(drop: Interval) -> str:
    return f"{drop.estimate:.2%} (95 % interval {drop.low:.2%} to {drop.high:.2%})"


def _tried(
    analysis: Analysis, share: float, plan_for: Callable[[float], Plan], dense: torch.Tensor, recover: Recover
) -> Tried | None:
    try:
        plan = plan_for(share)
    except BudgetError:
        return None
    return _measured(analysis, plan, dense, recover)


def _measured(analysis: Analysis, plan: Plan, dense: torch.Tensor, recover: Recover) -> Tried:
    options = recovery_of(recover, has_data=analysis.has_data)
    # A repair would take longer than the rest of a trial.
    small = realise(analysis, plan, repair=None, recover=options).model
    if options is None:
        reestimate_statistics_(small, analysis.calibration.batches(BATCH))
    quality = evaluate(small, analysis.selection.batches(BATCH), loss=title_of(analysis.loss))
    return Tried(plan, paired_interval(dense, quality.correct, seed=analysis.seed))
