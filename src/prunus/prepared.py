"""A request for a plan, and a model made ready to answer it for any limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunus.budget import ALLOCATORS, Bound, Limit, fit_units
from prunus.budget.allocator import Allocator
from prunus.budget.limits import LATENCY
from prunus.budget.weights import WEIGHT_ALLOCATORS
from prunus.criteria import UNIT_CRITERIA, comparable_scores, damage_curves, probes_for
from prunus.errors import BudgetError, OptionError, nearest
from prunus.gauges import ENERGY, energy_share, limits_of, solve_gauged, split_budget
from prunus.graph.coupling import Coupling, couple, opted_in
from prunus.graph.parts import Captured, capture_or_parts
from prunus.measurement.batches import device_of
from prunus.measurement.energy import find_meter
from prunus.measurement.price import CostModel, cost_model
from prunus.methods.obs_units import ByLevels, Levels, level_decisions
from prunus.methods.unlabelled import affordable_levels, levels_of_data
from prunus.planning import check_weights, make_plan, unit_criterion, unit_decisions
from prunus.plans import Decision, Plan
from prunus.scored import Bounds, Budget, plain, plain_bounds
from prunus.selectors import bounds_on, ignored_axes
from prunus.surgery.draws import draws
from prunus.timing import latency_model, widths_in_multiples
from prunus.tree import grow_tree
from prunus.weight_level import unit_share, weight_masks

LEVELS = ("unit", "weight")
MAGNITUDE = "magnitude"
OBS = "obs-units"
"""A criterion that is no function of one unit: group OBS, and levels measured on data."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks of `prunus.prune`; the meaning of each field stands there.

    Raises:
        OptionError: a name or value that is not allowed.
    """

    budget: Budget
    criterion: str | None
    levels: Sequence[str]
    data: Iterable[Any] | None
    ignore: Sequence[str]
    seed: int
    allocator: str | Allocator | None
    bounds: Bounds | None
    opt_in: Sequence[str]

    def __post_init__(self) -> None:
        _check_levels(self.levels, self.budget)
        _check_ignore(self.ignore)
        self._check_criterion()
        if isinstance(self.allocator, str) and self.allocator not in WEIGHT_ALLOCATORS:
            ALLOCATORS.get(self.allocator)
        opted_in(self.opt_in)

    def _check_criterion(self) -> None:
        if self.criterion is None:
            return
        if not isinstance(self.criterion, str) or (self.criterion != OBS and self.criterion not in UNIT_CRITERIA):
            names = (OBS, *UNIT_CRITERIA.names())
            close = nearest(str(self.criterion), names)
            raise OptionError(f"criterion {self.criterion!r} is unknown.{close} Allowed: {', '.join(names)}.")
        if self.criterion != OBS:
            return
        if self.data is None:
            raise OptionError(f"criterion {OBS!r} needs data=batches of inputs, with or without targets; give some.")

    def settings(self) -> dict[str, Any]:
        """Return what a plan remembers of it."""
        found: dict[str, Any] = {
            "budget": plain(self.budget),
            "criterion": self.criterion,
            "levels": list(self.levels),
            "ignore": list(self.ignore),
            "seed": self.seed,
        }
        if self.allocator is not None:
            found["allocator"] = self.allocator if isinstance(self.allocator, str) else type(self.allocator).__name__
        if self.opt_in:
            found["opt_in"] = list(self.opt_in)
        if self.bounds:
            found["bounds"] = plain_bounds(self.bounds)
        return found


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model captured, coupled, priced and scored once; `solve` answers for any limits."""

    request: Request
    model: nn.Module
    captured: Captured
    coupling: Coupling
    cost: CostModel
    limits: tuple[Limit, ...]
    scores: Mapping[str, np.ndarray]
    bounds: Mapping[str, Bound]
    levels: Levels | None = None

    @property
    def criterion(self) -> str:
        """How the units were scored: as asked, else by measured levels where there are data, else by magnitude."""
        return OBS if self.levels is not None else self.request.criterion or MAGNITUDE

    def solve(self, limits: Sequence[Limit] | None = None) -> Plan:
        """Return the plan for the request's limits, or for others; memory is held in any case."""
        gauged = split_budget(self.request.budget)[1]
        return solve_gauged(self._solve, limits or self.limits, gauged, self.coupling, self.cost.price())

    def _solve(self, limits: Sequence[Limit]) -> Plan:
        wanted, before = tuple(limits), self.cost.price()
        request, weights = self.request, "weight" in self.request.levels
        keep: dict[str, np.ndarray] = {}
        decisions: list[Decision] = []
        if "unit" in request.levels:
            shared = tuple(unit_share(limit, before) for limit in wanted) if weights else wanted
            keep, decisions = self._units(shared)
        masks = {}
        if weights:
            named = request.allocator if isinstance(request.allocator, str) else None
            masks = weight_masks(self.model, self.coupling, keep, wanted, request.ignore, named)
        return make_plan(
            self.coupling, keep, masks=masks, decisions=decisions, cost=self.cost,
            settings={**request.settings(), "criterion": self.criterion},
        )  # fmt: skip

    def _units(self, limits: Sequence[Limit]) -> tuple[dict[str, np.ndarray], list[Decision]]:
        scores, asked, levels = comparable_scores(self.scores), self.request.allocator, self.levels
        if levels is not None:
            allocator = asked or ByLevels(levels.damage)
            found = fit_units(self.cost, scores, limits, allocator=allocator, bounds=self.bounds, damage=levels.damage)
            return found, level_decisions(found, levels)
        damage = damage_curves(self.coupling, self.scores, self.criterion)
        found = fit_units(self.cost, scores, limits, allocator=asked or "uniform", bounds=self.bounds, damage=damage)
        return found, unit_decisions(found, self.criterion)


def prepare(model: nn.Module, example_inputs: Any, request: Request) -> Prepared:
    """Capture and couple once, price, score, and time the ops where the budget is in milliseconds.

    Raises:
        UsageError: NaN weights, unknown names.
        CaptureError: the model cannot be captured.
        BudgetError: nothing is removable, or the budget is met already.
    """
    check_weights(model)
    if ENERGY in request.budget:
        energy_share(request.budget[ENERGY])
        find_meter(device_of(model))
    captured = capture_or_parts(model, example_inputs)
    _check_parts(captured, request.criterion)
    coupling = couple(captured.graph, **opted_in(request.opt_in))
    held = ignored_axes(coupling, request.ignore) if request.ignore else set()
    free = [a for a in coupling.axes if a not in held]
    if "unit" in request.levels and not free:
        raise BudgetError(_nothing_removable(coupling, request.ignore))
    cost = cost_model(coupling)
    bounds = bounds_on(grow_tree(coupling), request.bounds) if request.bounds else {}
    if LATENCY in request.budget:
        cost = latency_model(captured.model, coupling, captured.inputs, seed=request.seed).priced(cost)
        bounds = {**widths_in_multiples(coupling, free), **bounds}
    limits, _ = limits_of(request.budget, cost.price())
    if "unit" not in request.levels:
        return Prepared(request, model, captured, coupling, cost, limits, {}, bounds)
    if _by_levels(request, captured, coupling, cost):
        assert request.data is not None
        levels = levels_of_data(
            captured.model, captured.inputs, coupling, request.data, cost=cost, seed=request.seed, held=held
        )
        return Prepared(request, model, captured, coupling, cost, limits, levels.scores, bounds, levels)
    found = unit_criterion(model, coupling, request.criterion or MAGNITUDE, request.data, request.seed)
    return Prepared(request, model, captured, coupling, cost, limits, {a: found[a] for a in free}, bounds)


def _by_levels(request: Request, captured: Captured, coupling: Coupling, cost: CostModel) -> bool:
    """Whether units are chosen by measured levels: asked for, or nothing else is said, data are there and few MACs."""
    if request.criterion is not None:
        return request.criterion == OBS
    if request.data is None or captured.parts or request.opt_in or tuple(request.levels) != ("unit",):
        return False
    return not draws(coupling.graph) and affordable_levels(coupling, cost)


def _check_parts(captured: Captured, criterion: str | None) -> None:
    if not captured.parts or criterion is None:
        return
    if criterion == OBS or any(probe.program for probe in probes_for(criterion)):
        raise OptionError(
            f"criterion {criterion!r} runs data through the captured program, and the model was captured in parts "
            f"({', '.join(captured.parts)}); use magnitude or taylor."
        )


def _check_levels(levels: Sequence[str], budget: Mapping[str, Any]) -> None:
    unknown = [x for x in levels if x not in LEVELS]
    if unknown or not levels or isinstance(levels, str):
        raise OptionError(f"levels is {levels!r}; allowed: a tuple of {', '.join(LEVELS)}.")
    if "weight" in levels and set(budget) != {"params"}:
        raise OptionError(
            f"budget {sorted(budget)} with level 'weight': masked weights are zeros and change neither MACs nor dense "
            "bytes; give the budget as params (weights that are not zero), or use levels=('unit',)."
        )


def _check_ignore(ignore: Sequence[str]) -> None:
    if isinstance(ignore, str) or not all(isinstance(pattern, str) for pattern in ignore):
        raise OptionError(f"ignore is {ignore!r}; allowed: a list of patterns such as ['head', 'layer3.*'].")


def _nothing_removable(coupling: Coupling, ignore: Sequence[str]) -> str:
    reasons = sorted({f.reason for f in coupling.frozen})
    held = f" (ignored: {', '.join(ignore)})" if ignore else ""
    if not reasons and not coupling.axes:
        return "Nothing can be removed from this model: it has no weights."
    why = f"frozen ({', '.join(reasons[:6])})"
    if not coupling.axes:
        return f"Nothing can be removed from this model: all its dims are {why}. Use levels=('weight',)."
    return (
        f"Nothing can be removed from this model{held}: all {len(coupling.axes)} axes are held, the other dims are "
        f"{why}. Loosen ignore, or use levels=('weight',)."
    )
