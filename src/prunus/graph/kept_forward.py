"""The terms on which a model keeps the forwards that its user wrote: one record, made by `surgery.own_forward`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prunus.graph.coupling import Coupling, Tie, frozen_axes
from prunus.graph.layout import Frozen
from prunus.graph.size_functions import Count
from prunus.graph.traced import Attribute


@dataclass(frozen=True, slots=True)
class Equation:
    """``left`` = ``right`` has to hold for the forward to be right; ``node`` needs it, ``reason`` says what for."""

    left: Count
    right: Count
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Multiple:
    """``count`` has to be a multiple of ``step``: what code makes of it is a whole number, or rows have a length."""

    count: Count
    step: int
    node: str
    reason: str


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
    """

    attributes: Mapping[Attribute, Count] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    equations: tuple[Equation, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    emptied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    old: Mapping[Attribute, int] = field(default_factory=dict)
    why: str = ""

    def on(self, coupling: Coupling) -> Coupling:
        """Return an analysis in which the axes that have to stay whole are frozen, and the others tied."""
        return replace(frozen_axes(coupling, self.frozen), ties=self.ties, forward=self)
