"""The price as one polynomial in the widths that an allocator chooses, evaluated for many choices at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunus.cost.price import CostModel, Term
from prunus.graph.coupling import count
from prunus.graph.layout import Expr, Prod, atoms_of
from prunus.plans import Cost

FIELDS = ("params", "macs_forward", "macs_backward", "param_bytes", "latency_fs")
Monomial = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PricePolynomial:
    """price_f(n) = Σ_m coefficient_{m,f} · Π_{i in m} n_i.

    Shapes: powers (M, D), indices of axes, where ``len(axes)`` stands for the factor one; coefficients (M, 5), int64,
        in the order of `FIELDS`; touching: for each axis the rows in which it occurs.
    """

    axes: tuple[str, ...]
    powers: np.ndarray
    coefficients: np.ndarray
    touching: tuple[np.ndarray, ...]

    @staticmethod
    def of(
        cost: CostModel,
        axes: Sequence[str],
        fixed: Mapping[str, int],
        groups: Mapping[str, Mapping[str, int]] | None = None,
        rest: Mapping[str, int] | None = None,
    ) -> PricePolynomial:
        """Multiply out the terms of a cost model; axes that are not named keep the count in ``fixed``, or all units.

        The width of an axis with a group counts its steps: every axis of the group has so many units for each,
        and what ``rest`` says beside them.
        """
        coupling, tied = cost.coupling, groups or {}
        variable = {
            coupling.axis(member).atom: Steps(i, units, (rest or {}).get(member, 0))
            for i, name in enumerate(axes)
            for member, units in tied.get(name, {name: 1}).items()
        }
        constant = {coupling.axes[name].atom: n for name, n in fixed.items() if name in coupling.axes}
        sizes = {a: constant.get(a, size) for a, size in enumerate(coupling.sizes)}
        monomials: dict[Monomial, list[int]] = {}
        for column, term in [*((0, t) for t in cost.params), *((1, t) for t in cost.macs)]:
            for monomial, coefficient in _expand(term, variable, sizes).items():
                row = monomials.setdefault(monomial, [0] * len(FIELDS))
                row[column] += coefficient
                row[column + 1 if column else 3] += coefficient * (
                    term.backward if column else cost.item_bytes[term.owner]
                )
        for term in cost.times:
            for monomial, coefficient in _expand(term, variable, sizes).items():
                monomials.setdefault(monomial, [0] * len(FIELDS))[4] += coefficient
        if cost.fixed_fs:
            monomials.setdefault((), [0] * len(FIELDS))[4] += cost.fixed_fs
        degree = max(map(len, monomials), default=0)
        powers = np.full((len(monomials), max(1, degree)), len(axes), np.int64)
        for i, monomial in enumerate(monomials):
            powers[i, : len(monomial)] = monomial
        rows = np.array(list(monomials.values()), np.int64).reshape(-1, len(FIELDS))
        touching = tuple(np.flatnonzero((powers == i).any(axis=1)) for i in range(len(axes)))
        return PricePolynomial(tuple(axes), powers, rows, touching)

    def prices(self, widths: np.ndarray) -> np.ndarray:
        """Return the price of many choices at once.

        Shapes: widths (N, axes), int → (N, 5), int64.
        """
        padded = np.concatenate([widths, np.ones((len(widths), 1), np.int64)], axis=1)
        values = padded[:, self.powers[:, 0]]
        for column in self.powers.T[1:]:
            values = values * padded[:, column]
        return np.asarray(values @ self.coefficients)

    def price(self, counts: Mapping[str, int]) -> Cost:
        """Return the exact cost of kept counts; every axis must be named."""
        row = self.prices(np.array([[counts[a] for a in self.axes]], np.int64).reshape(1, -1))[0]
        return Cost(*(int(x) for x in row))

    def slices(self, fields: np.ndarray) -> list[Slice]:
        """Return the mixed price Σ_f w_f · price_f as a function of each width; ``fields`` holds w."""
        slices = []
        for axis, rows in enumerate(self.touching):
            powers = self.powers[rows]
            degrees = (powers == axis).sum(axis=1)
            others = np.where(powers == axis, len(self.axes), powers)
            weights = (self.coefficients[rows] @ fields).astype(float)
            slices.append(Slice(others.T.copy(), weights, degrees, int(degrees.max(initial=0))))
        return slices

    def scopes(self) -> dict[tuple[int, ...], list[int]]:
        """Group the monomials by the set of axes that occur in them: scope → rows."""
        grouped: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(self.powers):
            grouped.setdefault(tuple(sorted(set(row.tolist()) - {len(self.axes)})), []).append(i)
        return grouped


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a price that depends on one width n, the others fixed: Σ_r weight_r · Π others_r · n^degree_r."""

    others: np.ndarray
    weights: np.ndarray
    degrees: np.ndarray
    degree: int

    def cost(self, padded: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Return the price of each width, given all widths with a one appended, ``padded``."""
        rest = self.weights * padded[self.others].prod(axis=0)
        if self.degree == 1:
            return np.asarray(rest.sum() * widths)
        by_degree = np.bincount(self.degrees, weights=rest, minlength=self.degree + 1)
        return np.asarray(np.polynomial.polynomial.polyval(widths, by_degree))


class Steps(NamedTuple):
    """Units of an axis as a function of a width: ``units`` · width number ``axis`` + ``rest``."""

    axis: int
    units: int = 1
    rest: int = 0


def _expand(term: Term, variable: Mapping[int, Steps], sizes: Mapping[int, int]) -> Counter[Monomial]:
    product: Counter[Monomial] = Counter({(): term.factor})
    for expr in term.dims:
        product = _times(product, _polynomial(expr, variable, sizes))
    return product


def _polynomial(expr: Expr, variable: Mapping[int, Steps], sizes: Mapping[int, int]) -> Counter[Monomial]:
    if not any(a in variable for a in atoms_of(expr)):
        return Counter({(): int(count(expr, lambda a: sizes[a]))})
    if isinstance(expr, int):
        steps = variable[expr]
        found: Counter[Monomial] = Counter({(steps.axis,): steps.units})
        if steps.rest:
            found[()] = steps.rest
        return found
    parts = [_polynomial(p, variable, sizes) for p in (expr.factors if isinstance(expr, Prod) else expr.terms)]
    total = parts[0]
    for part in parts[1:]:
        total = _times(total, part) if isinstance(expr, Prod) else total + part
    return total


def _times(left: Counter[Monomial], right: Counter[Monomial]) -> Counter[Monomial]:
    out: Counter[Monomial] = Counter()
    for m, a in left.items():
        for n, b in right.items():
            out[tuple(sorted((*m, *n)))] += a * b
    return out
