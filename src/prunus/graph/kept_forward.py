"""The terms on which a model keeps the forwards that its user wrote: one record, made by `surgery.own_forward`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from prunus.graph.axis import Tie
from prunus.graph.layout import Frozen
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
class OwnForward:
    """The terms on which every forward of a model stays the user's.

    Attributes:
        attributes: module attribute → its required value, in kept counts.
        frozen: axis id → the reason why it has to stay whole, and the node that needs it.
        ties: axes whose kept counts are in fixed proportion.
        equations: everything that has to hold between kept counts.
        multiples: counts that change in steps.
        emptied: axis id of units that nothing reads and that are removed first → the axes that may lose units after
            that.
        old: the present values of the attributes.
        why: the reason why the origins of the program's numbers are unknown; empty where they are known.
    """

    attributes: Mapping[Attribute, Count] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    equations: tuple[Equation, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    emptied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    old: Mapping[Attribute, int] = field(default_factory=dict)
    why: str = ""

    def on(self, coupling: Analysed) -> Analysed:
        """Return the analysis with the axes that have to stay whole frozen, and the others tied."""
        return coupling.under(self)
