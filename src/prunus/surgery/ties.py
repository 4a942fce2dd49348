"""Equations between kept counts → axes in fixed proportion, and axes that have to stay whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from prunus.graph.axis import Tie
from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import Equation, Multiple
from prunus.graph.layout import Frozen
from prunus.graph.size_functions import Count, Monomial, Terms


@dataclass(slots=True)
class Ties:
    """Proportions between axes, and what is frozen.

    A linear equation in two sizes ties them; one with a product, |H|·|D| = |C|, does when a factor stays whole, the
    last one; any other freezes what it names.
    """

    coupling: Coupling
    frozen: dict[int, Frozen]
    ratios: dict[int, dict[int, Fraction]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The groups, as axis id → how many units go with each step."""
        found = []
        alone = [{a: Fraction(1)} for a in self.steps if a not in self.ratios and a not in self.frozen]
        for group in [*{id(g): g for g in self.ratios.values()}.values(), *alone]:
            scale = math.lcm(*(r.denominator for r in group.values()))
            units = {a: int(r * scale) for a, r in group.items()}
            shared = math.gcd(*units.values())
            units = {a: n // shared for a, n in sorted(units.items())}
            times = math.lcm(*(self.steps.get(a, 1) // math.gcd(self.steps.get(a, 1), n) for a, n in units.items()))
            if len(units) > 1 or times > 1:
                found.append(Tie({self.coupling.axis_of[a]: n * times for a, n in units.items()}))
        return tuple(found)

    def take_multiple(self, multiple: Multiple) -> bool:
        """Work in that a size goes in steps; whether that froze anything."""
        sizes = {a: self.coupling.sizes[a] for a in self.frozen}
        count = multiple.count.with_constants(sizes)
        if not count.atoms():
            return False
        (monomial, times), *others = count.above
        why = Frozen(f"{multiple.reason}", multiple.node)
        if others or len(monomial) > 1 or count.below != Count.of(1).above:
            return self.freeze([max(count.atoms())] if len(monomial) > 1 else count.atoms(), why)
        step = multiple.step // math.gcd(multiple.step, times)
        self.steps[monomial[0]] = math.lcm(step, self.steps.get(monomial[0], 1))
        return False

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


def tied(
    coupling: Coupling, equations: Iterable[Equation], multiples: Iterable[Multiple], frozen: Mapping[int, Frozen]
) -> Ties:
    """Work everything in, again and again while something new is frozen or tied."""
    found, todo, steps = Ties(coupling, dict(frozen)), list(equations), list(multiples)
    changed = True
    while changed:
        changed = False
        for equation in todo:
            changed |= found.take(equation)
        for multiple in steps:
            changed |= found.take_multiple(multiple)
    return found


def _difference(left: Count, right: Count) -> Terms:
    """Return left − right over one denominator, without what all terms share."""
    return (left - right).above


def _last(products: list[Monomial]) -> int:
    """Return the innermost factor: of heads × head dims the dims, which were made after the heads."""
    return max(a for m in products for a in m)
