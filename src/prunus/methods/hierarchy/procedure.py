"""The hierarchical procedure: evaluate, choose, prune and optimise level by level, from the network to the weight."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.errors import BudgetError, CaptureError, PlanError
from prunus.methods.hierarchy.assignment import (
    Assignment,
    assign,
    check_optimisation_has_data,
    check_strategy_has_data,
    divided,
)
from prunus.methods.hierarchy.choices import Chooser
from prunus.methods.hierarchy.evaluation import NodeEvaluation, damage_factors, evaluate
from prunus.methods.hierarchy.levels import DAMAGE, LAMP, SIZE, cut_units, drop_blocks, mask_weights
from prunus.methods.hierarchy.settings import AUTO, Division, Optimisation, check_strategy, settings_of
from prunus.methods.hierarchy.state import State, optimised
from prunus.methods.hierarchy.trials import trained_loss
from prunus.methods.hierarchy.values import ACTIVATION, GRADIENT, WEIGHT
from prunus.methods.masked_copy import live_axes
from prunus.methods.reduction import SLACK, droppable
from prunus.methods.weights import maskable
from prunus.plans import Plan
from prunus.tree import Tree
from prunus.tree.addresses import VALUES

BLOCK_SHARES = (0.75, 0.5)
"""The shares that blocks are tried to leave, besides all and the whole budget."""
UNIT_EXPONENTS = (0.25, 0.5, 0.75, 1.0)
"""Units are tried to leave spent^(1−e)·limit^e, besides all."""
WINDOW_SHARE = 0.5
PATIENCE = 2
FILLING = (1.0, 1.05, 1.1, 1.2, 1.4)
"""Multiples of a goal of units that are tried where whole units leave the budget unused."""
RANKINGS = {LAMP: "one ranking by LAMP", SIZE: "one ranking by |w|", DAMAGE: "one ranking by E[g²]·w²"}
PLAIN = ((WEIGHT, LAMP), (WEIGHT, SIZE), (GRADIENT, LAMP), (GRADIENT, DAMAGE), (ACTIVATION, LAMP))
"""Strategies and rankings of weights that are tried on the network with all blocks and units."""

Step = Callable[[State], State]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to prune a level, and the way in which it is finished for comparison."""

    name: str
    step: Step


@dataclass(frozen=True, slots=True, eq=False)
class Procedure:
    """The procedure on one network under one budget.

    Attributes:
        analysis: the dense network.
        limit: the budget of all levels together.
        assignment: the settings of nodes, with the tree.
        strategy: for nodes without their own.
        optimise: the optimisation after each level.
        rows: the evaluation of the nodes.
        factors: axis id → correction of its predicted damage by the evaluation.
        losses: the losses of plans that were tried.
        plain: strategy and ranking of the weights where a level is finished plainly for comparison.
    """

    analysis: Analysis
    limit: Limit
    assignment: Assignment
    strategy: str
    optimise: Optimisation
    rows: tuple[NodeEvaluation, ...]
    factors: Mapping[str, float] = field(default_factory=dict)
    losses: dict[tuple[Any, ...], float] = field(default_factory=dict)
    plain: tuple[str, str] = (WEIGHT, LAMP)

    @staticmethod
    def of(
        analysis: Analysis,
        limit: Limit,
        nodes: Any,
        strategy: str | None,
        divide: Any,
        optimise: Any,
    ) -> Procedure:
        """Divide the network, resolve the settings of nodes, and evaluate every node; options as a person gives them.

        Raises:
            SelectorError: a pattern that matches nothing.
            OptionError: a node that is given two methods, or a strategy that needs data where there are none.
        """
        chosen, after = check_strategy(strategy), Optimisation.of(optimise)
        check_strategy_has_data(analysis, chosen)
        check_optimisation_has_data(analysis, after)
        tree = divided(analysis, Division.of(divide))
        assignment = assign(analysis, tree, settings_of(nodes))
        for place in assignment.places:
            check_strategy_has_data(analysis, place.setting.strategy or "", f" of {place.pattern!r}")
        rows = evaluate(analysis, tree)
        return Procedure(analysis, limit, assignment, chosen, after, rows, damage_factors(analysis, tree, rows))

    @property
    def tree(self) -> Tree:
        """The tree of the network."""
        return self.assignment.tree

    def run(self) -> State:
        """Prune every level in turn.

        With data the share of every level, and where strategies are free their assignment, are those of least loss
        after a short recovery, with the lower levels finished plainly. Without data, units leave the geometric mean of
        what there is and the budget, and weights the rest.

        Raises:
            BudgetError: no candidate of a level fits.
        """
        progress = self.analysis.progress
        progress.start("hierarchical", 4 if self.analysis.masks_save else 2)
        alone = self._weights_alone()
        best = min(alone, key=lambda plain: alone[plain][0], default=self.plain)
        state = replace(self, plain=best)._pruned(State.of(self.analysis))
        progress.finish("hierarchical")
        if best in alone and alone[best][0] < self.loss(state.plan()):
            loss, single = alone[best]
            line = f"all levels: weights alone, strategy {best[0]}, {RANKINGS[best[1]]}: loss {loss:.4g} is less"
            return replace(single, lines=(*state.lines, line))
        return state

    def _weights_alone(self) -> dict[tuple[str, str], tuple[float, State]]:
        """Return strategy and ranking → the loss and the state if only weights, and what settings fix, were pruned.

        The best of them finishes the candidates of the levels above, and is what all levels together have to beat.
        """
        found: dict[tuple[str, str], tuple[float, State]] = {}
        if not (self.analysis.has_data and self.analysis.masks_save):
            return found
        free = self.strategy == AUTO
        for plain in PLAIN if free else [(self.strategy, ranking) for ranking in RANKINGS]:
            with contextlib.suppress(BudgetError, PlanError, CaptureError):  # the levels above the weights save more
                state = replace(self, plain=plain)._after_blocks(
                    drop_blocks(State.of(self.analysis), self.assignment, None)
                )
                found[plain] = (self.loss(state.plan()), state)
        return found

    def _pruned(self, state: State) -> State:
        state = self._blocks(state)
        state = self._units(optimised(state, self.optimise))
        if not self.analysis.masks_save:
            return state
        return self._weights(self._windows(optimised(state, self.optimise)))

    def _level(
        self, state: State, level: str, candidates: Sequence[Candidate], finish: Step, *, ordered: bool = True
    ) -> tuple[State, Candidate]:
        """Return the candidate whose finished network has the least loss, and the state after it; the first of ties.

        Candidates that are ordered by how much they remove end after `PATIENCE` of them in a row without a gain.
        """
        best: tuple[float, Candidate, State] | None = None
        tried: list[str] = []
        failed: BudgetError | PlanError | CaptureError | None = None
        judge, worse = self.analysis.has_data and len(candidates) > 1, 0
        for candidate in candidates:
            try:
                made = candidate.step(state)
                loss = self.loss(finish(made).plan()) if judge else 0.0
            except (BudgetError, PlanError, CaptureError) as error:  # out of reach, or no cut of this code
                failed = failed or error
                continue
            tried.append(f"{loss:.4g} with {candidate.name}")
            if best is None or loss < best[0]:
                best, worse = (loss, candidate, made), 0
            else:
                worse += 1
            if not judge or (ordered and worse == PATIENCE):
                break
        if ordered:
            self.analysis.progress.advance("hierarchical")
        if best is None:
            assert failed is not None
            raise failed
        why = f": loss after a short recovery {', '.join(tried)}" if judge else ""
        return best[2].with_line(f"{level}: {best[1].name}{why}"), best[1]

    def loss(self, plan: Plan) -> float:
        """Return the loss of a plan after a short recovery; equal plans are measured once."""
        parts = [*sorted(plan.axes.items()), *sorted(plan.masks.items())]
        key = (plan.drops, *((name, np.packbits(mask).tobytes()) for name, mask in parts))
        if key not in self.losses:
            self.losses[key] = trained_loss(self.analysis, plan)
        return self.losses[key]

    # Blocks

    def _blocks(self, state: State) -> State:
        spent, limit = state.spent(), self.limit.value
        goals: list[int | None] = [None]
        if self.analysis.has_data and droppable(self.analysis):
            goals += [*(int(share * spent) for share in BLOCK_SHARES if share * spent > limit), limit]
        return self._level(state, "block", [self._block_step(goal, spent) for goal in goals], self._after_blocks)[0]

    def _block_step(self, goal: int | None, spent: int) -> Candidate:
        name = "no more blocks dropped" if goal is None else f"blocks leaving {goal / max(1, spent):.0%}"
        return Candidate(name, lambda state: drop_blocks(state, self.assignment, goal))

    def _after_blocks(self, state: State) -> State:
        """Finish by weights alone; by units first where zeros save nothing, or where settings leave too few weights."""
        if self.analysis.masks_save:
            with contextlib.suppress(BudgetError):
                return self._finished_by_weights(self._plain_units(state, None))
        return self._finished_by_weights(self._plain_units(state, self.limit.value))

    def _plain_units(self, state: State, goal: int | None) -> State:
        if goal is not None and state.spent() <= goal:
            goal = None
        return self.units_left(state, self._quick, goal, self.factors)

    def _finished_by_weights(self, state: State) -> State:
        if not self.analysis.masks_save:
            return state
        return mask_weights(state, self.assignment, self._quick, self.limit, self.plain[1])

    # Units

    def _units(self, state: State) -> State:
        spent, limit = state.spent(), self.limit.value
        goals: list[int | None] = [None]
        if spent > limit and not self.analysis.masks_save:
            goals = [limit]
        elif spent > limit and not self.analysis.has_data:
            goals = [int((spent * limit) ** 0.5)]
        elif spent > limit:
            goals += [int(spent ** (1 - e) * limit**e) for e in UNIT_EXPONENTS]
        chosen = self._chooser.fixed_for_units(state.left(), live_axes(state.reduction))
        steps = [Candidate(_unit_name(goal, spent), self._unit_step(chosen, goal, self.factors)) for goal in goals]
        try:
            cut, step = self._level(state, "unit", steps, self._finished_by_weights)
        except BudgetError as error:
            try:
                return self._units_to_budget(state, chosen)
            except BudgetError:
                raise error from None
        goal = goals[steps.index(step)]
        if goal is None or not self._free_strategies:
            return cut
        others = [
            Candidate("the strategy of each node", self._unit_step(chosen, goal, self.factors)),
            *([Candidate("no correction by stages", self._unit_step(chosen, goal, {}))] if self.factors else []),
            *(
                Candidate(f"strategy {value} for all", self._unit_step(self._all(value), goal, self.factors))
                for value in VALUES
            ),
        ]
        again, _ = self._level(state, "unit strategies", others, self._finished_by_weights, ordered=False)
        return replace(again, lines=(*cut.lines, again.lines[-1]))

    def _units_to_budget(self, state: State, chooser: Chooser) -> State:
        """Remove units until the budget holds, even where settings of nodes leave it unused in part.

        Raises:
            BudgetError: the weights that settings fix exceed it all the same.
        """
        cut = cut_units(state, self.assignment, chooser, self.limit.value, self.factors)
        self._finished_by_weights(cut)
        return cut.with_line("unit: units alone meet the budget; settings of nodes leave the weights too little to do")

    def _unit_step(self, chooser: Chooser, goal: int | None, factors: Mapping[str, float]) -> Step:
        return lambda state: self.units_left(state, chooser, goal, factors)

    def units_left(self, state: State, chooser: Chooser, goal: int | None, factors: Mapping[str, float]) -> State:
        """Remove units down to a goal; where whole units would leave the budget unused, more stay for the weights.

        Raises:
            BudgetError: the goal is out of reach, or no number of units uses the budget.
        """
        open_ = any(name not in self.assignment.weights for name in maskable(self.analysis))
        least = (1 - SLACK) * self.limit.value if open_ else 0
        for more in FILLING if goal is not None and self.analysis.masks_save else (1.0,):
            made = cut_units(state, self.assignment, chooser, None if goal is None else int(goal * more), factors)
            if (
                goal is None
                or not self.analysis.masks_save
                or (made.spent() >= least and self._weights_can_follow(made))
            ):
                return made
        raise BudgetError(
            f"Budget {self.limit.metric} ≤ {self.limit.shown()}: units alone leave {self.limit.shown(made.spent())}, "
            "less than it allows, beside the settings of nodes. Give a smaller budget, or leave more to the weights."
        )

    def _weights_can_follow(self, state: State) -> bool:
        """Tell whether the weights that settings of nodes leave open are enough to meet the budget."""
        if not self.assignment.weights or state.spent() <= self.limit.value:
            return True
        try:
            self._finished_by_weights(state)
        except BudgetError:
            return False
        return True

    # Windows and weights

    def _windows(self, state: State) -> State:
        none = Candidate("no windows masked as a whole", lambda given: given)
        if not self.analysis.has_data or state.spent() <= self.limit.value:
            return self._level(state, "window", [none], lambda given: given)[0]
        some = Candidate(
            f"windows of 4 × 4 for {WINDOW_SHARE:.0%} of what is masked",
            lambda given: mask_weights(given, self.assignment, self._quick, self.limit, DAMAGE, windows=WINDOW_SHARE),
        )
        return self._level(state, "window", [none, some], self._finished_by_weights)[0]

    def _weights(self, state: State) -> State:
        chosen = self._chooser.fixed_for_weights(state.left(), list(maskable(self.analysis)))
        keys = tuple(RANKINGS) if self.analysis.has_data else (LAMP,)
        rankings = [Candidate(RANKINGS[key], self._weight_step(chosen, key)) for key in keys]
        masked, ranking = self._level(state, "weight", rankings, lambda given: given)
        if not self._free_strategies:
            return masked
        key = keys[rankings.index(ranking)]
        others = [
            Candidate("the strategy of each node", self._weight_step(chosen, key)),
            *(Candidate(f"strategy {value} for all", self._weight_step(self._all(value), key)) for value in VALUES),
        ]
        again, _ = self._level(state, "weight strategies", others, lambda given: given, ordered=False)
        return replace(again, lines=(*masked.lines, again.lines[-1]))

    def _weight_step(self, chooser: Chooser, ranking: str) -> Step:
        return lambda state: mask_weights(state, self.assignment, chooser, self.limit, ranking)

    # Choosers

    @property
    def _chooser(self) -> Chooser:
        return Chooser(self.assignment, self.strategy)

    @property
    def _quick(self) -> Chooser:
        if not self._free_strategies:
            return Chooser(self.assignment, self.strategy, tries=False)
        weights = dict.fromkeys(self.analysis.coupling.tensors, self.plain[0])
        why = ": the one of least loss where weights go alone"
        return Chooser(self.assignment, self.strategy, tries=False, chosen=weights, why=why)

    @property
    def _free_strategies(self) -> bool:
        return self.strategy == AUTO and self.analysis.has_data

    def _all(self, value: str) -> Chooser:
        parts = (*self.analysis.coupling.axes, *self.analysis.coupling.tensors)
        return Chooser(
            self.assignment,
            self.strategy,
            chosen=dict.fromkeys(parts, value),
            why=": the same for all nodes loses least",
        )


def _unit_name(goal: int | None, spent: int) -> str:
    return "no more units removed" if goal is None else f"units leaving {goal / max(1, spent):.0%} of what is there"


def plan_of(state: State, method: str, procedure: Procedure) -> Plan:
    """Return the plan of a finished procedure, with the evaluation and the record of its steps."""
    return state.plan(
        {
            "method": method,
            "hierarchy": list(state.lines),
            "evaluation": [row.plain() for row in procedure.rows],
        }
    )
