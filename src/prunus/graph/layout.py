"""The dim algebra: every dim is a nested product or sum of atoms; unify, factor, split refine them everywhere at once.

An expression is an atom (int), a row-major product ``Prod`` or a concatenation ``Sum``; the empty product `UNIT` has
size one. A leading sum distributes, (A+B)×C = A×C + B×C; an inner sum stays, as in rotary heads H×(P+P).
One table atom → expression is both the union-find and the refinement. Refinement only restricts which units may be
removed, so a conflict half-way leaves a sound (if coarser) state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Prod:
    """Row-major product of expressions."""

    factors: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Concatenation of expressions."""

    terms: tuple[Expr, ...]


Expr = int | Prod | Sum
UNIT = Prod(())


class Frozen(NamedTuple):
    """The reason why an atom may not be cut, and the node that froze it (empty outside any node)."""

    reason: str
    node: str = ""


class ConflictError(Exception):
    """Two dims cannot be brought to one expression; the caller freezes both."""


def product(*factors: Expr) -> Expr:
    """Build a canonical product: flat, without units, leading sum distributed."""
    flat: list[Expr] = []
    for f in factors:
        if isinstance(f, Prod):
            flat.extend(f.factors)
        else:
            flat.append(f)
    if len(flat) == 1:
        return flat[0]
    if flat and isinstance(flat[0], Sum):
        rest = flat[1:]
        return concat(*(product(t, *rest) for t in flat[0].terms))
    return Prod(tuple(flat))


def concat(*terms: Expr) -> Expr:
    """Build a canonical sum: flat, a single term is itself."""
    flat: list[Expr] = []
    for t in terms:
        if isinstance(t, Sum):
            flat.extend(t.terms)
        else:
            flat.append(t)
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def factors_of(expr: Expr) -> tuple[Expr, ...]:
    """Return the factors of a product; anything else is its own single factor."""
    return expr.factors if isinstance(expr, Prod) else (expr,)


def terms_of(expr: Expr) -> tuple[Expr, ...]:
    """Return the terms of a sum; anything else is its own single term."""
    return expr.terms if isinstance(expr, Sum) else (expr,)


def atoms_of(expr: Expr) -> Iterator[int]:
    """Yield the atoms of a normalised expression, left to right, repeats included."""
    if isinstance(expr, int):
        yield expr
    else:
        for part in expr.factors if isinstance(expr, Prod) else expr.terms:
            yield from atoms_of(part)


class Layout:
    """The table of atoms: size, refinement, reason of freezing, statistic mark; ``node`` is the present node."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.refined: list[Expr | None] = []
        self.frozen: list[Frozen | None] = []
        self.statistic: list[bool] = []
        self.node = ""

    def atom(self, size: int, frozen: Frozen | str | None = None, statistic: bool = False) -> Expr:
        """Return a fresh atom; size one is the unit."""
        if size == 1:
            return UNIT
        self.sizes.append(size)
        self.refined.append(None)
        self.frozen.append(Frozen(frozen, self.node) if isinstance(frozen, str) else frozen)
        self.statistic.append(statistic)
        return len(self.sizes) - 1

    def norm(self, expr: Expr) -> Expr:
        """Substitute refinements until none is left, and compress the paths in the table."""
        if isinstance(expr, int):
            known = self.refined[expr]
            if known is None:
                return expr
            result = self.norm(known)
            self.refined[expr] = result
            return result
        parts = expr.factors if isinstance(expr, Prod) else expr.terms
        new = tuple([self.norm(p) for p in parts])
        if all(a is b for a, b in zip(new, parts, strict=True)):
            return expr
        return product(*new) if isinstance(expr, Prod) else concat(*new)

    def size(self, expr: Expr) -> int:
        """Return the number of positions of an expression."""
        if isinstance(expr, int):
            return self.sizes[expr]
        if isinstance(expr, Prod):
            total = 1
            for f in expr.factors:
                total *= self.size(f)
            return total
        return sum(self.size(t) for t in expr.terms)

    def is_frozen(self, expr: Expr) -> bool:
        """Tell whether no position of ``expr`` may ever be removed (the unit counts as frozen)."""
        return all(self.frozen[a] is not None for a in atoms_of(self.norm(expr)))

    def freeze(self, expr: Expr, reason: Frozen | str) -> None:
        """Freeze every atom of ``expr``; the first reason stays. A bare text is a reason of the present node."""
        why = Frozen(reason, self.node) if isinstance(reason, str) else reason
        for a in atoms_of(self.norm(expr)):
            if self.frozen[a] is None:
                self.frozen[a] = why

    def reason(self, expr: Expr) -> Frozen:
        """Return the first reason for which a position of ``expr`` is frozen, with the node that froze it."""
        reasons = (self.frozen[a] for a in atoms_of(self.norm(expr)))
        return next((r for r in reasons if r is not None), Frozen("single", self.node))

    def mark_statistic(self, expr: Expr) -> None:
        """Note that an op averages over ``expr``, so that cutting it changes a statistic."""
        for a in atoms_of(self.norm(expr)):
            self.statistic[a] = True

    def _refine(self, atom: int, expr: Expr) -> None:
        reason, statistic = self.frozen[atom], self.statistic[atom]
        for a in atoms_of(expr):
            if a == atom:
                raise ConflictError("an axis would contain itself")
        self.refined[atom] = expr
        if reason is not None:
            self.freeze(expr, reason)
        if statistic:
            self.mark_statistic(expr)

    def _like(self, atom: int, size: int) -> Expr:
        return self.atom(size, self.frozen[atom], self.statistic[atom])

    def unify(self, left: Expr, right: Expr) -> None:
        """Make two expressions the same, refining atoms where needed.

        Raises:
            ConflictError: the two cannot be aligned; what was unified so far stays (it only restricts).
        """
        left, right = self.norm(left), self.norm(right)
        if left == right:
            return
        if self.size(left) != self.size(right):
            raise ConflictError(f"sizes {self.size(left)} and {self.size(right)} differ")
        if self.is_frozen(left) or self.is_frozen(right):
            self.freeze(left, self.reason(right))
            self.freeze(right, self.reason(left))
            return
        if isinstance(left, int) or isinstance(right, int):
            self._unify_atom(left, right)
        elif isinstance(left, Sum) or isinstance(right, Sum):
            self._unify_sums(left, right)
        else:
            self._unify_products(left, right)

    def _unify_atom(self, left: Expr, right: Expr) -> None:
        if not isinstance(left, int):
            left, right = right, left
        assert isinstance(left, int)
        if left in atoms_of(right):
            raise ConflictError("an axis would contain itself")
        self._refine(left, right)

    def _unify_sums(self, left: Expr, right: Expr) -> None:
        pending_left, pending_right = [left], [right]
        while pending_left or pending_right:
            a, b = self._next_term(pending_left), self._next_term(pending_right)
            size_a, size_b = self.size(a), self.size(b)
            if size_a > size_b:
                a, rest = self.split(a, size_b)
                pending_left.append(rest)
            elif size_b > size_a:
                b, rest = self.split(b, size_a)
                pending_right.append(rest)
            self.unify(a, b)

    def _next_term(self, stack: list[Expr]) -> Expr:
        if not stack:
            raise ConflictError("sums of different length")
        terms = terms_of(self.norm(stack.pop()))
        stack.extend(reversed(terms[1:]))
        return terms[0]

    def _unify_products(self, left: Expr, right: Expr) -> None:
        left, right = self.norm(left), self.norm(right)
        a, b = list(factors_of(left)), list(factors_of(right))
        last_a, last_b = a.pop(), b.pop()
        size_a, size_b = self.size(last_a), self.size(last_b)
        if size_a == size_b:
            self.unify(last_a, last_b)
            self.unify(product(*a), product(*b))
        elif size_a > size_b:
            rest, trail = self.factor(last_a, size_b)
            self.unify(trail, last_b)
            self.unify(product(*a, rest), product(*b))
        else:
            rest, trail = self.factor(last_b, size_a)
            self.unify(last_a, trail)
            self.unify(product(*a), product(*b, rest))

    def factor(self, expr: Expr, size: int) -> tuple[Expr, Expr]:
        """Write ``expr`` as rest × trail with ``trail`` of the given size.

        Raises:
            ConflictError: the size does not divide, or a product's factors do not nest.
        """
        expr = self.norm(expr)
        total = self.size(expr)
        if size == 1:
            return expr, UNIT
        if total == size:
            return UNIT, expr
        if total % size:
            raise ConflictError(f"{total} positions are not a multiple of {size}")
        if isinstance(expr, int):
            rest, trail = self._like(expr, total // size), self._like(expr, size)
            self._refine(expr, product(rest, trail))
            return self.norm(rest), self.norm(trail)
        if isinstance(expr, Prod):
            return self._factor_product(expr, size)
        return self._factor_sum(expr, size)

    def _factor_product(self, expr: Prod, size: int) -> tuple[Expr, Expr]:
        last, rest = expr.factors[-1], product(*expr.factors[:-1])
        last_size = self.size(last)
        if last_size == size:
            return rest, last
        if last_size > size:
            head, trail = self.factor(last, size)
            return product(self.norm(rest), head), trail
        if size % last_size:
            raise ConflictError(f"factor {last_size} does not divide {size}")
        head, trail = self.factor(rest, size // last_size)
        return head, product(trail, self.norm(last))

    def _factor_sum(self, expr: Sum, size: int) -> tuple[Expr, Expr]:
        if all(self.size(t) % size == 0 for t in expr.terms):
            pieces = [self.factor(t, size) for t in expr.terms]
            for _, trail in pieces[1:]:
                self.unify(pieces[0][1], trail)
            return self.norm(concat(*(rest for rest, _ in pieces))), self.norm(pieces[0][1])
        count = self.size(expr) // size
        chunks: list[Expr] = []
        remaining: Expr = expr
        for _ in range(count - 1):
            chunk, remaining = self.split(remaining, size)
            chunks.append(chunk)
        chunks.append(remaining)
        for chunk in chunks[1:]:
            self.unify(chunks[0], chunk)
        return Sum(tuple(UNIT for _ in range(count))), self.norm(chunks[0])

    def split(self, expr: Expr, offset: int) -> tuple[Expr, Expr]:
        """Write ``expr`` as first + second with ``first`` of size ``offset``.

        Raises:
            ConflictError: a product cannot be cut there.
        """
        expr = self.norm(expr)
        total = self.size(expr)
        if not 0 < offset < total:
            raise ConflictError(f"offset {offset} is outside 1..{total - 1}")
        if isinstance(expr, int):
            first, second = self._like(expr, offset), self._like(expr, total - offset)
            self._refine(expr, concat(first, second))
            return self.norm(first), self.norm(second)
        if isinstance(expr, Sum):
            return self._split_sum(expr, offset)
        return self._split_product(expr, offset)

    def _split_sum(self, expr: Sum, offset: int) -> tuple[Expr, Expr]:
        done: list[Expr] = []
        terms = list(expr.terms)
        while terms:
            size = self.size(terms[0])
            if size <= offset:
                done.append(terms.pop(0))
                offset -= size
                if offset == 0:
                    break
                continue
            first, second = self.split(terms[0], offset)
            done.append(first)
            terms[0] = second
            break
        return self.norm(concat(*done)), self.norm(concat(*terms))

    def _split_product(self, expr: Prod, offset: int) -> tuple[Expr, Expr]:
        lead, rest = expr.factors[0], product(*expr.factors[1:])
        width = self.size(rest)
        whole, part = divmod(offset, width)
        if part == 0:
            first, second = self.split(lead, whole)
            rest = self.norm(rest)
            return self.norm(product(first, rest)), self.norm(product(second, rest))
        return self._split_ragged(lead, rest, whole, part)

    def _split_ragged(self, lead: Expr, rest: Expr, whole: int, part: int) -> tuple[Expr, Expr]:
        """Split l+1+r rows of width a+b inside the middle row: (l×rest + a) + (b + r×rest)."""
        count = self.size(lead)
        left: Expr = Sum(())
        right: Expr = lead
        if whole:
            left, right = self.split(lead, whole)
        if count - whole > 1:
            _, right = self.split(right, 1)
        else:
            right = Sum(())
        first, second = self.split(rest, part)
        rest = self.norm(rest)
        head = [product(self.norm(left), rest)] if whole else []
        tail = [product(self.norm(right), rest)] if count - whole > 1 else []
        return self.norm(concat(*head, first)), self.norm(concat(second, *tail))
