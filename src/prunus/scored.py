"""Score once, solve many: one scored parent gives a plan for any budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunus.budget import Bound, Limit, fit_units
from prunus.budget.allocator import Allocator
from prunus.budget.limits import LATENCY
from prunus.criteria import UNIT_CRITERIA, comparable_scores, damage_curves
from prunus.errors import BudgetError, OptionError
from prunus.gauges import ENERGY, limits_of, solve_gauged
from prunus.graph.capture import capture, unwrap
from prunus.graph.coupling import Coupling, couple, opted_in
from prunus.measurement.energy import find_meter
from prunus.measurement.price import CostModel, cost_model
from prunus.ordinary import in_ordinary_mode
from prunus.planning import check_weights, make_plan, unit_criterion, unit_decisions
from prunus.plans import Plan
from prunus.progress import Progress
from prunus.selectors import bounds_on, ignored_axes
from prunus.timing import latency_model, widths_in_multiples
from prunus.tree import grow_tree

Budget = Mapping[str, float | int | str]
Bounds = Mapping[str, Bound | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scored:
    """A model analysed and scored; holds no module.

    Attributes:
        coupling: the analysis.
        cost: the exact price as a function of kept counts.
        scores: axis id → one score a unit, for axes that may be cut; higher stays.
        criterion: what scored them.
        held: axes that may not be cut.
        seed: of criteria that draw numbers.
        opt_in: what else may go: ``experts``, ``vocabulary``.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> parent = score(net, torch.randn(2, 8))
        >>> [parent.plan({"params": share}).after.params for share in (0.75, 0.5, 0.25)]
        [316, 212, 108]
    """

    coupling: Coupling
    cost: CostModel
    scores: Mapping[str, np.ndarray]
    criterion: str
    held: frozenset[str] = frozenset()
    seed: int = 0
    opt_in: tuple[str, ...] = ()

    def timed(
        self, model: nn.Module, example_inputs: Any, *, threads: int = 1, progress: Progress | None = None
    ) -> Scored:
        """Return the same parent with the ops of the model timed on this machine, for budgets of ``latency_ms``."""
        found = latency_model(model, self.coupling, example_inputs, threads=threads, progress=progress)
        return replace(self, cost=found.priced(self.cost))

    def plan(self, budget: Budget, *, allocator: str | Allocator = "uniform", bounds: Bounds | None = None) -> Plan:
        """Return the plan for a budget; nothing is scored again.

        Args:
            budget: as in `prunus.prune`.
            allocator: who gets how much, as in `prunus.prune`, or an allocator itself.
            bounds: limits of parts of the tree, as in `prunus.prune`.

        Raises:
            OptionError: an unknown metric or allocator.
            BudgetError: the budget is out of reach or met already.

        A budget of energy rests on the same share of MACs here; `prunus.prune` measures.
        """
        if LATENCY in budget and not self.cost.times:
            raise OptionError("A budget in milliseconds needs timed ops; use scored.timed(model, inputs) first.")
        if ENERGY in budget:
            find_meter()
        limits, gauged = limits_of(budget, self.cost.price())
        if not self.scores:
            raise BudgetError("Nothing can be removed from this model: no axis is free; loosen ignore.")
        chosen = widths_in_multiples(self.coupling, self.scores) if LATENCY in budget else {}
        chosen |= bounds_on(grow_tree(self.coupling), bounds) if bounds else {}

        ranks, damage = comparable_scores(self.scores), damage_curves(self.coupling, self.scores, self.criterion)

        def solve(limits: Sequence[Limit]) -> Plan:
            keep = fit_units(self.cost, ranks, limits, allocator=allocator, bounds=chosen, damage=damage)
            decisions = unit_decisions(keep, self.criterion)
            return make_plan(self.coupling, keep, decisions=decisions, settings=settings, cost=self.cost)

        settings = {
            "budget": plain(budget),
            "criterion": self.criterion,
            "allocator": allocator if isinstance(allocator, str) else getattr(allocator, "__name__", "custom"),
            "held": sorted(self.held),
            "seed": self.seed,
        }
        if self.opt_in:
            settings["opt_in"] = list(self.opt_in)
        if bounds:
            settings["bounds"] = plain_bounds(bounds)
        return solve_gauged(solve, limits, gauged, self.coupling, self.cost.price())


@in_ordinary_mode
def score(
    model: Any,
    example_inputs: Any,
    *,
    criterion: str = "magnitude",
    data: Iterable[Any] | None = None,
    ignore: Iterable[str] = (),
    seed: int = 0,
    opt_in: Iterable[str] = (),
) -> Scored:
    """Analyse a model and score its units once; `Scored.plan` then answers any budget.

    Args:
        model: any network that can be captured; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        criterion: how units are scored.
        data: batches (inputs, targets) for criteria that need them.
        ignore: modules to leave as they are: names, globs, ``re:`` patterns, class names.
        seed: for criteria that draw numbers.
        opt_in: what else may go, as in `prunus.prune`.

    Raises:
        UsageError: bad arguments, NaN weights, unknown names.
        CaptureError: the model cannot be captured.
    """
    model = unwrap(model)
    UNIT_CRITERIA.get(criterion)
    check_weights(model)
    names = tuple(opt_in)
    coupling = couple(capture(model, example_inputs), **opted_in(names))
    held = frozenset(ignored_axes(coupling, ignore))
    found = unit_criterion(model, coupling, criterion, data, seed)
    free = {a: s for a, s in found.items() if a not in held}
    return Scored(coupling, cost_model(coupling), free, criterion, held, seed, names)


def plain_bounds(bounds: Bounds) -> dict[str, Any]:
    """Return bounds that JSON can hold."""
    return {pattern: asdict(Bound.of(bound)) for pattern, bound in bounds.items()}


def plain(budget: Budget) -> dict[str, Any]:
    """Return a budget that JSON can hold."""
    return {metric: value.item() if isinstance(value, np.generic) else value for metric, value in budget.items()}
