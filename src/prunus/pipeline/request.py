"""`Request`: the options of a plan, one record behind every public function, recipe and command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunus.budget import ALLOCATORS, METRICS, Bound, bounds_of, parse_budget
from prunus.budget.allocator import Allocator
from prunus.budget.counts import COUNTS, KINDS, Count, count_of
from prunus.budget.limits import FLOPS, canonical_budget
from prunus.budget.weights import WEIGHT_ALLOCATORS
from prunus.criteria import CriterionLike, canonical, criterion_name
from prunus.data.batches import check_count
from prunus.data.input_size import check_resolution
from prunus.errors import OptionError, nearest
from prunus.foundation.arguments import truth
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.registry import title_of
from prunus.masks.window_option import Units, canonical_window, window_of
from prunus.methods import METHODS, Method
from prunus.methods.criterion_names import OBS, check_criterion, check_unit_criterion
from prunus.methods.hierarchy.settings import TREE_OPTIONS, checked_tree_options
from prunus.methods.integrated_parts import canonical_parts
from prunus.methods.key_path import KeyPath
from prunus.methods.transfer import Transfer
from prunus.methods.weights import MAGNITUDE
from prunus.methods.window_wise import WINDOW
from prunus.outcome import Recover
from prunus.pipeline.count_checks import BY_COUNT, LEVEL_OF, check_counted, check_division
from prunus.pipeline.memory_budget import ENERGY, MEMORY, energy_share
from prunus.pipeline.method_options import OPTIONS, SWITCHES, check_method_options, check_switches, check_taken
from prunus.plans import Cost
from prunus.repairs import check_repair

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage

Budget = Mapping[str, Any]
"""Metric → a number or a text; for counts and thresholds of single layers also selector → amount."""
Bounds = Mapping[str, Bound | Mapping[str, Any]]
Nodes = Mapping[str, Any]
"""Part of the tree, or a group inside its layers → method, criterion, rate, size, strategy."""

LEVELS = ("unit", "weight")
MAX_DROP, TRANSFER = "max_drop", "transfer"
BUDGETS = (*METRICS, FLOPS, MEMORY, ENERGY, MAX_DROP, *COUNTS)
_BY_LEVELS = {
    frozenset({"unit"}): "units",
    frozenset({"weight"}): "weights",
    frozenset(LEVELS): "units-weights",
}
_ANY = Cost(params=1, macs_forward=1, macs_backward=1, param_bytes=1)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a plan; `prunus.prune` explains each field.

    Raises:
        OptionError: a name or value that is not allowed, or an option that the method does not take.
    """

    budget: Budget
    method: str | None = DEFAULTS.method
    criterion: CriterionLike | None = DEFAULTS.criterion
    allocator: str | Allocator | None = DEFAULTS.allocator
    levels: Sequence[str] = DEFAULTS.levels
    bounds: Bounds | None = None
    search: int = DEFAULTS.search
    judge: str = DEFAULTS.judge
    window: Any = DEFAULTS.window
    methods: Any = DEFAULTS.methods
    stages: tuple[Stage, ...] = ()
    damage: bool = DEFAULTS.damage
    recover: Recover = None
    threads: int = DEFAULTS.threads
    merge: bool | None = DEFAULTS.merge
    reconnect: str | None = DEFAULTS.reconnect
    key_path: KeyPath | None = DEFAULTS.key_path
    method_options: Mapping[str, Any] = field(default_factory=dict)
    nodes: Nodes | None = DEFAULTS.nodes
    strategy: str | None = DEFAULTS.strategy
    divide: str | Mapping[str, Any] | None = DEFAULTS.divide
    optimise: str | Mapping[str, Any] | None = DEFAULTS.optimise
    resolution: str | Sequence[int | str] | None = DEFAULTS.resolution
    transfer: Transfer | Mapping[str, Any] | None = None

    @staticmethod
    def of(budget: Budget, options: Mapping[str, Any]) -> Request:
        """Return the request of a budget and options by name.

        Raises:
            OptionError: an unknown option; or as the record itself.
        """
        allowed = [field.name for field in fields(Request)[1:]]
        for name in options:
            if name not in allowed:
                raise OptionError(
                    f"plan has no option {name!r}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}."
                )
        given = dict(options)
        if given.get("stages", ()) != ():
            from prunus.pipeline.stage import stages_of

            given["stages"] = stages_of(given["stages"])
        return Request(budget, **given)

    def given(self) -> dict[str, Any]:
        """Return the options that `of` takes, without the budget."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:]}

    def __post_init__(self) -> None:
        object.__setattr__(self, "criterion", canonical(self.criterion))
        object.__setattr__(self, "window", canonical_window(self.window))
        object.__setattr__(self, "methods", canonical_parts(self.methods))
        for name, value in checked_tree_options({name: getattr(self, name) for name in TREE_OPTIONS}).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "resolution", check_resolution(self.resolution))
        _check_levels(self.levels)
        object.__setattr__(self, "budget", canonical_budget(self.budget))
        _check_budget(self.budget)
        check_count("search", self.search, 0)
        check_count("threads", self.threads)
        truth("damage", self.damage)
        self._check_merge()
        self._check_judge()
        chosen = self.planner
        self._check_transfer(chosen)
        self._check_options(chosen)
        if self.count is not None:
            beside = "stages" if self.stages else f"search: {self.search}" if self.search else ""
            check_counted(self.count, chosen, self.levels, beside)
            check_division(self.count, chosen, self.criterion, self.allocator)
        self._check_bounds(chosen)
        self._check_names()
        self._check_metrics(chosen)

    @property
    def planner(self) -> Method:
        """The method that makes the plan."""
        if self.method is not None:
            return self._as_asked(METHODS.get(self.method))
        kind = next((kind for kind in KINDS if kind in self.budget), None)
        if any(getattr(self, name) is not None for name in TREE_OPTIONS):
            return METHODS.get("hierarchical")
        return METHODS.get(_BY_LEVELS[frozenset(self.levels)] if kind is None else BY_COUNT[kind])

    def _as_asked(self, chosen: Method) -> Method:
        """Return the method with the level, the window and the criteria that its options ask for."""
        if "levels" in chosen.options and tuple(self.levels) == ("weight",):
            counts = chosen.counts and "weights"
            return replace(chosen, level="weight", counts=counts, scored_by=MAGNITUDE, criteria="weights", joint=False)
        if "window" in chosen.options:
            window = window_of(self.window or WINDOW)
            if isinstance(window, Units):
                return replace(chosen, level="neuron", window=window, criteria="units", joint=True)
            return replace(chosen, window=window)
        return chosen

    @property
    def merges(self) -> bool:
        """True if inputs that stay take over the share of those that go, where there are data."""
        return self.planner.merges if self.merge is None else self.merge

    @property
    def count(self) -> Count | None:
        """The count or the threshold that decides how much stays; None for a budget of a price."""
        return count_of(self.budget)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the method besides the analysis and the limits."""
        own = self.planner
        return {name: getattr(self, name) for name in own.options} | self.switched

    @property
    def switched(self) -> dict[str, Any]:
        """The arguments of the method that are given and that may be left out."""
        return {name: getattr(self, name) for name in self.planner.switches if getattr(self, name) is not None}

    @property
    def max_drop(self) -> float | None:
        """The share of accuracy that may be lost; None without ``max_drop``."""
        return allowed_drop(self.budget[MAX_DROP]) if MAX_DROP in self.budget else None

    @property
    def counted(self) -> dict[str, Any]:
        """The budget without ``max_drop``, which only training can check."""
        return {metric: value for metric, value in self.budget.items() if metric != MAX_DROP}

    def _check_names(self) -> None:
        chosen = self.planner.name
        scored = self.planner.criteria
        if scored != "units":
            check_criterion(self.criterion, scored)
        if chosen == "weights":
            if self.allocator is not None:
                WEIGHT_ALLOCATORS.get(self.allocator)  # type: ignore[arg-type]
            return
        if scored == "units":
            check_unit_criterion(self.criterion)
        if self.criterion == OBS and "allocator" not in self.planner.options and not self.stages:
            raise OptionError(
                f"criterion {OBS!r} measures levels of whole layers and gives no score to rank; with method {chosen!r} "
                "use magnitude, sensitivity or contribution, or take method 'units'."
            )
        if self.allocator is not None and not isinstance(self.allocator, str) and not callable(self.allocator):
            raise OptionError(
                f"allocator is {self.allocator!r}; allowed: {', '.join(ALLOCATORS.names())}, or a function (problem) → "
                "kept counts."
            )
        if isinstance(self.allocator, str) and not (chosen == "units-weights" and self.allocator in WEIGHT_ALLOCATORS):
            ALLOCATORS.get(self.allocator)

    def _check_judge(self) -> None:
        if self.judge is None:
            raise OptionError("judge is None; allowed: 'none', or the name of a repair.")
        check_repair(self.judge)
        if self.judge != DEFAULTS.judge and not self.search and not self.stages and "judge" in self.planner.options:
            raise OptionError(
                f"judge is {self.judge!r}, after which the plans of a search are judged, and search is 0; give "
                "search=8, or leave judge out."
            )

    def _check_merge(self) -> None:
        if self.merge is None:
            return
        truth("merge", self.merge)
        if self.merge and (self.stages or self.planner.teach is not None or self.planner.fresh_weights):
            what = "stages, which train" if self.stages else f"method {self.planner.name!r}, which trains"
            raise OptionError(f"merge is True beside {what} weights of its own; leave merge out.")

    def _check_bounds(self, chosen: Method) -> None:
        """Refuse invalid limits, and limits of widths where only weights are masked."""
        given = bounds_of(self.bounds) if self.bounds is not None else {}
        widths = next((pattern for pattern, bound in given.items() if replace(bound, frozen=False) != Bound()), None)
        if widths is not None and chosen.level == "weight" and not self.stages:
            raise OptionError(
                f"bounds of {widths!r} limit how many units stay, and method {chosen.name!r} masks weights and removes "
                "no unit; allowed there: frozen."
            )

    def _check_transfer(self, chosen: Method) -> None:
        """Read the source of a transfer; refuse one that nothing uses."""
        guided = TRANSFER in chosen.options and not self.stages
        if self.transfer is not None:
            object.__setattr__(self, "transfer", Transfer.of(self.transfer))
            assert isinstance(self.transfer, Transfer)
            if not guided and not self.transfer.copies:
                raise OptionError(
                    f"transfer guides method {TRANSFER!r} alone, and the method is {chosen.name!r}; use method "
                    f"{TRANSFER!r}, or weights: copy to begin with the source's weights."
                )
        elif guided:
            raise OptionError(f"method {TRANSFER!r} needs a source; give transfer: {{from: CHECKPOINT}}.")

    def _check_options(self, chosen: Method) -> None:
        """Refuse options that the method does not take."""
        check_method_options(self.method_options)
        given = {name: getattr(self, name) for name in SWITCHES}
        check_switches(chosen, given, staged=bool(self.stages))
        if not self.stages:
            check_taken(chosen, {name: getattr(self, name) for name in OPTIONS})
        if "levels" in chosen.options and len(self.levels) > 1:
            raise OptionError(
                f"levels is {self.levels!r} beside method {self.method!r}, which works at one level at a time; give "
                "one."
            )
        own = self.method is not None or chosen.name == "hierarchical"
        if own and tuple(self.levels) != DEFAULTS.levels and "levels" not in chosen.options:
            raise OptionError(
                f"levels is {self.levels!r} beside method {chosen.name!r}, which has its own levels; remove "
                "levels or method."
            )

    def _check_metrics(self, chosen: Method) -> None:
        if self.count is not None:
            return
        zeros = chosen.level == "weight" or chosen.name == "units-weights"
        wrong = [metric for metric in self.counted if metric not in ("params", "bytes")]
        if not zeros or not wrong or self.stages:
            return
        if self.method is None:
            raise OptionError(
                f"budget {', '.join(wrong)} with level 'weight': masked weights are zeros and change neither MACs, "
                "memory, time, energy nor dense bytes; give the budget as params (weights that are not zero), or use "
                "levels=('unit',)."
            )
        raise OptionError(
            f"method {chosen.name!r} sets weights to zero, which does not change {wrong[0]}; give the budget as params "
            "or bytes, or use a method that removes units."
        )

    def settings(self) -> dict[str, Any]:
        """Return the entries of a plan's settings."""
        found: dict[str, Any] = {"budget": plain(self.budget)}
        if self.method is not None:
            found["method"] = self.method
        if self.planner.options:
            if "criterion" in self.planner.options:
                found["criterion"] = None if self.criterion is None else criterion_name(self.criterion)
            counted = self.planner.counts if self.count is not None else ""
            if self.method is None or "levels" in self.planner.options or self.planner.name in _BY_LEVELS.values():
                found["levels"] = [LEVEL_OF[counted]] if counted in LEVEL_OF else list(self.levels)
        if self.window is not None:
            found["window"] = self.window
        found |= {name: plain_nodes(getattr(self, name)) for name in TREE_OPTIONS if getattr(self, name) is not None}
        if self.allocator is not None:
            found["allocator"] = title_of(self.allocator)
        found |= {k: list(v) if isinstance(v, tuple) else v for k, v in self.switched.items()}
        if self.merge is not None:
            found["merge"] = self.merge
        if self.bounds:
            found["bounds"] = plain_bounds(self.bounds)
        if self.method_options:
            found["method_options"] = dict(self.method_options)
        if isinstance(self.transfer, Transfer):
            found[TRANSFER] = {"from": self.transfer.source.origin, "weights": self.transfer.weights}
        return found


def _check_levels(levels: Sequence[str]) -> None:
    listed = isinstance(levels, Sequence) and not isinstance(levels, str)
    if not listed or not levels or any(x not in LEVELS for x in levels) or len(set(levels)) < len(levels):
        raise OptionError(f"levels is {levels!r}; allowed: a tuple of {', '.join(LEVELS)}, each once at most.")


def _check_budget(budget: Any) -> None:
    """Refuse an invalid budget before anything is captured; amounts are checked later, against the smallest network."""
    if not isinstance(budget, Mapping) or not budget:
        raise OptionError(
            f"budget is {budget!r}; give a dict such as {{'params': 0.5}} or {{'macs': '50%'}} ({', '.join(BUDGETS)})."
        )
    for metric, value in budget.items():
        if metric not in BUDGETS:
            raise OptionError(
                f"Unknown budget {metric!r}.{nearest(str(metric), BUDGETS)} Allowed: {', '.join(BUDGETS)}."
            )
        if metric in METRICS:
            parse_budget({metric: value}, _ANY)
        elif metric in COUNTS:
            count_of(budget)
        elif metric == ENERGY:
            energy_share(value)
        elif metric == MAX_DROP:
            allowed_drop(value)


def allowed_drop(value: object) -> float:
    """Return the value of ``max_drop``.

    Raises:
        OptionError: the value is no share between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise OptionError(f"budget max_drop is {value!r}; allowed: a share of accuracy from 0 to 1, such as 0.01.")
    return float(value)


def plain_bounds(bounds: Bounds) -> dict[str, Any]:
    """Return bounds as JSON types."""
    return {pattern: asdict(Bound.of(bound)) for pattern, bound in bounds.items()}


def plain_nodes(given: Any) -> Any:
    """Return an option of the hierarchical procedure as JSON types."""
    if isinstance(given, Mapping):
        return {key: plain_nodes(value) for key, value in given.items()}
    return list(given) if isinstance(given, tuple) else given


def plain(budget: Budget) -> dict[str, Any]:
    """Return a budget as JSON types."""
    return {
        metric: plain(value) if isinstance(value, Mapping) else value.item() if isinstance(value, np.generic) else value
        for metric, value in budget.items()
    }
