"""The records of an analysis: an axis with the tensor dims it lies on, a frozen dim, axes that are tied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunus.graph.layout import Expr


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor dim in which an axis occurs; ``expr`` is the whole dim."""

    tensor: str
    dim: int
    expr: Expr


@dataclass(frozen=True, slots=True)
class Axis:
    """A set of units that can be removed one by one from every tensor at once; at least ``least`` of them must stay."""

    id: str
    atom: int
    size: int
    members: tuple[Member, ...]
    statistic: bool
    least: int = 1


@dataclass(frozen=True, slots=True)
class FrozenDim:
    """A tensor dim (or a factor of it) that may not be cut, and the reason.

    ``where`` names the node that froze it; empty for a tensor that no node reads. ``size`` counts the positions of the
    factor.
    """

    tensor: str
    dim: int
    reason: str
    where: str
    size: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Axes that keep ``rest[axis] + units[axis] · t`` units, with one number t of steps for all of them.

    An axis that is not in ``rest`` keeps a multiple of its units.
    """

    units: Mapping[str, int]
    rest: Mapping[str, int] = field(default_factory=dict)
