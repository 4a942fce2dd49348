"""The terms on which a model keeps the forwards that its user wrote: one record, made by `surgery.own_forward`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from prunus.graph.axis import Tie
from prunus.graph.layout import Expr, Frozen, Prod, Sum
from prunus.graph.size_functions import Count
from prunus.graph.traced import Attribute

Analysed = TypeVar("Analysed", bound="TakesTerms")


class TakesTerms(Protocol):
    """An analysis that can be limited to what the kept forwards allow: a `Coupling`."""

    def under(self: Analysed, forward: OwnForward) -> Analysed:
        """Return the analysis under these terms."""


@dataclass(frozen=True, slots=True)
class Equation:
    """``left`` = ``right`` must hold for the forward to be right; ``node`` needs it, for this ``reason``."""

    left: Count
    right: Count
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Multiple:
    """``count`` must be a multiple of ``step``: the code divides it, or a kernel needs rows of such a length."""

    count: Count
    step: int
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Follower:
    """A tensor that the analysed program does not read, but another one of the model does: a head for training.

    Attributes:
        tensor: its name.
        dims: its dims, whose atoms are positions in ``parts``.
        parts: the axis that each atom is, empty where it stays whole, with its units.
    """

    tensor: str
    dims: tuple[Expr, ...]
    parts: tuple[tuple[str, int], ...]

    @property
    def axes(self) -> frozenset[str]:
        """The axes on which it lies."""
        return frozenset(axis for axis, _ in self.parts if axis)


@dataclass(frozen=True, slots=True)
class OwnForward:
    """The terms on which every forward of a model stays the user's.

    Attributes:
        attributes: module attribute → what it has to be, in kept counts.
        frozen: axis id → why it has to stay whole, and the node that wants it.
        ties: axes that lose units together, in steps.
        equations: everything that has to hold between kept counts.
        multiples: what goes in steps.
        emptied: axis id of units that nothing reads, which go first → the axes that may lose units after that.
        old: what the attributes hold now.
        why: why nothing is known of the numbers of this program; empty where it is.
        followers: tensors that only other programs of the model read, on axes of this one: they lose the same units.
    """

    attributes: Mapping[Attribute, Count] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    equations: tuple[Equation, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    emptied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    old: Mapping[Attribute, int] = field(default_factory=dict)
    why: str = ""
    followers: tuple[Follower, ...] = ()

    def on(self, coupling: Analysed) -> Analysed:
        """Return the analysis with the axes that have to stay whole frozen, and the others tied."""
        return coupling.under(self)

    def broken(self, kept: Callable[[int], int]) -> Iterator[Equation]:
        """Yield the equations that do not hold between kept counts; ``kept`` maps an atom to its count."""
        for equation in self.equations:
            if (equation.left - equation.right).at(kept) != 0:
                yield equation


def renamed(expr: Expr, names: Mapping[int, int]) -> Expr:
    """Return an expression in other atoms; every atom must have a name."""
    if isinstance(expr, int):
        return names[expr]
    if isinstance(expr, Prod):
        return Prod(tuple(renamed(f, names) for f in expr.factors))
    return Sum(tuple(renamed(t, names) for t in expr.terms))
