"""Solve Σ c_a·r_a = 0 for removed units r ≥ 0: how many units each axis loses with every common step.

Equations that share no axis are independent. In each independent system a step is one positive whole solution; where
several are independent of each other, as in |A| + |B| = |C|, the one nearest to equal shares of all sizes is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from prunus.graph.layout import Frozen

Row = Mapping[int, int]
_Solved = dict[int, dict[int, Fraction]]


def directions(
    rows: Iterable[tuple[Row, Frozen]], sizes: Sequence[int], fits: Callable[[Mapping[int, int]], bool]
) -> tuple[list[dict[int, int]], dict[int, Frozen]]:
    """Return the steps, and the atoms that no solution lets lose a unit.

    Args:
        rows: atom → coefficient, and the reason of the equation.
        sizes: units of each atom.
        fits: whether a step may be used.
    """
    reasons = {tuple(sorted(row.items())): why for row, why in reversed(list(rows))}
    why = {a: reason for row, reason in reversed(reasons.items()) for a, _ in row}
    solved = _eliminated(dict(row) for row in reasons)
    stuck = {a for pivot, row in solved.items() if not any(v > 0 for v in row.values()) for a in (pivot, *row)}
    if stuck:
        return [], {a: why[a] for a in sorted(stuck)}
    groups = []
    for pivots in _independent(solved):
        step = _step({p: solved[p] for p in pivots}, sizes, fits)
        if step is None:
            stuck.update(pivots, *(solved[p] for p in pivots))
        else:
            groups.append(step)
    return groups, {a: why[a] for a in sorted(stuck)}


def _eliminated(rows: Iterable[dict[int, int]]) -> _Solved:
    """Return pivot → its value as a sum over free atoms, by elimination."""
    solved: _Solved = {}
    for given in rows:
        row: dict[int, Fraction] = {}
        for atom, c in given.items():
            _add(row, solved.get(atom, {atom: Fraction(1)}), Fraction(c))
        if not row:
            continue
        pivot = max(row)
        scale = -1 / row.pop(pivot)
        value = {a: c * scale for a, c in row.items()}
        for other in solved.values():
            if pivot in other:
                _add(other, value, other.pop(pivot))
        solved[pivot] = value
    return solved


def _add(row: dict[int, Fraction], other: Mapping[int, Fraction], times: Fraction) -> None:
    for atom, c in other.items():
        total = row.get(atom, Fraction(0)) + times * c
        if total:
            row[atom] = total
        else:
            row.pop(atom, None)


def _independent(solved: _Solved) -> Iterator[list[int]]:
    """Yield the pivots of each system that shares no free atom with another."""
    left = dict(solved)
    while left:
        pivot, row = left.popitem()
        group, atoms = [pivot], set(row)
        while near := [p for p, r in left.items() if atoms & r.keys()]:
            for p in near:
                group.append(p)
                atoms |= left.pop(p).keys()
        yield sorted(group)


def _step(solved: _Solved, sizes: Sequence[int], fits: Callable[[Mapping[int, int]], bool]) -> dict[int, int] | None:
    """Return the positive step that can remove most units; None where none is found."""
    best, most = None, 0
    for chosen in _chosen(solved, sizes):
        values = chosen | {p: _total(row, chosen) for p, row in solved.items()}
        if min(values.values()) <= 0:
            continue
        step = _whole(values)
        count = min(sizes[a] // n for a, n in step.items())
        removed = (count - 1) * sum(step.values())
        if removed > most and fits(step):
            best, most = step, removed
    return best


def _chosen(solved: _Solved, sizes: Sequence[int]) -> Iterator[dict[int, Fraction]]:
    """Yield units of the free atoms to try: equal shares of their sizes, and small numbers."""
    free = sorted({a for row in solved.values() for a in row})
    if len(free) == 1:
        yield {free[0]: Fraction(1)}
        return
    shares = _shares(solved, free, sizes)
    if shares is not None:
        for parts in _parts([sizes[a] for a in (*free, *solved)]):
            yield {a: Fraction(max(1, round(shares[a] * sizes[a] / parts))) for a in free}
    if len(free) <= _FEW:
        for units in itertools.product(range(1, _SMALL + 1), repeat=len(free)):
            yield {a: Fraction(n) for a, n in zip(free, units, strict=True)}


_FEW, _SMALL, _TURNS = 3, 4, 200


def _shares(solved: _Solved, free: Sequence[int], sizes: Sequence[int]) -> dict[int, Fraction] | None:
    """Return a share of each free atom with which every other atom loses units too; equal ones where that is so.

    As long as the loss of some atom is not positive, its equation is added to the shares (the perceptron).
    """
    shares = dict.fromkeys(free, Fraction(1))
    rows = [{a: c * sizes[a] / sizes[p] for a, c in row.items()} for p, row in solved.items()]
    rows += [{a: Fraction(1)} for a in free]
    for _ in range(_TURNS):
        wrong = min(rows, key=lambda row: _total(row, shares))
        if _total(wrong, shares) > 0:
            return shares
        norm = sum(c * c for c in wrong.values())
        for a, c in wrong.items():
            shares[a] = (shares[a] + c / norm).limit_denominator(1000)
    return None


def _total(row: Mapping[int, Fraction], values: Mapping[int, Fraction]) -> Fraction:
    return sum((c * values[a] for a, c in row.items()), Fraction(0))


def _parts(sizes: Sequence[int]) -> list[int]:
    """Return into how many parts the sizes may be divided: all divisors they share, and fewer and fewer up to two."""
    shared, least = math.gcd(*sizes), min(sizes)
    return [*(n for n in range(shared, 1, -1) if shared % n == 0), *range(least, 1, -max(1, least // 16))]


def _whole(values: Mapping[int, Fraction]) -> dict[int, int]:
    scale = math.lcm(*(v.denominator for v in values.values()))
    shared = math.gcd(*(int(v * scale) for v in values.values()))
    return {a: int(v * scale) // shared for a, v in sorted(values.items())}
