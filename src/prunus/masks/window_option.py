"""The option ``window``: tiles of weights, parts of kernels, runs of units, or positions, of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from prunus.errors import OptionError, shown
from prunus.masks.window import Kernel, Strip, Tile

FORMS = (
    "[4, 4] for tiles of the weight matrix, {kernel: 3} or {kernel: [3, 1]}, {strip: 8}, {column: 8}, {units: 4}, "
    "{positions: 4} or {positions: [2, 2]}, or their texts, such as '4x4' or 'units=4'"
)
_TEXT = re.compile(r"\s*(?:(\w+)\s*=)?\s*(\d+)(?:\s*[x×]\s*(\d+))?\s*")


@dataclass(frozen=True, slots=True)
class Units:
    """Runs of ``length`` consecutive units of an axis; the last run may be shorter."""

    length: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Windows of ``rows`` × ``columns`` positions of a map; a sequence has one row."""

    rows: int
    columns: int


WindowKind: TypeAlias = Tile | Strip | Kernel | Units | Positions
_SIDES = {"tile": 2, "strip": 1, "column": 1, "kernel": 2, "units": 1, "positions": 2}
"""Kind → the most sides that it takes."""


def canonical_window(given: Any) -> str | None:
    """Return the option ``window`` as the text that plans record; None stays None.

    Raises:
        OptionError: an unknown kind, or sizes that are not whole numbers of at least 1.

    Example:
        >>> canonical_window([4, 8]), canonical_window({"units": 4}), canonical_window("kernel=3")
        ('tile=4x8', 'units=4', 'kernel=3x3')
    """
    if given is None:
        return None
    kind, sides = _read(given)
    wrong = any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides)
    if kind not in _SIDES or wrong or not 1 <= len(sides) <= _SIDES[kind] or (kind == "tile" and len(sides) < 2):
        raise OptionError(f"window is {shown(given)}; allowed: {FORMS}, with whole numbers of at least 1.")
    if kind == "kernel" and len(sides) == 1:
        sides = (*sides, *sides)
    if kind == "positions" and len(sides) == 1:
        sides = (1, *sides)
    return f"{kind}={'x'.join(str(side) for side in sides)}"


def window_of(text: str) -> WindowKind:
    """Return the window of a text that `canonical_window` returns."""
    kind, _, size = text.partition("=")
    sides = [int(side) for side in size.split("x")]
    if kind == "tile":
        return Tile(*sides)
    if kind == "kernel":
        return Kernel(*sides)
    if kind == "positions":
        return Positions(*sides)
    if kind == "units":
        return Units(*sides)
    return Strip(sides[0], "input" if kind == "strip" else "unit")


def _read(given: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the kind and the sides; no side where the form is another."""
    if isinstance(given, str) and (match := _TEXT.fullmatch(given)):
        return match[1] or "tile", tuple(int(side) for side in match.groups()[1:] if side is not None)
    if isinstance(given, Mapping) and len(given) == 1:
        ((kind, size),) = given.items()
        return str(kind), tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size,)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return "tile", tuple(given)
    return "", ()
