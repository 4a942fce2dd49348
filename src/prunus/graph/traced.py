"""Integers and floats that remember which module attributes and tensor sizes they were computed from.

A `TracedInt` is an int to all code; arithmetic on it returns another one with a larger expression. It belongs to one
`Trace`. Once that trace is closed, arithmetic returns ordinary numbers, so that caches do not carry traces on.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prunus.graph.ir import Ref


@dataclass(frozen=True, slots=True)
class Attribute:
    """The integer ``name`` of the module at ``path``: ``num_heads``, ``config.hidden_size``, ``dims[2]``."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a value, or of a named tensor, in one dim."""

    of: Ref | str
    dim: int

    def __str__(self) -> str:
        return f"{self.of.node if isinstance(self.of, Ref) else self.of}.shape[{self.dim}]"


@dataclass(frozen=True, slots=True)
class Operation:
    """A number computed from others; ``kind`` is the name of a binary operator: add, mul, floordiv, pow, …"""

    kind: str
    left: Origin
    right: Origin

    def __str__(self) -> str:
        return f"({self.left} {_SIGNS.get(self.kind, self.kind)} {self.right})"


Origin = Attribute | Size | Operation | int | float
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truediv": "/", "mod": "%", "pow": "**"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two numbers that the code compared, the result, and the line of the comparison."""

    kind: str
    left: Origin
    right: Origin
    result: bool
    source: str


@dataclass(slots=True)
class Trace:
    """One recording; ``open`` while it runs.

    ``roots`` holds the numbers that code turned into C floats, as ``math.sqrt`` does: value → origin. ``casts`` are
    those that ``int`` made plain: (value, function that did it) → origin. ``values`` are those of the attributes.
    """

    open: bool = True
    comparisons: dict[tuple[Any, ...], Comparison] = field(default_factory=dict)
    roots: dict[int, Origin] = field(default_factory=dict)
    casts: dict[tuple[int, str], Origin] = field(default_factory=dict)
    values: dict[Attribute, int] = field(default_factory=dict)

    def attribute(self, value: int, at: Attribute) -> TracedInt:
        """Return an attribute's value as a traced number."""
        self.values[at] = value
        return TracedInt(value, at, self)

    def compared(self, kind: str, left: Origin, right: Origin, result: bool) -> None:
        """Note a comparison of two numbers, once for each line."""
        found = Comparison(kind, left, right, result, _line(4))
        self.comparisons[(kind, left, right, found.source)] = found


class TracedInt(int):
    """An int with an origin."""

    origin: Origin
    trace: Trace

    def __new__(cls, value: int, origin: Origin, trace: Trace) -> TracedInt:
        """Make an int with an origin."""
        made = int.__new__(cls, value)
        made.origin, made.trace = origin, trace
        return made

    def __reduce__(self) -> Any:
        return int, (plain(self),)

    def __copy__(self) -> int:
        return int.__pos__(self)

    def __deepcopy__(self, memo: Any) -> int:
        return int.__pos__(self)

    def __float__(self) -> float:
        if self.trace.open:
            self.trace.roots[plain(self)] = self.origin
        return float(int.__pos__(self))

    def __int__(self) -> int:
        return _cast(plain(self), self.origin, self.trace)

    def __floor__(self) -> TracedInt:
        return self

    def __round__(self, digits: Any = None) -> TracedInt:
        return self

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    __ceil__ = __trunc__ = __floor__

    # What is equal has to have one hash: numbers are keys of caches.
    def __hash__(self) -> int:
        return int.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return _compared("eq", self, other)

    def __ne__(self, other: object) -> bool:
        return _compared("ne", self, other)


class TracedFloat(float):
    """A float computed from a traced int."""

    origin: Origin
    trace: Trace

    def __new__(cls, value: float, origin: Origin, trace: Trace) -> TracedFloat:
        """Make a float with an origin."""
        made = float.__new__(cls, value)
        made.origin, made.trace = origin, trace
        return made

    def __reduce__(self) -> Any:
        return float, (float.__pos__(self),)

    def __copy__(self) -> float:
        return float.__pos__(self)

    def __deepcopy__(self, memo: Any) -> float:
        return float.__pos__(self)

    def __int__(self) -> int:
        return _cast(int(plain(self)), _rounded(self), self.trace)

    def __floor__(self) -> Any:
        return _traced(math.floor(plain(self)), lambda: _rounded(self), self.trace)

    def __ceil__(self) -> Any:
        return _traced(math.ceil(plain(self)), lambda: _rounded(self), self.trace)

    def __round__(self, digits: Any = None) -> Any:
        return _traced(round(plain(self), digits), lambda: _rounded(self), self.trace)

    __trunc__ = __int__


def _rounded(number: TracedFloat) -> Operation:
    """Return a float as a whole number: a quotient without a rest is one, anything else has no formula."""
    found = number.origin
    if isinstance(found, Operation) and found.kind == "truediv" and plain(number).is_integer():
        return Operation("floordiv", found.left, found.right)
    return Operation("round", found, 1)


def _cast(value: int, origin: Origin, trace: Trace) -> int:
    """Note what ``int`` forgets, for C code returns a plain number."""
    if trace.open:
        trace.casts[(value, function_of(_line(3)))] = origin
    return value


def plain(value: Any) -> Any:
    """Return a number without its origin."""
    if isinstance(value, TracedInt):
        return int.__pos__(value)
    return float.__pos__(value) if isinstance(value, TracedFloat) else value


def origin_of(value: Any, trace: Trace | None = None) -> Origin | None:
    """Return the origin of a number; a plain number is its own origin, anything else has none.

    With ``trace``, numbers of other recordings count as plain.
    """
    if isinstance(value, (TracedInt, TracedFloat)):
        return value.origin if trace is None or value.trace is trace else plain(value)
    return value if type(value) in (int, float) else None


def attributes_of(origin: Origin) -> Iterator[Attribute]:
    """Yield the attributes of an expression, repeats included."""
    if isinstance(origin, Attribute):
        yield origin
    elif isinstance(origin, Operation):
        yield from attributes_of(origin.left)
        yield from attributes_of(origin.right)


def sizes_of(origin: Origin) -> Iterator[Size]:
    """Yield the sizes in an expression, repeats included."""
    if isinstance(origin, Size):
        yield origin
    elif isinstance(origin, Operation):
        yield from sizes_of(origin.left)
        yield from sizes_of(origin.right)


def is_constant(origin: Origin) -> bool:
    """Return whether an expression is a plain number."""
    return isinstance(origin, (int, float))


def _compared(kind: str, left: TracedInt, right: object) -> bool:
    result: bool = getattr(operator, kind)(plain(left), plain(right))
    if left.trace.open and isinstance(right, TracedInt):
        left.trace.compared(kind, left.origin, right.origin, result)
    return result


def function_of(source: str) -> str:
    """Return file and function of a place in the code, ``file.py:12 in forward``, without the line."""
    place, _, name = source.partition(" in ")
    return f"{place.rpartition(':')[0]} in {name}"


def _line(depth: int) -> str:
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _traced(value: Any, origin: Callable[[], Operation], trace: Trace) -> Any:
    if not trace.open:
        return value
    if type(value) is int:
        return TracedInt(value, origin(), trace)
    return TracedFloat(value, origin(), trace) if type(value) is float else value


def _operator(kind: str, cls: type, *, swapped: bool) -> Callable[[Any, Any], Any]:
    function = getattr(operator, kind)

    def apply(self: Any, other: Any) -> Any:
        theirs = origin_of(other, self.trace)
        if theirs is None and not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        value = function(plain(left), plain(right))
        if theirs is None:
            return value
        mine = self.origin
        pair = (theirs, mine) if swapped else (mine, theirs)
        return _traced(value, lambda: Operation(kind, *pair), self.trace)

    return apply


def _give_operators() -> None:
    for kind in _SIGNS:
        for cls in (TracedInt, TracedFloat):
            setattr(cls, f"__{kind}__", _operator(kind, cls, swapped=False))
            setattr(cls, f"__r{kind}__", _operator(kind, cls, swapped=True))
    for cls in (TracedInt, TracedFloat):
        cls.__neg__ = lambda self: _traced(-plain(self), lambda: Operation("mul", self.origin, -1), self.trace)  # type: ignore[method-assign]


_give_operators()
