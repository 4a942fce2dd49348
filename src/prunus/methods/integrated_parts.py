"""The option ``methods`` of integrated pruning: the methods of one plan, with the share and the criterion of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prunus.budget import ALLOCATORS
from prunus.criteria import canonical
from prunus.errors import OptionError, nearest, shown
from prunus.masks.window_option import Units, canonical_window, window_of
from prunus.methods.criterion_names import OBS, check_criterion
from prunus.methods.method import METHODS, Criteria

FINE_TUNING, STRUCTURED, ACTIVATION = "fine-tuning", "structured", "activation"
DEFAULT = (FINE_TUNING, STRUCTURED, ACTIVATION)
"""The methods of integrated pruning where none are given."""
Kind = Literal["rounds", "alike", "branches", "units", "weights"]
_OWN: Mapping[str, Kind] = {
    FINE_TUNING: "rounds",
    "fine-tuning-pruning": "rounds",
    STRUCTURED: "alike",
    "redundancy": "alike",
    "depth": "branches",
    "modular": "branches",
    ACTIVATION: "units",
}
_KEYS = ("name", "share", "criterion", "allocator", "window")
FORM = "[{'name': 'fine-tuning', 'share': 0.4}, 'structured', 'activation']"
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Part:
    """One method of an integrated plan.

    Attributes:
        name: name of the method.
        share: its share of the saving: it keeps kept^share of what it finds; None where it is given later.
        criterion: criterion of its units, branches or weights; None is that of the method.
        allocator: allocator of units; None is ``uniform``, or that of the method.
        window: window of weights, as its text; None ranks single weights, or takes the window of the method.
    """

    name: str
    share: float | None = None
    criterion: str | None = None
    allocator: str | None = None
    window: str | None = None

    @property
    def kind(self) -> Kind:
        """The step that carries it out."""
        if self.name in _OWN:
            return _OWN[self.name]
        return "units" if METHODS.get(self.name).counts == "units" else "weights"

    def plain(self) -> dict[str, Any]:
        """Return its entries as JSON types, without those that are not given."""
        return {key: getattr(self, key) for key in _KEYS if getattr(self, key) is not None}


def canonical_parts(given: Any) -> tuple[Part, ...]:
    """Return the parts of the option ``methods``, in order; their shares are as given.

    An entry is a name, a text ``name=share``, or a mapping with the keys name, share, criterion, allocator and window.

    Raises:
        OptionError: no list, an unknown key, method or criterion, shares that are not positive or exceed 1 together, or
            a method of weights before one of branches or units.

    Example:
        >>> [part.plain() for part in canonical_parts(["fine-tuning=0.4", {"name": "units", "criterion": "fpgm"}])]
        [{'name': 'fine-tuning', 'share': 0.4}, {'name': 'units', 'criterion': 'fpgm'}]
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise OptionError(f"methods is {shown(given)}; allowed: a list such as {FORM}.")
    parts = tuple(_part(entry) for entry in given)
    _check_shares(parts)
    for before, after in itertools.pairwise(parts):
        if before.kind == "weights" and after.kind != "weights":
            raise OptionError(
                f"methods: {before.name!r} masks weights before {after.name!r} removes whole parts, with which masks "
                f"are lost; put {before.name!r} last."
            )
    return parts


def shares_of(parts: Sequence[Part]) -> list[float]:
    """Return the share of every part; those that give none divide the rest evenly.

    Example:
        >>> shares_of(canonical_parts(["fine-tuning=0.5", "structured", "activation"]))
        [0.5, 0.25, 0.25]
    """
    given = [part.share for part in parts if part.share is not None]
    rest, without = 1.0 - sum(given), len(parts) - len(given)
    shares = [rest / without if part.share is None else part.share for part in parts]
    return [share / sum(shares) for share in shares]


def _part(entry: Any) -> Part:
    if isinstance(entry, Part):
        return entry
    if isinstance(entry, str):
        name, sign, share = (word.strip() for word in entry.partition("="))
        entry = {"name": name} | ({"share": _number(share)} if sign else {})
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise OptionError(
            f"methods holds {shown(entry)}; allowed: a name, 'name=share', or a mapping with a name: {FORM}."
        )
    for key in entry:
        if key not in _KEYS:
            raise OptionError(
                f"methods: {entry['name']!r} has the key {key!r}.{nearest(str(key), _KEYS)} Allowed: "
                f"{', '.join(_KEYS)}."
            )
    part = Part(
        entry["name"],
        entry.get("share"),
        canonical(entry.get("criterion")),
        entry.get("allocator"),
        canonical_window(entry.get("window")),
    )
    _check_name(part.name)
    _check_options(part)
    return part


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _check_name(name: Any) -> None:
    known = part_names()
    if name not in known:
        why = ", which plans the whole network by itself" if isinstance(name, str) and name in METHODS else ""
        raise OptionError(
            f"methods: {shown(name)}{why or ' is unknown'} and cannot be one of several."
            f"{'' if why else nearest(str(name), known)} Allowed: {', '.join(known)}."
        )


def part_names() -> list[str]:
    """Return the names that the option ``methods`` takes."""
    counted = [n for n in METHODS if METHODS.get(n).counts in ("units", "weights", "windows") and n not in _OWN]
    return [*_OWN, *counted]


def _check_options(part: Part) -> None:
    kind, where = part.kind, f"methods: {part.name!r}"
    if part.criterion is not None:
        if kind == "alike" or (part.name not in _OWN and "criterion" not in METHODS.get(part.name).options):
            raise OptionError(f"{where} has a criterion of its own (got {part.criterion!r}); leave it out.")
        if part.criterion == OBS:
            raise OptionError(f"{where}: criterion {OBS!r} measures levels of whole layers and gives no score to rank.")
        scored: Mapping[Kind, Criteria] = {"branches": "modules", "weights": "weights"}
        check_criterion(part.criterion, scored.get(kind, "units"))
    if part.allocator is not None:
        if kind != "units":
            raise OptionError(f"{where} has an allocator (got {part.allocator!r}); only methods of units take one.")
        ALLOCATORS.get(part.allocator)
    if part.window is not None:
        whole = part.name == "window-wise" and not isinstance(window_of(part.window), Units)
        if not whole or part.window.startswith("positions"):
            raise OptionError(
                f"{where} has the window {part.window!r}; allowed: tiles, strips or kernels, for 'window-wise' alone."
            )


def _check_shares(parts: Sequence[Part]) -> None:
    total, missing = 0.0, 0
    for part in parts:
        number = isinstance(part.share, (int, float)) and not isinstance(part.share, bool)
        if part.share is not None and (not number or not 0 < part.share <= 1):
            raise OptionError(
                f"methods: the share of {part.name!r} is {part.share!r}; allowed: a number above 0, up to 1."
            )
        total, missing = total + (part.share or 0.0), missing + (part.share is None)
    if parts and (total > 1 + _SLACK or (missing and total > 1 - _SLACK) or (not missing and total < 1 - _SLACK)):
        rest = f", and {missing} without a share divide the rest" if missing else ""
        raise OptionError(f"methods: the shares add up to {total:g}{rest}; allowed: 1 in all.")
