"""Sizes as functions of the number of units that each axis keeps: quotients of polynomials with whole coefficients.

A size after a cut is a sum of terms, each a constant times kept counts; a number that code computes from sizes
(``C // heads``) is a quotient of two such sums. Atoms that are no axis are constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prunus.graph.layout import Expr, Prod

Monomial = tuple[int, ...]
Terms = tuple[tuple[Monomial, int], ...]
_ONE: Terms = (((), 1),)


@dataclass(frozen=True, slots=True, eq=False)
class Count:
    """A quotient of two sums Σ coefficient · Π n_atom, without common monomial factors.

    It compares equal to another count, or to a whole number, where both are the same function.
    """

    above: Terms
    below: Terms = _ONE

    @staticmethod
    def of(value: int | Count) -> Count:
        """Return a number as a count."""
        return value if isinstance(value, Count) else Count((((), value),) if value else ())

    @staticmethod
    def atom(atom: int) -> Count:
        """Return the number of units of an axis that stay, as a count."""
        return Count((((atom,), 1),))

    @property
    def constant(self) -> int | None:
        """The value, where it does not depend on the kept counts; else None."""
        if not self.above:
            return 0
        whole = self.below == _ONE and len(self.above) == 1 and self.above[0][0] == ()
        return self.above[0][1] if whole else None

    def atoms(self) -> frozenset[int]:
        """Return the axes on which the count depends."""
        return frozenset(a for m, _ in (*self.above, *self.below) for a in m)

    def at(self, size: Callable[[int], int]) -> int | None:
        """Return the value at kept counts; None where it is no whole number."""
        above, below = _value(self.above, size), _value(self.below, size)
        return above // below if below and above % below == 0 else None

    def with_constants(self, sizes: Mapping[int, int]) -> Count:
        """Return the count with some axes fixed at these sizes."""
        if not self.atoms() & sizes.keys():
            return self
        return _quotient(_held(self.above, sizes), _held(self.below, sizes))

    def renamed(self, names: Mapping[int, int]) -> Count:
        """Return the count with atoms renamed; every atom must have a new name."""

        def of(terms: Terms) -> Terms:
            return tuple(sorted((tuple(sorted(names[a] for a in m)), c) for m, c in terms))

        return Count(of(self.above), of(self.below))

    def __add__(self, other: int | Count) -> Count:
        other = Count.of(other)
        if self.below == other.below:
            return _quotient(_sum(self.above, other.above), self.below)
        return _quotient(
            _sum(_product(self.above, other.below), _product(other.above, self.below)),
            _product(self.below, other.below),
        )

    __radd__ = __add__

    def __neg__(self) -> Count:
        return Count(tuple((m, -c) for m, c in self.above), self.below)

    def __sub__(self, other: int | Count) -> Count:
        return self + -Count.of(other)

    def __rsub__(self, other: int | Count) -> Count:
        return Count.of(other) - self

    def __mul__(self, other: int | Count) -> Count:
        other = Count.of(other)
        return _quotient(_product(self.above, other.above), _product(self.below, other.below))

    __rmul__ = __mul__

    def over(self, other: int | Count) -> Count:
        """Return the quotient.

        Raises:
            ZeroDivisionError: the other is zero.
        """
        other = Count.of(other)
        if not other.above:
            raise ZeroDivisionError("a size divided by zero")
        return _quotient(_product(self.above, other.below), _product(self.below, other.above))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (int, Count)):
            return NotImplemented
        other = Count.of(other)
        return _product(self.above, other.below) == _product(other.above, self.below)

    def __hash__(self) -> int:
        constant = self.constant
        return hash((self.above, self.below)) if constant is None else hash(constant)

    def described(self, name: Callable[[int], str]) -> str:
        """Return the formula with the names of axes."""
        above = _text(self.above, name)
        return above if self.below == _ONE else f"({above}) / ({_text(self.below, name)})"


def counted(expr: Expr, free: Callable[[int], bool], sizes: Any) -> Count:
    """Return the number of positions of a dim that stay, as a function of the axes whose atoms are ``free``."""
    if isinstance(expr, int):
        return Count.atom(expr) if free(expr) else Count.of(int(sizes[expr]))
    if isinstance(expr, Prod):
        total = Count.of(1)
        for factor in expr.factors:
            total = total * counted(factor, free, sizes)
        return total
    whole = Count.of(0)
    for term in expr.terms:
        whole = whole + counted(term, free, sizes)
    return whole


def _terms(items: Iterable[tuple[Monomial, int]]) -> Terms:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in items:
        total[monomial] = total.get(monomial, 0) + coefficient
    return tuple(sorted((m, c) for m, c in total.items() if c))


def _sum(a: Terms, b: Terms) -> Terms:
    return _terms((*a, *b))


def _product(a: Terms, b: Terms) -> Terms:
    if a == _ONE or b == _ONE:
        return b if a == _ONE else a
    return _terms((tuple(sorted((*m, *n))), c * d) for m, c in a for n, d in b)


def _quotient(above: Terms, below: Terms) -> Count:
    """Divide both sums by their common monomial and number; the first coefficient below is made positive."""
    if below == _ONE or not above:
        return Count(above)
    if _product(above, ((below[0][0], below[0][1]),)) == _product(below, ((above[0][0], above[0][1]),)):
        above, below = above[:1], below[:1]  # one sum is a multiple of the other
    shared = _common([m for m, _ in (*above, *below)])
    number = math.gcd(*(c for _, c in (*above, *below))) * (1 if below[0][1] > 0 else -1)
    return Count(_divided(above, shared, number), _divided(below, shared, number))


def _common(monomials: list[Monomial]) -> Monomial:
    shared = list(monomials[0])
    for monomial in monomials[1:]:
        rest, common = list(monomial), []
        for atom in shared:
            if atom in rest:
                rest.remove(atom)
                common.append(atom)
        shared = common
    return tuple(shared)


def _divided(terms: Terms, shared: Monomial, number: int) -> Terms:
    out = []
    for monomial, coefficient in terms:
        rest = list(monomial)
        for atom in shared:
            rest.remove(atom)
        out.append((tuple(rest), coefficient // number))
    return tuple(sorted(out))


def _held(terms: Terms, sizes: Mapping[int, int]) -> Terms:
    return _terms(
        (tuple(a for a in m if a not in sizes), c * math.prod(sizes[a] for a in m if a in sizes)) for m, c in terms
    )


def _value(terms: Terms, size: Callable[[int], int]) -> int:
    return sum(c * math.prod(size(a) for a in m) for m, c in terms)


def _text(terms: Terms, name: Callable[[int], str]) -> str:
    return (
        " + ".join("·".join([*([str(c)] if c != 1 or not m else []), *(name(a) for a in m)]) for m, c in terms) or "0"
    )
