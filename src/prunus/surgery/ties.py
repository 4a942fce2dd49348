"""Equations between kept counts → axes in fixed proportion, and axes that have to stay whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from prunus.graph.counts import Count, Monomial, Terms
from prunus.graph.coupling import Coupling, Tie
from prunus.graph.layout import Frozen
from prunus.surgery.solving import Equation


@dataclass(slots=True)
class Ties:
    """Proportions between axes, and what is frozen.

    A linear equation in two sizes ties them; one with a product, |H|·|D| = |C|, does when a factor stays whole, the
    last one; any other freezes what it names.
    """

    coupling: Coupling
    frozen: dict[int, Frozen]
    ratios: dict[int, dict[int, Fraction]] = field(default_factory=dict)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The groups, as axis id → how many units go with each step."""
        found = []
        for group in {id(g): g for g in self.ratios.values()}.values():
            if len(group) < 2:
                continue
            scale = math.lcm(*(r.denominator for r in group.values()))
            units = {a: int(r * scale) for a, r in group.items()}
            shared = math.gcd(*units.values())
            found.append(Tie({self.coupling.axis_of[a]: n // shared for a, n in sorted(units.items())}))
        return tuple(found)

    def take(self, equation: Equation) -> bool:
        """Work one equation in; whether that changed anything."""
        sizes = {a: self.coupling.sizes[a] for a in self.frozen}
        terms = _difference(equation.left.with_constants(sizes), equation.right.with_constants(sizes))
        atoms = sorted({a for m, _ in terms for a in m})
        if not atoms:
            return False
        why = Frozen(f"sizes must agree: {equation.reason}", equation.node)
        products = [m for m, _ in terms if len(m) > 1]
        if products:
            return self.freeze([_last(products)], why)
        plain = dict(terms)
        if len(atoms) == 2 and len(terms) == 2:
            a, b = atoms
            ratio = Fraction(-plain[(b,)], plain[(a,)])  # a = ratio · b
            if ratio > 0:
                return self.tie(a, b, ratio, why)
        return self.freeze(atoms, why)

    def tie(self, a: int, b: int, ratio: Fraction, why: Frozen) -> bool:
        """Let a = ratio · b hold; contradictions freeze both groups."""
        one, two = (self.ratios.setdefault(x, {x: Fraction(1)}) for x in (a, b))
        if one is two:
            return False if one[a] == ratio * one[b] else self.freeze(list(one), why)
        factor = ratio * two[b] / one[a]
        for atom, value in one.items():
            two[atom] = value * factor
            self.ratios[atom] = two
        return True

    def freeze(self, atoms: Iterable[int], why: Frozen) -> bool:
        """Hold axes whole, with everything that is tied to them."""
        changed = False
        for atom in atoms:
            for member in self.ratios.pop(atom, {atom: 1}):
                self.ratios.pop(member, None)
                if member not in self.frozen:
                    self.frozen[member] = why
                    changed = True
        return changed


def tied(coupling: Coupling, equations: Iterable[Equation], frozen: Mapping[int, Frozen]) -> Ties:
    """Work all equations in, again and again while something new is frozen or tied."""
    found, todo = Ties(coupling, dict(frozen)), list(equations)
    changed = True
    while changed:
        changed = False
        for equation in todo:
            changed |= found.take(equation)
    return found


def _difference(left: Count, right: Count) -> Terms:
    """Return left − right over one denominator, without what all terms share."""
    return (left - right).above


def _last(products: list[Monomial]) -> int:
    """Return the innermost factor: of heads × head dims the dims, which were made after the heads."""
    return max(a for m in products for a in m)
