"""The smallest network whose accuracy falls by no more than a person allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from prunus.errors import BudgetError, OptionError
from prunus.measurement.interval import Interval
from prunus.measurement.quality import evaluate, paired_interval
from prunus.methods.subject import BATCH
from prunus.parent import Parent, train_
from prunus.plans import Plan
from prunus.progress import Progress, Silent
from prunus.surgery.cut import operate
from prunus.surgery.tensors import sliced_masks
from prunus.training import reestimate_statistics_

MAX_DROP = "max_drop"
_LEAST, _FINEST = 0.02, 0.02


@dataclass(frozen=True, slots=True)
class Trial:
    """One plan and how far accuracy on the selection split fell after recovery, with its 95 % interval."""

    plan: Plan
    drop: Interval


def allowed_drop(value: object) -> float:
    """Return the number behind ``max_drop``.

    Raises:
        OptionError: not a share between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise OptionError(f"budget max_drop is {value!r}; allowed: a share of accuracy from 0 to 1, such as 0.01.")
    return float(value)


def smallest_within(
    parent: Parent, allowed: float, plan_for: Callable[[float], Plan], progress: Progress | None = None
) -> Trial:
    """Return the most pruned plan whose drop stays within ``allowed`` with 97.5 % confidence.

    The drop is accuracy(dense) − accuracy(pruned and recovered) on the same samples of the selection split; its paired
    bootstrap interval must end at or below ``allowed``. The kept share is bisected down to steps of 0.02, so the answer
    is exact only as far as the drop grows when less is kept. The test split is not looked at.

    Args:
        parent: the dense network and its data.
        allowed: share of accuracy, 0.01 is one point.
        plan_for: kept share → plan; may raise BudgetError, which counts as out of reach.
        progress: told of every trial.

    Raises:
        BudgetError: even the least pruned network that was tried drops more; says by how much.
    """
    progress = progress or Silent()
    dense = evaluate(parent.model, parent.data.selection.batches(BATCH), parent.data.classes).correct
    low, high = _LEAST, 1.0
    best: Trial | None = None
    worst: Trial | None = None
    progress.start("max_drop", 6)
    while high - low > _FINEST:
        share = (low + high) / 2
        found = _tried(parent, share, plan_for, dense)
        progress.advance("max_drop")
        if found is not None and found.drop.high <= allowed:
            best, high = found, share
        else:
            low, worst = share, found or worst
    progress.finish("max_drop")
    if best is None:
        told = f"the least pruned that was tried drops {_said(worst.drop)}" if worst else "no plan was possible"
        raise BudgetError(
            f"Budget max_drop ≤ {allowed:.2%} cannot be met: {told} on {len(dense)} selection samples. Allow more, "
            "give recovery more steps, or give more selection data."
        )
    return best


def check_drop(parent: Parent, plan: Plan, allowed: float) -> Trial:
    """Measure one plan against the allowed drop.

    Raises:
        BudgetError: it drops more.
    """
    dense = evaluate(parent.model, parent.data.selection.batches(BATCH), parent.data.classes).correct
    found = _measured(parent, plan, dense)
    if found.drop.high > allowed:
        raise BudgetError(
            f"The plan meets its other budgets but drops {_said(found.drop)} of accuracy on {len(dense)} selection "
            f"samples; allowed is {allowed:.2%}. Raise one of the two."
        )
    return found


def with_drop(trial: Trial, allowed: float) -> Plan:
    """Return the plan with what was allowed and measured in its settings."""
    drop = trial.drop
    settings = {**trial.plan.settings, "measured_drop": [drop.estimate, drop.low, drop.high]}
    settings["budget"] = {**dict(settings.get("budget") or {}), MAX_DROP: allowed}
    return replace(trial.plan, settings=settings)


def _said(drop: Interval) -> str:
    return f"{drop.estimate:.2%} (95 % interval {drop.low:.2%} to {drop.high:.2%})"


def _tried(parent: Parent, share: float, plan_for: Callable[[float], Plan], dense: torch.Tensor) -> Trial | None:
    try:
        plan = plan_for(share)
    except BudgetError:
        return None
    return _measured(parent, plan, dense)


def _measured(parent: Parent, plan: Plan, dense: torch.Tensor) -> Trial:
    small = _recovered(parent, plan)
    quality = evaluate(small, parent.data.selection.batches(BATCH), parent.data.classes)
    return Trial(plan, paired_interval(dense, quality.correct, seed=parent.subject.seed))


def _recovered(parent: Parent, plan: Plan) -> nn.Module:
    subject = parent.subject
    small, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    options = parent.recipe.recover.options()
    if options.steps:
        train_(small, parent.data, options, subject.seed, Silent(), "recover", sliced_masks(plan) or None)
    else:
        reestimate_statistics_(small, subject.calibration.batches(BATCH))
    return small
