"""Bounds of one axis: the least, the most, a multiple of, or exactly the number of units that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from prunus.errors import OptionError, nearest, shown
from prunus.foundation.arguments import truth


@dataclass(frozen=True, slots=True)
class Bound:
    """Limits of the width of one axis; an integer is a number of units, a float in (0, 1] a share of them.

    Attributes:
        floor: the axis keeps at least this.
        ceiling: the axis keeps at most this; None means all.
        round_to: the axis keeps a multiple of this, or all units.
        frozen: the axis keeps all units.
        forced: the axis keeps exactly this; the other fields are ignored.
    """

    floor: int | float = 1
    ceiling: int | float | None = None
    round_to: int = 1
    frozen: bool = False
    forced: int | float | None = None

    def __post_init__(self) -> None:
        for name in ("floor", "ceiling", "forced"):
            _check_amount(name, getattr(self, name))
        truth("frozen", self.frozen)
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise OptionError(f"round_to is {self.round_to!r}; allowed: a whole number of at least 1.")
        if type(self.floor) is type(self.ceiling) and self.floor > (self.ceiling or 0):
            raise OptionError(
                f"floor is {self.floor!r} and ceiling {self.ceiling!r}; allowed: a floor up to the ceiling."
            )
        if self.frozen and self.forced is not None:
            raise OptionError(f"A node is frozen and forced to {self.forced!r} at once; say one of the two.")

    @staticmethod
    def of(value: Bound | Mapping[str, Any]) -> Bound:
        """Return a bound from itself or from its fields, ``{"round_to": 8}``.

        Raises:
            OptionError: an unknown field, or a value outside its range.
        """
        if isinstance(value, Bound):
            return value
        known = [field.name for field in fields(Bound)]
        if not isinstance(value, Mapping):
            raise OptionError(f"A limit of a node is {value!r}; give a dict with any of {', '.join(known)}.")
        for name in value:
            if name not in known:
                close = nearest(str(name), known)
                raise OptionError(f"Unknown limit {name!r} of a node.{close} Allowed: {', '.join(known)}.")
        return Bound(**value)

    def over(self, earlier: Bound) -> Bound:
        """Return both bounds combined; where both set a field, this one wins."""
        said = {f.name: getattr(self, f.name) for f in fields(Bound) if getattr(self, f.name) != f.default}
        return replace(earlier, **said)

    def counts(self, axis: str, size: int, least: int = 1) -> np.ndarray:
        """Return the numbers of units that an axis may keep, ascending.

        Args:
            axis: id of the axis, for messages.
            size: number of units of the axis.
            least: floor of every axis.

        Raises:
            OptionError: the bound allows no number of units.
        """
        if self.frozen:
            return np.array([size])
        if self.forced is not None:
            exact = _amount(self.forced, size, round)
            if not max(1, least) <= exact <= size:
                allowed_range = f"{max(1, least)} to {size}"
                raise OptionError(
                    f"Axis {axis!r} is forced to {self.forced!r} of {size} units; allowed: {allowed_range}."
                )
            return np.array([exact])
        low = max(least, _amount(self.floor, size, math.ceil), 1)
        high = size if self.ceiling is None else min(size, max(1, _amount(self.ceiling, size, math.floor)))
        allowed = np.arange(min(low, size), high + 1)
        allowed = allowed[(allowed % self.round_to == 0) | (allowed == size)]
        if not len(allowed):
            raise OptionError(
                f"Axis {axis!r} of {size} units may keep no number of them: at least {low}, at most {high}, a multiple "
                f"of {self.round_to}. Loosen one of the three."
            )
        return np.asarray(allowed)


def bounds_of(given: object) -> dict[str, Bound]:
    """Return the bounds of an option of the user: pattern → limits.

    Raises:
        OptionError: no mapping, a pattern that is no text, an unknown limit, or a value outside its range.
    """
    if not isinstance(given, Mapping) or not all(isinstance(pattern, str) for pattern in given):
        raise OptionError(
            f"bounds is {shown(given)}; allowed: a dict of patterns and limits such as {{'layer4': {{'floor': 0.5}}}}."
        )
    return {pattern: Bound.of(bound) for pattern, bound in given.items()}


def _check_amount(name: str, value: int | float | None) -> None:
    if value is None and name != "floor":
        return
    least = 0 if name == "floor" else 1  # a floor of 0 has no effect: every axis keeps one unit
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
    share = isinstance(value, float) and 0 < value <= 1
    if not (whole or share):
        raise OptionError(
            f"{name} is {value!r}; allowed: a whole number of at least {least} units or a share in (0, 1]."
        )


def _amount(value: int | float, size: int, rounding: object) -> int:
    if not isinstance(value, float):
        return int(value)
    # 0.07 · 100 is 7.000000000000001; without the slack its ceiling would be 8.
    product = value * size
    nearest = round(product)
    return nearest if abs(product - nearest) < 1e-9 * size else int(rounding(product))  # type: ignore[operator]
