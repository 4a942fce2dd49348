"""Equations between kept counts → axes that lose units together, in steps, and axes that have to stay whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prunus.graph.axis import Tie
from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import Equation, Multiple
from prunus.graph.layout import Frozen, atoms_of
from prunus.graph.size_functions import Count, Terms
from prunus.surgery.keeping.head_dims import products_of
from prunus.surgery.keeping.step_directions import Row, directions


@dataclass(slots=True)
class Ties:
    """Axes that lose units together, and axes that stay whole.

    The dense network satisfies every equation, so a linear one, Σ c_a·n_a = c, says of the removed units r_a that
    Σ c_a·r_a = 0, however many sizes it has. An equation with a product, |H|·|D| = |C|, becomes linear when its last
    factor stays whole, or its first.

    Attributes:
        coupling: the analysis of the axes.
        equations: what has to hold between kept counts.
        multiples: which counts go in steps.
        frozen: atom → why it stays whole.
        by_first: positions of equations whose first factor stays whole instead of the last.
        steps: atom → its units go in multiples of this.
        groups: atom → units that go with each step, for the atoms that lose units together.
        depths: atom → its place in the products of the tensors' dims.
    """

    coupling: Coupling
    equations: tuple[Equation, ...]
    multiples: tuple[Multiple, ...]
    frozen: dict[int, Frozen]
    by_first: frozenset[int] = frozenset()
    steps: dict[int, int] = field(default_factory=dict)
    groups: list[dict[int, int]] = field(default_factory=list)
    depths: dict[int, int] = field(default_factory=dict)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The groups by axis id, and the axes that go in steps by themselves."""
        name, found = self.coupling.axis_of, []
        for group in self.groups:
            units = self._in_steps(group)
            count = min(self.coupling.sizes[a] // n for a, n in units.items())
            rest = {name[a]: self.coupling.sizes[a] - n * count for a, n in units.items()}
            found.append(Tie({name[a]: n for a, n in units.items()}, {a: n for a, n in rest.items() if n}))
        grouped = {a for group in self.groups for a in group}
        alone = {a: n for a, n in self.steps.items() if n > 1 and a not in grouped and a not in self.frozen}
        return (*found, *(Tie({name[a]: n}) for a, n in alone.items()))

    def settle(self) -> None:
        """Work everything in, again and again while that freezes another axis."""
        while not (self._is_linear() and self._is_stepped() and self._is_grouped()):
            pass

    def _is_linear(self) -> bool:
        """Freeze a factor of each product in an equation; return whether there was none."""
        before = len(self.frozen)
        for i, equation in enumerate(self.equations):
            products = [m for m, _ in self._terms(equation) if len(m) > 1]
            if products:
                factors = sorted({a for m in products for a in m}, key=self._depth)
                self._freeze([factors[0 if i in self.by_first else -1]], _why(equation, self._held()))
        return len(self.frozen) == before

    def _is_stepped(self) -> bool:
        """Give axes the steps of their counts, or freeze them; return whether none was frozen."""
        before = len(self.frozen)
        self.steps = {}
        for multiple in self.multiples:
            count = multiple.count.with_constants(self._held())
            products = [m for m, _ in count.above if len(m) > 1]
            single = len(count.above) == 1
            if not count.atoms():
                continue
            if products or count.below != Count.of(1).above or not (single or self._begins_in_steps(count, multiple)):
                inner = max((a for m in products for a in m), key=self._depth, default=0)
                atoms = [inner] if products else count.atoms()
                self._freeze(atoms, Frozen(multiple.reason, multiple.node))
                continue
            for monomial, times in count.above:
                for atom in monomial:
                    step = multiple.step // math.gcd(multiple.step, times)
                    self.steps[atom] = math.lcm(step, self.steps.get(atom, 1))
        return len(self.frozen) == before

    def _begins_in_steps(self, count: Count, multiple: Multiple) -> bool:
        now = count.at(self.coupling.sizes.__getitem__)
        return now is not None and now % multiple.step == 0

    def _is_grouped(self) -> bool:
        """Group the axes of each system of equations, or freeze them; return whether none was frozen."""
        rows: list[tuple[Row, Frozen]] = []
        for equation in self.equations:
            terms, why = self._terms(equation), _why(equation, self._held())
            row = {m[0]: c for m, c in terms if m}
            if sum(c * math.prod(self.coupling.sizes[a] for a in m) for m, c in terms):
                self._freeze(row, why)  # the dense network breaks it: nothing is known of it
            elif row:
                rows.append((row, why))
        self.groups, stuck = directions(rows, self.coupling.sizes, self._is_reachable)
        for atom, why in stuck.items():
            self._freeze([atom], why)
        return not stuck and not any(a in self.frozen for row, _ in rows for a in row)

    def _is_reachable(self, group: Mapping[int, int]) -> bool:
        """Return whether every axis of a group has two steps or more, and begins at a multiple of its own step."""
        sizes, units = self.coupling.sizes, self._in_steps(group)
        begins = all(sizes[a] % self.steps.get(a, 1) == 0 for a in group)
        return begins and min(sizes[a] // n for a, n in units.items()) > 1

    def _in_steps(self, group: Mapping[int, int]) -> dict[int, int]:
        times = math.lcm(*(self.steps.get(a, 1) // math.gcd(self.steps.get(a, 1), n) for a, n in group.items()))
        return {a: n * times for a, n in group.items()}

    def stuck(self, before: Mapping[int, Frozen]) -> frozenset[int]:
        """Return the positions of the equations with a product all of whose axes came to stay whole."""
        held = {a: self.coupling.sizes[a] for a in before}
        found = set()
        for i, equation in enumerate(self.equations):
            terms = _without_shared(equation, held)
            atoms = {a for m, _ in terms for a in m}
            if any(len(m) > 1 for m, _ in terms) and atoms <= self.frozen.keys():
                found.add(i)
        return frozenset(found)

    def _terms(self, equation: Equation) -> Terms:
        """Return left − right over one denominator, without the axes that every term has; frozen axes are numbers."""
        return _without_shared(equation, self._held())

    def _depth(self, atom: int) -> tuple[int, int]:
        """Return how far inside products an axis stands: of heads × head dims the dims are the inner factor."""
        if not self.depths:
            self.depths[-1] = 0
            for dims in self.coupling.tensors.values():
                for expr in dims:
                    for product in products_of(expr):
                        for depth, a in enumerate(atoms_of(product)):
                            self.depths[a] = max(depth, self.depths.get(a, 0))
        return self.depths.get(atom, 0), atom

    def _held(self) -> dict[int, int]:
        return {a: self.coupling.sizes[a] for a in self.frozen}

    def _freeze(self, atoms: Iterable[int], why: Frozen) -> None:
        for atom in atoms:
            self.frozen.setdefault(atom, why)


def tied(
    coupling: Coupling, equations: Iterable[Equation], multiples: Iterable[Multiple], frozen: Mapping[int, Frozen]
) -> Ties:
    """Solve equations between kept counts.

    Where the width of a head cannot stay whole, for no number of heads goes with the other sizes, the heads do.

    Args:
        coupling: the analysis of the axes.
        equations: what has to hold between kept counts.
        multiples: which counts go in steps.
        frozen: atoms that stay whole for other reasons.
    """
    found = Ties(coupling, tuple(equations), tuple(multiples), dict(frozen))
    found.settle()
    stuck = found.stuck(frozen)
    if not stuck:
        return found
    other = Ties(coupling, found.equations, found.multiples, dict(frozen), stuck)
    other.settle()
    return other if len(other.frozen) < len(found.frozen) else found


def _why(equation: Equation, held: Mapping[int, int]) -> Frozen:
    """Return the reason of an equation; where a side stays whole, with its number."""
    fixed = next((n for n in (equation.left, equation.right) if n.with_constants(held).constant is not None), None)
    number = "" if fixed is None else f", and that is {fixed.with_constants(held).constant} whatever is cut"
    return Frozen(f"sizes must agree: {equation.reason}{number}", equation.node)


def _without_shared(equation: Equation, held: Mapping[int, int]) -> Terms:
    terms = (equation.left.with_constants(held) - equation.right.with_constants(held)).above
    return Count(terms).over(Count((terms[0],))).above if len(terms) > 1 else terms
