"""A recipe's ``stages``: levels, criteria and recoveries under one budget, each on what the one before left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from prunus.budget import Limit
from prunus.errors import BudgetError
from prunus.export import undo
from prunus.jobs.stage_levels import LEVELS
from prunus.jobs.stage_wanted import stage_budget
from prunus.methods.reduction import Reduction, whole
from prunus.methods.subject import Subject
from prunus.methods.under import under
from prunus.parent import Parent
from prunus.planning import make_plan
from prunus.plans import Decision, Plan
from prunus.progress import Progress, Silent
from prunus.recovery import Case, recovered_
from prunus.schedules import kept_at
from prunus.selectors import bounds_on
from prunus.surgery.cut import operate
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, finetune_
from prunus.tree import grow_tree

if TYPE_CHECKING:
    from prunus.recipe import Stage

ROUNDS = 8
"""How often a schedule prunes, with training in between."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the stages so far have left, in the indices of the original network.

    Attributes:
        subject: the network in its original shapes; what stays has the weights learned so far.
        reduction: the branches that went.
        keep: axis id → units that stay.
        masks: weight name → weights that stay.
        decisions: what went, and why.
    """

    subject: Subject
    reduction: Reduction
    keep: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def plan(self) -> Plan:
        """Return the plan of all stages so far."""
        return make_plan(self.subject.coupling, self.keep, self.reduction.drops, self.masks, self.decisions,
                         cost=self.subject.cost)  # fmt: skip

    def spent(self) -> int:
        """Return what is left of the metric; weights at zero count as gone where they save something."""
        plan = self.plan()
        assert plan.after is not None
        gone = sum(int((~mask).sum()) for mask in self.masks.values()) if self.subject.metric == "params" else 0
        return self.subject.spent(plan.after) - gone

    def with_weights(self, model: nn.Module) -> State:
        """Return the same state with other weights; what was measured on the old ones is forgotten."""
        subject = replace(self.subject, model=model, memo={})
        return replace(self, subject=subject, reduction=replace(self.reduction, subject=subject))


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """What the stages came to: one plan in the original's indices, and the original with the weights learned meanwhile.

    Cutting ``model`` by ``plan`` gives the pruned network. ``lines`` tell the stages one by one.
    """

    plan: Plan
    model: nn.Module
    lines: tuple[str, ...]


def run_stages(parent: Parent, progress: Progress | None = None) -> Staged:
    """Go through the stages of a recipe.

    A stage with ``kept`` leaves that share of what it finds; the others divide what is left to do in equal ratios, and
    the last one meets the budget. With a schedule, a stage prunes in rounds and trains between them. Recovery trains
    the cut network; what it learned goes back into the original's shapes, where the next stage scores it.

    Raises:
        OptionError: a budget that stages do not know.
        BudgetError: a stage cannot take its part, or the budget is met already.
    """
    recipe, progress = parent.recipe, progress or Silent()
    limit = stage_budget(recipe, parent)
    bounds = bounds_on(grow_tree(parent.subject.coupling), recipe.prune.bounds) if recipe.prune.bounds else {}
    subject = under(parent.subject, limit.metric, bounds)
    start = whole(subject)
    state, lines = State(subject, start, start.keep), []
    progress.start("stages", len(recipe.stages))
    for index, stage in enumerate(recipe.stages):
        before = state.spent()
        goal = _goal(recipe.stages[index:], before, limit.value)
        state = _gradual(state, stage, before, goal, parent) if stage.steps else _pruned(state, stage, goal)
        lines.append(_line(index + 1, stage, before, state.spent(), limit.metric))
        if stage.recover is not None:
            state = _recovered(state, parent, stage)
        progress.advance("stages")
    progress.finish("stages")
    plan = state.plan()
    if state.spent() > limit.value:
        raise BudgetError(
            f"Budget {limit.metric} ≤ {limit.shown()} is not met: {limit.shown(state.spent())} are left after the last "
            "stage. Add a stage of units or weights."
        )
    settings = {"stages": lines, "budget": dict(recipe.prune.budget)}
    return Staged(replace(plan, settings={**plan.settings, **settings}), state.subject.model, tuple(lines))


def _goal(stages: tuple[Stage, ...], before: int, budget: int) -> int:
    """Return what the first of some stages has to leave."""
    if len(stages) == 1:
        return budget
    if stages[0].kept is not None:
        return max(budget, int(before * stages[0].kept))
    said = float(np.prod([stage.kept for stage in stages if stage.kept is not None]))
    silent = sum(stage.kept is None for stage in stages)
    ratio = min(1.0, budget / (before * said)) ** (1 / silent)
    return max(budget, int(before * ratio))


def _pruned(state: State, stage: Stage, goal: int) -> State:
    if state.spent() <= goal:
        return state
    return LEVELS[stage.level](state, stage, Limit(state.subject.metric, goal))


def _gradual(state: State, stage: Stage, before: int, goal: int, parent: Parent) -> State:
    """Reach a goal along a schedule, in rounds with training between; the last third trains at the final level."""
    steps = stage.steps or 0
    rounds = min(ROUNDS, steps)
    training = parent.recipe.recover.options()
    for number in range(1, rounds + 1):
        last = number == rounds
        level = goal if last else int(before * kept_at(str(stage.schedule), number / rounds, goal / before))
        state = _pruned(state, stage, max(goal, level))
        taken = steps * number // rounds - steps * (number - 1) // rounds
        options = replace(training, steps=taken, schedule="cosine" if last else "constant")
        state = _trained(state, parent, options, number)
    return state


def _trained(state: State, parent: Parent, options: TrainingOptions, number: int) -> State:
    plan, small = _cut(state)
    masks, seed = sliced_masks(plan) or None, parent.subject.seed + number
    finetune_(small, parent.data.train, options, masks=masks, seed=seed)
    return state.with_weights(undo(small, plan, state.subject.model))


def _recovered(state: State, parent: Parent, stage: Stage) -> State:
    assert stage.recover is not None
    wanted = stage.recover.over(parent.recipe.recover)
    options = wanted.recovery() or wanted
    plan, small = _cut(state)
    subject = state.subject
    recovered_(Case(small, parent.model, parent.data.train, parent.data.selection, options, sliced_masks(plan), plan,
                    subject.coupling, subject.example_inputs, subject.seed))  # fmt: skip
    return state.with_weights(undo(small, plan, subject.model))


def _cut(state: State) -> tuple[Plan, nn.Module]:
    plan, subject = state.plan(), state.subject
    return plan, operate(subject.model, subject.coupling, plan, subject.example_inputs)[0]


def _line(number: int, stage: Stage, before: int, after: int, metric: str) -> str:
    pace = f", {stage.schedule} over {stage.steps} steps" if stage.steps else ""
    what = stage.recover.model_dump(exclude_none=True) if stage.recover is not None else {}
    then = ", then recovered (" + ", ".join(f"{k} {v}" for k, v in what.items()) + ")" if what else ""
    return f"{number}. {stage.level} by {stage.way}: {before:,} → {after:,} {metric} ({after / before:.1%}){pace}{then}"
