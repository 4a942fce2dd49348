"""The options of the hierarchical procedure: settings of nodes, the division, the strategy and the optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from prunus.criteria import canonical, is_weight_criterion, weight_criterion_of
from prunus.errors import OptionError, nearest, shown
from prunus.masks import Tile, Window
from prunus.masks.window_option import Positions, Units
from prunus.methods.criterion_names import OBS, check_unit_criterion
from prunus.methods.method import METHODS
from prunus.methods.weights import MAGNITUDE
from prunus.repairs import check_repair
from prunus.tree.addresses import VALUES, Address, parse_address
from prunus.tree.stages import DIVISIONS

UNITS, WEIGHTS, WINDOWS, BLOCKS, KEEP, REMOVE = "units", "weights", "windows", "blocks", "keep", "remove"
KINDS = (UNITS, WEIGHTS, WINDOWS, BLOCKS, KEEP, REMOVE)
AUTO = "auto"
STRATEGIES = (AUTO, *VALUES)
NONE, REFIT, FINETUNE = "none", "refit", "finetune"
_ALIASES = {"window": WINDOWS, "modules": BLOCKS, "unit": UNITS, "weight": WEIGHTS, "block": BLOCKS}


@dataclass(frozen=True, slots=True)
class NodeSetting:
    """The method, criterion and rate of a node of the tree, as a person gives them.

    Attributes:
        method: units, weights, window, blocks, keep (nothing of it goes), remove (a block or a group goes whole), or
            a method that ranks single parts, such as ``sensitivity`` or ``importance``; None: windows where a size is
            given, else units, or weights for a group of weights.
        criterion: the criterion of the parts; None lets the strategy choose it.
        rate: the share of the parts of each layer that goes; None divides the rest of the budget.
        size: rows and columns of a window.
        strategy: weight, gradient, activation or auto, in place of a criterion.
    """

    method: str | None = None
    criterion: str | None = None
    rate: float | None = None
    size: tuple[int, int] | None = None
    strategy: str | None = None

    @property
    def kind(self) -> str:
        """The kind of parts: one of `KINDS`."""
        if self.method is None:
            return WINDOWS if self.size is not None else UNITS
        name = _ALIASES.get(self.method, self.method)
        return name if name in KINDS else _ALIASES.get(METHODS.get(name).counts, METHODS.get(name).counts)

    @property
    def scored_by(self) -> str | None:
        """The criterion: the given one, or that of the named method."""
        if self.criterion is not None or self.method is None or _ALIASES.get(self.method, self.method) in KINDS:
            return self.criterion
        return METHODS.get(self.method).scored_by or None

    @property
    def window(self) -> Window:
        """The window of weights: of the given size, of the named method, else 4 × 4."""
        if self.size is not None:
            return Tile(*self.size)
        named = METHODS.get(self.method).window if self.method is not None and self.method in METHODS else None
        return Tile(4, 4) if named is None or isinstance(named, Units | Positions) else named

    def plain(self) -> dict[str, Any]:
        """Return the given fields as JSON types."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {**given, "size": list(self.size)} if self.size is not None else given

    @staticmethod
    def of(pattern: str, value: Any) -> NodeSetting:
        """Return a setting from itself or from its fields.

        Raises:
            OptionError: an unknown key, two methods, a rate outside (0, 1), or fields that do not fit together.
        """
        if isinstance(value, NodeSetting):
            return value
        known = [field.name for field in fields(NodeSetting)]
        if not isinstance(value, Mapping):
            raise OptionError(
                f"nodes: {pattern!r} is {shown(value)}; allowed: a section with any of {', '.join(known)}."
            )
        for name in value:
            if name not in known:
                close = nearest(str(name), known)
                raise OptionError(f"nodes: {pattern!r} has the key {name!r}.{close} Allowed: {', '.join(known)}.")
        try:
            criterion = canonical(value.get("criterion"))
        except OptionError as error:
            raise OptionError(f"nodes: {pattern!r}: {error}") from error
        setting = NodeSetting(
            _method(pattern, value.get("method")),
            criterion if criterion is None else str(criterion),
            _rate(pattern, value.get("rate")),
            _size(pattern, value.get("size")),
            value.get("strategy"),
        )
        _check(pattern, setting, parse_address(pattern))
        return setting


def settings_of(nodes: Any) -> dict[str, NodeSetting]:
    """Return the settings of an option ``nodes``: pattern or address → setting.

    Raises:
        OptionError: no mapping, or a setting that is not allowed.
        SelectorError: an address that cannot be read.
    """
    if nodes is None:
        return {}
    if not isinstance(nodes, Mapping) or not all(isinstance(pattern, str) and pattern for pattern in nodes):
        raise OptionError(
            f"nodes is {shown(nodes)}; allowed: a section from parts of the tree to settings such as "
            "{'stage1/*': {'criterion': 'magnitude', 'rate': 0.8}}."
        )
    return {pattern: NodeSetting.of(pattern, value) for pattern, value in nodes.items()}


def _method(pattern: str, given: Any) -> str | None:
    if isinstance(given, list | tuple | set) and len(given) > 1:
        raise OptionError(
            f"nodes: {pattern!r} is given {len(given)} methods ({', '.join(map(str, given))}); give one, or give the "
            "others to nodes inside it."
        )
    allowed = ("units", "weights", "window", "blocks", "keep", "remove")
    counted = [name for name in METHODS.names() if METHODS.get(name).counts]
    if given is None or given in (*allowed, *_ALIASES, WINDOWS, *counted):
        return None if given is None else str(given)
    why = " makes a plan of the whole network and ranks no parts of a node." if given in METHODS else " is unknown."
    close = nearest(str(given), [*allowed, *counted])
    raise OptionError(
        f"nodes: {pattern!r}: method {given!r}{why}{close} Allowed: {', '.join(allowed)}, or a method by one criterion "
        "such as sensitivity or importance."
    )


def _rate(pattern: str, given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1:
        raise OptionError(
            f"nodes: {pattern!r}: rate is {given!r}; allowed: a share between 0 and 1, both excluded, such as 0.8 to "
            "remove 80 %. Use method keep or remove for nothing or all."
        )
    return float(given)


def _size(pattern: str, given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    whole = isinstance(given, list | tuple) and len(given) == 2
    if not whole or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in given):
        raise OptionError(f"nodes: {pattern!r}: size is {given!r}; allowed: rows and columns of a window, as [1, 8].")
    return given[0], given[1]


def _check(pattern: str, setting: NodeSetting, address: Address) -> None:
    """Refuse fields that do not fit together."""
    kind, group = setting.kind, address.group
    if setting.size is not None and kind != WINDOWS:
        raise OptionError(
            f"nodes: {pattern!r} is given two methods: {setting.method}, and windows by size {list(setting.size)}; "
            "leave one out."
        )
    if setting.strategy is not None and setting.strategy not in STRATEGIES:
        close = nearest(str(setting.strategy), STRATEGIES)
        raise OptionError(
            f"nodes: {pattern!r}: strategy is {setting.strategy!r}.{close} Allowed: {', '.join(STRATEGIES)}."
        )
    if setting.strategy is not None and setting.scored_by is not None:
        raise OptionError(
            f"nodes: {pattern!r} is scored by criterion {setting.scored_by} and by strategy {setting.strategy}; give "
            "one."
        )
    if kind in (KEEP, REMOVE) and (setting.rate is not None or setting.scored_by or setting.strategy):
        raise OptionError(
            f"nodes: {pattern!r}: method {setting.method} takes no rate and no criterion; leave them out."
        )
    if group is not None and setting.method is None and setting.rate is None:
        raise OptionError(f"nodes: {pattern!r} is a group; give method remove or keep, or a rate.")
    if group is not None and kind not in (KEEP, REMOVE) and setting.method not in (None, group.part):
        raise OptionError(
            f"nodes: {pattern!r} is a group of {group.part}, and method is {setting.method!r}; allowed: remove, keep, "
            f"or {group.part} with a rate."
        )
    if kind == BLOCKS and (setting.scored_by or setting.strategy):
        raise OptionError(
            f"nodes: {pattern!r}: blocks are ranked by gate importance; leave criterion and strategy out."
        )
    _check_criterion(pattern, setting, WEIGHTS if group is not None and group.part == WEIGHTS else kind)


def _check_criterion(pattern: str, setting: NodeSetting, kind: str) -> None:
    name = setting.scored_by
    if name is None or kind not in (UNITS, WEIGHTS, WINDOWS):
        return
    try:
        if kind == UNITS:
            check_unit_criterion(name)
        else:
            weight_criterion_of(name)
    except OptionError as error:
        other = " It scores weights; add method: weights." if kind == UNITS and is_weight_criterion(name) else ""
        raise OptionError(f"nodes: {pattern!r}: {error}{other}") from error
    if name == OBS:
        raise OptionError(
            f"nodes: {pattern!r}: criterion {OBS!r} measures levels of the whole network; use {MAGNITUDE}, taylor or "
            "contribution."
        )


@dataclass(frozen=True, slots=True)
class Division:
    """The division of a network into stages: by feature dimension, depth index or connection count."""

    by: str = DIVISIONS[0]
    count: int | None = None

    @staticmethod
    def of(given: Any) -> Division:
        """Return a division from its text, ``depth`` or ``depth:3``, or from its fields.

        Raises:
            OptionError: an unknown division, or a number of stages that is not allowed.
        """
        if given is None or isinstance(given, Division):
            return given or Division()
        by, count = _named_number("divide", given, "by", "count", "feature, depth, connections, or depth:3")
        if by not in DIVISIONS:
            close = nearest(str(by), DIVISIONS)
            raise OptionError(f"divide is {by!r}.{close} Allowed: {', '.join(DIVISIONS)}, the latter two as depth:3.")
        if by == DIVISIONS[0] and count is not None:
            raise OptionError(f"divide is feature with {count} stages; feature finds the number itself, leave it out.")
        return Division(by, count)

    def __str__(self) -> str:
        return self.by if self.count is None else f"{self.by}:{self.count}"


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The optimisation of the weights between two levels: none, a repair without labels, or a short fine-tuning."""

    method: str = REFIT
    steps: int = 0

    @staticmethod
    def of(given: Any) -> Optimisation:
        """Return an optimisation from its text, ``refit`` or ``finetune:50``, or from its fields.

        Raises:
            OptionError: an unknown method, or steps that are missing or not allowed.
        """
        if given is None or isinstance(given, Optimisation):
            return given or Optimisation()
        allowed = "none, refit, the name of a repair, or finetune:50"
        method, steps = _named_number("optimise", given, "method", "steps", allowed)
        if method not in (NONE, REFIT, FINETUNE):
            try:
                check_repair(method)
            except OptionError as error:
                raise OptionError(f"optimise is {method!r}; allowed: {allowed}.") from error
        if (method == FINETUNE) != (steps is not None):
            advice = "give its steps, as finetune:50" if method == FINETUNE else "leave the steps out"
            raise OptionError(f"optimise is {method} with {steps or 'no'} steps; {advice}.")
        return Optimisation(method, steps or 0)

    def __str__(self) -> str:
        return f"{self.method}:{self.steps}" if self.steps else self.method


def _named_number(option: str, given: Any, name: str, number: str, allowed: str) -> tuple[str, int | None]:
    """Read ``name:number``, or a section with these two keys."""
    if isinstance(given, Mapping) and name in given and given.keys() <= {name, number}:
        text, amount = given[name], given.get(number)
    elif isinstance(given, str):
        text, colon, digits = given.partition(":")
        amount = (
            (int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 8 else digits) if colon else None
        )
    else:
        text, amount = None, None
    if not isinstance(text, str):
        raise OptionError(f"{option} is {shown(given)}; allowed: {allowed}.")
    if amount is not None and (isinstance(amount, bool) or not isinstance(amount, int) or amount < 1):
        raise OptionError(f"{option} is {text} with {number} {amount!r}; allowed: a whole number of at least 1.")
    return text, amount


def check_strategy(given: Any) -> str:
    """Return a strategy for all nodes.

    Raises:
        OptionError: an unknown strategy.
    """
    if given is None:
        return AUTO
    if given not in STRATEGIES:
        raise OptionError(f"strategy is {given!r}.{nearest(str(given), STRATEGIES)} Allowed: {', '.join(STRATEGIES)}.")
    return str(given)


TREE_OPTIONS = ("nodes", "strategy", "divide", "optimise")
"""The options of `hierarchical`, and of the search of `multi-scale`."""


def checked_tree_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the procedure as they were given, settings of nodes as plain mappings.

    Raises:
        OptionError: a value that is not allowed.
        SelectorError: an address that cannot be read.
    """
    found = dict(given)
    if given["nodes"] is not None:
        found["nodes"] = {pattern: setting.plain() for pattern, setting in settings_of(given["nodes"]).items()}
    check_strategy(given["strategy"])
    for name, kind in (("divide", Division), ("optimise", Optimisation)):
        if given[name] is not None:
            found[name] = str(kind.of(given[name]))
    return found
