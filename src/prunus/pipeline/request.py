"""`Request`: the options of a plan, one record behind every public function, recipe and command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunus.budget import ALLOCATORS, METRICS, Bound, bounds_of, parse_budget
from prunus.budget.allocator import Allocator
from prunus.budget.counts import COUNTS, KINDS, Count, count_of
from prunus.budget.weights import WEIGHT_ALLOCATORS
from prunus.criteria import CriterionLike, canonical, criterion_name, weight_criterion_of
from prunus.data.batches import check_count
from prunus.errors import OptionError, nearest
from prunus.foundation.arguments import truth
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.registry import title_of
from prunus.methods import METHODS, Method
from prunus.methods.by_count import UNIT_DIVISIONS
from prunus.methods.by_criterion import OBS, check_unit_criterion
from prunus.methods.key_path import KeyPath, check_key_path
from prunus.methods.reconnect import check_reconnect
from prunus.outcome import Recover
from prunus.pipeline.memory_budget import ENERGY, MEMORY, energy_share
from prunus.plans import Cost
from prunus.repairs import check_repair

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage

Budget = Mapping[str, Any]
"""Metric → a number or a text; for counts and thresholds of single layers also selector → amount."""
Bounds = Mapping[str, Bound | Mapping[str, Any]]

SWITCHES = ("reconnect", "key_path")
LEVELS = ("unit", "weight")
MAX_DROP = "max_drop"
BUDGETS = (*METRICS, MEMORY, ENERGY, MAX_DROP, *COUNTS)
_BY_LEVELS = {
    frozenset({"unit"}): "units",
    frozenset({"weight"}): "weights",
    frozenset(LEVELS): "units-weights",
}
_BY_COUNT = {"units": "units", "weights": "weights", "modules": "modular", "windows": "window-tile"}
"""The parts that a budget counts → the method for it, where none is named."""
_LEVEL_OF = {"units": "unit", "weights": "weight"}
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
    stages: tuple[Stage, ...] = ()
    damage: bool = DEFAULTS.damage
    recover: Recover = None
    threads: int = DEFAULTS.threads
    merge: bool | None = DEFAULTS.merge
    reconnect: str | None = DEFAULTS.reconnect
    key_path: KeyPath | None = DEFAULTS.key_path

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
        _check_levels(self.levels)
        _check_budget(self.budget)
        check_count("search", self.search, 0)
        check_count("threads", self.threads)
        truth("damage", self.damage)
        self._check_merge()
        self._check_judge()
        chosen = self.planner
        self._check_options(chosen)
        self._check_count(chosen)
        self._check_bounds(chosen)
        self._check_names()
        self._check_metrics(chosen)

    @property
    def planner(self) -> Method:
        """The method that makes the plan."""
        if self.method is not None:
            return METHODS.get(self.method)
        kind = next((kind for kind in KINDS if kind in self.budget), None)
        return METHODS.get(_BY_LEVELS[frozenset(self.levels)] if kind is None else _BY_COUNT[kind])

    @property
    def merges(self) -> bool:
        """True where inputs that stay take over the share of those that go, if there are data."""
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
        if chosen == "weights":
            if self.criterion is not None:
                weight_criterion_of(self.criterion)
            if self.allocator is not None:
                WEIGHT_ALLOCATORS.get(self.allocator)  # type: ignore[arg-type]
            return
        check_unit_criterion(self.criterion)
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

    def _check_options(self, chosen: Method) -> None:
        """Refuse options that the method does not take."""
        for name in SWITCHES:
            value = getattr(self, name)
            if value is not None and (name not in chosen.switches or self.stages):
                fits = ", ".join(one for one in METHODS.names() if name in METHODS.get(one).switches)
                raise OptionError(
                    f"method {chosen.name!r} takes no {name} (got {value!r}); remove it, or use method "
                    f"{fits} without stages."
                )
        if self.reconnect is not None:
            check_reconnect(self.reconnect)
        if self.key_path is not None:
            check_key_path(self.key_path)
        silent = {"criterion": None, "allocator": None, "search": 0, "judge": "none"}
        for name, nothing in silent.items():
            value = getattr(self, name)
            if value != nothing and name not in chosen.options and not self.stages:
                if name == "search":
                    raise OptionError(
                        f"search (got {value}) starts from an allocator's plan, and method {chosen.name!r} makes its "
                        "own plan; remove search or method."
                    )
                raise OptionError(
                    f"method {chosen.name!r} takes no {name} (got {value!r}); remove {name} or method, or use method "
                    "'units' or 'weights'."
                )
        if self.method is not None and tuple(self.levels) != DEFAULTS.levels:
            raise OptionError(
                f"levels is {self.levels!r} beside method {self.method!r}, which has its own levels; remove "
                "levels or method."
            )

    def _check_count(self, chosen: Method) -> None:
        """Refuse what a budget that counts or compares cannot have: another kind of method, stages, a search."""
        count = self.count
        if count is None:
            return
        if self.stages or self.search:
            beside = "stages" if self.stages else f"search: {self.search}"
            raise OptionError(
                f"budget {count.metric} stands beside {beside}, which divides a price; give the budget as params or "
                "macs, or leave the other out."
            )
        if not chosen.counts:
            raise OptionError(
                f"budget {count.metric} ranks the scores of single parts, and method {chosen.name!r} has none; use "
                "units, weights, modular, window-tile or a method by one criterion, such as sensitivity."
            )
        if count.metric in KINDS and count.metric != chosen.counts:
            raise OptionError(
                f"budget {count.metric} beside method {chosen.name!r}, which ranks {chosen.counts}; give the budget as "
                f"{chosen.counts} or top_n, or use method {_BY_COUNT[count.metric]!r}."
            )
        if tuple(self.levels) not in (DEFAULTS.levels, (_LEVEL_OF.get(chosen.counts),)):
            raise OptionError(
                f"budget {count.metric} ranks {chosen.counts} here, and levels is {self.levels!r}; leave levels out."
            )
        if chosen.counts == "modules" and count.whole is None:
            raise OptionError(
                f"budget {count.metric} of modules is one amount for the network; got {dict(count.amounts)}."
            )
        self._check_division(count, chosen)

    def _check_division(self, count: Count, chosen: Method) -> None:
        if self.criterion == OBS:
            raise OptionError(
                f"criterion {OBS!r} measures levels of whole layers and gives no score to rank or compare; with budget "
                f"{count.metric} use magnitude, sensitivity or contribution."
            )
        if self.allocator is None:
            return
        if count.compares or count.whole is None:
            what = "a threshold" if count.compares else "an amount of every layer"
            raise OptionError(f"allocator is {title_of(self.allocator)!r}, and {what} divides nothing; leave it out.")
        if chosen.counts == "units" and self.allocator not in UNIT_DIVISIONS:
            raise OptionError(
                f"allocator is {title_of(self.allocator)!r}, which divides a price; budget {count.metric} takes "
                f"{' or '.join(UNIT_DIVISIONS)}, or none for one ranking of the scores as they are."
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
            found["criterion"] = None if self.criterion is None else criterion_name(self.criterion)
            counted = self.planner.counts if self.count is not None else ""
            found["levels"] = [_LEVEL_OF[counted]] if counted in _LEVEL_OF else list(self.levels)
        if self.allocator is not None:
            found["allocator"] = title_of(self.allocator)
        found |= {k: list(v) if isinstance(v, tuple) else v for k, v in self.switched.items()}
        if self.merge is not None:
            found["merge"] = self.merge
        if self.bounds:
            found["bounds"] = plain_bounds(self.bounds)
        return found


def _check_levels(levels: Sequence[str]) -> None:
    listed = isinstance(levels, Sequence) and not isinstance(levels, str)
    if not listed or not levels or any(x not in LEVELS for x in levels) or len(set(levels)) < len(levels):
        raise OptionError(f"levels is {levels!r}; allowed: a tuple of {', '.join(LEVELS)}, each once at most.")


def _check_budget(budget: Any) -> None:
    """Refuse an invalid budget before anything is captured; amounts are checked later, against the smallest network."""
    if not isinstance(budget, Mapping) or not budget:
        raise OptionError(f"budget is {budget!r}; give a dict such as {{'params': 0.5}} ({', '.join(BUDGETS)}).")
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


def plain(budget: Budget) -> dict[str, Any]:
    """Return a budget as JSON types."""
    return {
        metric: plain(value) if isinstance(value, Mapping) else value.item() if isinstance(value, np.generic) else value
        for metric, value in budget.items()
    }
