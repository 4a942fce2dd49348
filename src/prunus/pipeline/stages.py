"""Pruning in stages: levels, criteria and recoveries under one budget, each on the result of the one before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.data.batches import DataSource
from prunus.data.learning import learning_data
from prunus.errors import BudgetError, OptionError
from prunus.exporters import undo
from prunus.foundation import clock
from prunus.foundation.clock import NO_LIMIT, SECONDS_A_MINUTE, TimeLimit
from prunus.methods.reduction import whole
from prunus.pipeline.request import Request
from prunus.pipeline.stage_checks import round_recovery, stage_budget
from prunus.pipeline.stage_levels import LEVELS
from prunus.pipeline.stage_state import State
from prunus.pipeline.stage_training import pruned_while_training
from prunus.plans import Plan
from prunus.recovery import RECOVERY_METHODS, RecoveryOptions, RecoveryTask, recovered_
from prunus.recovery.method_names import AUTOPILOT
from prunus.surgery.cut import cut_with_record
from prunus.surgery.tensors import sliced_masks
from prunus.training import finetune_
from prunus.training.schedules import kept_at

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage

ROUNDS = 8
"""The number of prunings along a schedule, with training in between."""
_LEAST_MINUTES = 1e-6
"""The time of a round after the others spent all of it: one step."""


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """The result of all stages: one plan in the original's indices, and the original with the trained weights.

    Cutting ``model`` by ``plan`` gives the pruned network; it is None where no stage trained. ``lines`` describe
    the stages one by one.
    """

    plan: Plan
    model: nn.Module | None
    lines: tuple[str, ...]


def run_stages(analysis: Analysis, request: Request) -> Staged:
    """Carry out the stages of a request.

    A stage with ``kept`` leaves that share of its input; the others divide the rest of the reduction in equal ratios,
    and the last one meets the budget. With a schedule, a stage prunes in rounds and trains between them. Recovery
    trains the cut network; its weights are written back into the original's shapes, where the next stage scores them.

    Raises:
        OptionError: a budget that stages do not know.
        BudgetError: a stage cannot reach its goal, or the uncut network meets the budget.
    """
    progress = analysis.progress
    analysis = analysis.bounded(request.bounds)
    limit = stage_budget(analysis, request)
    dense, analysis = analysis, analysis.in_metric(limit.metric, threads=request.threads)
    start = whole(analysis)
    state, lines = State(analysis, start, start.keep), []
    progress.start("stages", len(request.stages))
    for index, stage in enumerate(request.stages):
        before = state.spent()
        goal = _goal(request.stages[index:], before, limit.value)
        if stage.strategy is not None:
            state = _by_strategy(state, dense.model, stage, goal, request)
        elif stage.trains:
            state = _gradual(state, dense.model, stage, before, goal, request)
        else:
            state = _pruned(state, stage, goal)
        lines.append(_line(index + 1, stage, before, state.spent(), limit.metric))
        if stage.recover is not None:
            state = _recovered(state, dense.model, stage, request)
        progress.advance("stages")
    progress.finish("stages")
    plan = state.plan()
    if state.spent() > limit.value:
        raise BudgetError(
            f"Budget {limit.metric} ≤ {limit.shown()} is not met: {limit.shown(state.spent())} are left after the last "
            "stage. Add a stage of units or weights."
        )
    learned = state.analysis.model if state.analysis.model is not dense.model else None
    return Staged(replace(plan, settings={**plan.settings, "stages": lines}), learned, tuple(lines))


def _goal(stages: tuple[Stage, ...], before: int, budget: int) -> int:
    """Return the cost that the first of some stages has to reach."""
    if len(stages) == 1:
        return budget
    if stages[0].kept is not None:
        return max(budget, int(before * stages[0].kept))
    product = float(np.prod([stage.kept for stage in stages if stage.kept is not None]))
    silent = sum(stage.kept is None for stage in stages)
    ratio = min(1.0, budget / (before * product)) ** (1 / silent)
    return max(budget, int(before * ratio))


def _pruned(state: State, stage: Stage, goal: int) -> State:
    if state.spent() <= goal:
        return state
    return LEVELS[stage.level](state, stage, Limit(state.analysis.metric, goal))


def _by_strategy(state: State, dense: nn.Module, stage: Stage, goal: int, request: Request) -> State:
    if state.spent() <= goal:
        return state
    data, limit = _learning(state.analysis)[0], Limit(state.analysis.metric, goal)
    return pruned_while_training(state, dense, stage, limit, data, round_recovery(stage, request))


def _gradual(state: State, dense: nn.Module, stage: Stage, before: int, goal: int, request: Request) -> State:
    """Prune to a goal along a schedule, in rounds with training between; the last third trains at the final level."""
    steps = stage.steps or 0
    rounds = ROUNDS if stage.minutes is not None else min(ROUNDS, steps)
    began = clock.seconds()
    training = round_recovery(stage, request)
    for number in range(1, rounds + 1):
        last = number == rounds
        level = goal if last else int(before * kept_at(str(stage.schedule), number / rounds, goal / before))
        state = _pruned(state, stage, max(goal, level))
        taken = steps * number // rounds - steps * (number - 1) // rounds
        options = replace(training, steps=taken, schedule="cosine" if last else "constant")
        state = _trained(state, dense, options, number, _limit(stage, began, number, rounds))
    return state


def _limit(stage: Stage, began: float, number: int, rounds: int) -> TimeLimit | None:
    """Return the time of a round's training: up to its equal share of the stage's minutes; None for steps.

    The time that plans and cuts take counts too, so a round gets what those before it left.
    """
    if stage.minutes is None:
        return None
    spent = clock.seconds() - began
    left = stage.minutes * number / rounds - spent / SECONDS_A_MINUTE
    return TimeLimit(max(left, _LEAST_MINUTES))


def _trained(
    state: State, dense: nn.Module, options: RecoveryOptions, number: int, limit: TimeLimit | None = None
) -> State:
    """Train for a round by the method of the recovery; the autopilot, which compares methods, learns from labels."""
    task = _task(state, dense, options, number)
    if options.method in (AUTOPILOT, "finetune"):
        finetune_(task.model, task.train, options.options(), masks=task.masks or None, seed=task.seed, limit=limit)
    else:
        method = RECOVERY_METHODS.get(options.method)
        if reason := method.unfit(task):
            raise OptionError(
                f"recover.method {options.method!r} cannot train between the rounds of a stage: {reason}."
            )
        if number == 1:
            task.check()
        training = options.options()
        if limit is not None:
            training = replace(training, steps=NO_LIMIT, schedule="constant")
        method.run(task, training, lambda done, steps: limit is not None and limit.over)
    return state.with_weights(undo(task.model, state.plan(), state.analysis.model))


def _recovered(state: State, dense: nn.Module, stage: Stage, request: Request) -> State:
    assert stage.recover is not None
    task = _task(state, dense, stage.recover.over(request.recover))
    recovered_(task)
    return state.with_weights(undo(task.model, state.plan(), state.analysis.model))


def _task(state: State, dense: nn.Module, options: RecoveryOptions, number: int = 0) -> RecoveryTask:
    """Return the recovery of the network as it is cut so far, with the dense network as teacher."""
    plan, small = _cut(state)
    analysis = state.analysis
    train, deciding = _learning(analysis)
    return RecoveryTask(
        small,
        dense,
        train,
        deciding,
        options,
        sliced_masks(plan),
        plan,
        analysis.coupling,
        analysis.example_inputs,
        analysis.seed + number,
    )


def _learning(analysis: Analysis) -> tuple[DataSource, DataSource]:
    """Return the training data and the held-out data of stages."""
    if analysis.given is None:
        raise OptionError("stages that train need data; give data=train_loader, or leave recover and steps out.")
    return learning_data(analysis.given.data, analysis.given.held_out)[:2]


def _cut(state: State) -> tuple[Plan, nn.Module]:
    plan, analysis = state.plan(), state.analysis
    return plan, cut_with_record(analysis.model, analysis.coupling, plan, analysis.example_inputs)[0]


def _line(number: int, stage: Stage, before: int, after: int, metric: str) -> str:
    length = f"{stage.steps} steps" if stage.steps else f"{stage.minutes:g} minutes" if stage.minutes else ""
    pace = f", {stage.schedule or 'its own schedule'} over {length}" if length else ""
    what = stage.recover.model_dump(exclude_none=True) if stage.recover is not None else {}
    then = ", then recovered (" + ", ".join(f"{k} {v}" for k, v in what.items()) + ")" if what else ""
    return f"{number}. {stage.level} by {stage.way}: {before:,} → {after:,} {metric} ({after / before:.1%}){pace}{then}"
