"""The terms on which a model keeps the forwards that its user wrote: one record, made by `surgery.own_forward`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from prunus.graph.coupling import Coupling, Keep, Member, Tie, frozen_axes
from prunus.graph.layout import Expr, Frozen, Prod, Sum, atoms_of
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

    def on(self, coupling: Coupling) -> Coupling:
        """Return an analysis in which the axes that have to stay whole are frozen, and the others tied."""
        return replace(frozen_axes(self.followed(coupling), self.frozen), ties=self.ties, forward=self)

    def broken(self, coupling: Coupling, keep: Keep) -> Iterator[Equation]:
        """Yield the equations that do not hold between the kept counts of a choice of units."""
        for equation in self.equations:
            if (equation.left - equation.right).at(lambda atom: coupling.kept(atom, keep)) != 0:
                yield equation

    def followed(self, coupling: Coupling) -> Coupling:
        """Return an analysis in which the followers lie on the axes with which they lose units."""
        if not self.followers:
            return coupling
        sizes, tensors, axes = list(coupling.sizes), dict(coupling.tensors), dict(coupling.axes)
        covered = set()
        for follower in self.followers:
            names = {}
            for i, (axis, size) in enumerate(follower.parts):
                names[i] = axes[axis].atom if axis in axes else len(sizes)
                if axis not in axes:
                    sizes.append(size)
            tensors[follower.tensor] = tuple(renamed(e, names) for e in follower.dims)
            for axis in sorted(follower.axes & axes.keys()):
                atom = axes[axis].atom
                places = [(d, e) for d, e in enumerate(tensors[follower.tensor]) if atom in atoms_of(e)]
                members = tuple(Member(follower.tensor, d, e) for d, e in places)
                axes[axis] = replace(axes[axis], members=(*axes[axis].members, *members))
                covered |= {(follower.tensor, d) for d, _ in places}
        frozen = tuple(f for f in coupling.frozen if (f.tensor, f.dim) not in covered)
        return replace(coupling, sizes=tuple(sizes), tensors=tensors, axes=axes, frozen=frozen)


def renamed(expr: Expr, names: Mapping[int, int]) -> Expr:
    """Return an expression in other atoms; every atom must have a name."""
    if isinstance(expr, int):
        return names[expr]
    if isinstance(expr, Prod):
        return Prod(tuple(renamed(f, names) for f in expr.factors))
    return Sum(tuple(renamed(t, names) for t in expr.terms))
