"""Solve the expressions of a forward for its attributes, so that every number has its value after the cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prunus.graph.size_functions import Count
from prunus.graph.traced import Attribute, Operation, Origin, Size, attributes_of


class UnsolvableError(Exception):
    """An expression that is no quotient of polynomials: a remainder, a root, a size that is not known."""


@dataclass(slots=True)
class Solver:
    """Attributes as formulas in kept counts.

    Args:
        size: how a size of a value follows the cut; None where nothing is known of it.
        old: what the attributes hold now.
        found: attribute → what it has to be.
    """

    size: Callable[[Size], Count | None]
    old: Mapping[Attribute, int]
    found: dict[Attribute, Count] = field(default_factory=dict)

    def unknown(self, origin: Origin) -> set[Attribute]:
        """Return the attributes of an expression that are not settled yet."""
        return {a for a in attributes_of(origin) if a not in self.found}

    def value(self, origin: Origin) -> Count:
        """Return an expression after the cut; attributes that nothing demands anything of stay as they are.

        Raises:
            UnsolvableError: it has no formula.
        """
        if isinstance(origin, int):
            return Count.of(origin)
        if isinstance(origin, Attribute):
            return self.found.get(origin, Count.of(self.old[origin]))
        if isinstance(origin, Size):
            count = self.size(origin)
            if count is None:
                raise UnsolvableError(f"{origin} is not known")
            return count
        if not isinstance(origin, Operation):
            raise UnsolvableError(f"{origin} is no whole number")
        left, right = self.value(origin.left), self.value(origin.right)
        return self._combined(origin, left, right)

    def _combined(self, origin: Operation, left: Count, right: Count) -> Count:
        a, b = left.constant, right.constant
        match origin.kind:
            case "add":
                return left + right
            case "sub":
                return left - right
            case "mul":
                return left * right
            case "floordiv" if a is not None and b:
                return Count.of(a // b)
            case "floordiv" if b != 0:
                # Where the division left no rest before, it shall leave none after; at another width `at` finds out.
                return left.over(right)
            case "mod" if a is not None and b:
                return Count.of(a % b)
        raise UnsolvableError(f"{origin} has no formula")

    def solved(self, origin: Origin, target: Count, unknown: Attribute) -> Count | None:
        """Return what an attribute has to be for an expression to be ``target``; None where that has no formula."""
        if origin == unknown:
            return target
        if not isinstance(origin, Operation):
            return None
        inside = [unknown in attributes_of(side) for side in (origin.left, origin.right)]
        if all(inside):
            return None
        try:
            if inside[0]:
                return self._left(origin, target, unknown)
            return self._right(origin, target, unknown)
        except (UnsolvableError, ZeroDivisionError):
            return None

    def _left(self, origin: Operation, target: Count, unknown: Attribute) -> Count | None:
        other = self.value(origin.right)
        match origin.kind:
            case "add":
                wanted = target - other
            case "sub":
                wanted = target + other
            case "mul":
                wanted = target.over(other)
            case "floordiv":
                wanted = target * other
            case _:
                return None
        return self.solved(origin.left, wanted, unknown)

    def _right(self, origin: Operation, target: Count, unknown: Attribute) -> Count | None:
        other = self.value(origin.left)
        match origin.kind:
            case "add":
                wanted = target - other
            case "sub":
                wanted = other - target
            case "mul":
                wanted = target.over(other)
            case "floordiv":
                wanted = other.over(target)
            case _:
                return None
        return self.solved(origin.right, wanted, unknown)
