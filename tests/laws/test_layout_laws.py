"""Laws of the dim algebra: sizes never change, both sides of a unify become one, masks agree with counts."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.layout import ConflictError, Expr, Layout, Prod, Sum, atoms_of, concat, product

SIZES = st.lists(st.integers(2, 6), min_size=1, max_size=4)


def _built(table: Layout, sizes: list[int], joined: list[bool]) -> Expr:
    """Fold atoms together, by product or by sum."""
    expr = table.atom(sizes[0])
    for size, add in zip(sizes[1:], joined, strict=False):
        atom = table.atom(size)
        expr = concat(expr, atom) if add else product(expr, atom)
    return expr


EXPRESSIONS = st.tuples(SIZES, st.lists(st.booleans(), min_size=3, max_size=3))


def _canonical(expr: Expr) -> bool:
    """Whether no nested product, sum of one, or undistributed leading sum is left."""
    if isinstance(expr, int):
        return True
    if isinstance(expr, Prod):
        nested = any(isinstance(f, Prod) for f in expr.factors) or len(expr.factors) == 1
        leading = bool(expr.factors) and isinstance(expr.factors[0], Sum)
        return not nested and not leading and all(_canonical(f) for f in expr.factors)
    return not any(isinstance(t, Sum) for t in expr.terms) and all(_canonical(t) for t in expr.terms)


@given(EXPRESSIONS, st.data())
@settings(max_examples=150, deadline=None)
def test_factor_keeps_the_size(built: tuple[list[int], list[bool]], data: st.DataObject) -> None:
    table = Layout()
    expr = _built(table, *built)
    total = table.size(expr)
    trail_size = data.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
    with contextlib.suppress(ConflictError):
        rest, trail = table.factor(expr, trail_size)
        assert table.size(trail) == trail_size
        assert table.size(table.norm(product(rest, trail))) == total
        assert _flat(table, product(rest, trail)) == _flat(table, expr)
    assert table.size(table.norm(expr)) == total
    assert _canonical(table.norm(expr))


@given(EXPRESSIONS, st.data())
@settings(max_examples=150, deadline=None)
def test_split_keeps_the_size_and_the_order(built: tuple[list[int], list[bool]], data: st.DataObject) -> None:
    table = Layout()
    expr = _built(table, *built)
    total = table.size(expr)
    offset = data.draw(st.integers(1, total - 1))
    with contextlib.suppress(ConflictError):
        first, second = table.split(expr, offset)
        assert (table.size(first), table.size(second)) == (offset, total - offset)
        assert _flat(table, concat(first, second)) == _flat(table, expr)
    assert table.size(table.norm(expr)) == total
    assert _canonical(table.norm(expr))


def _flat(table: Layout, expr: Expr) -> list[frozenset[tuple[int, int]]]:
    """Every position as the free (atom, place) it stands on: two dims keep the same positions iff these agree."""
    expr = table.norm(expr)
    if isinstance(expr, int):
        free = table.frozen[expr] is None
        return [frozenset({(expr, i)} if free else ()) for i in range(table.size(expr))]
    if isinstance(expr, Sum):
        return [p for t in expr.terms for p in _flat(table, t)]
    places = [frozenset[tuple[int, int]]()]
    for f in expr.factors:
        places = [a | b for a in places for b in _flat(table, f)]
    return places


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=150, deadline=None)
def test_unified_expressions_are_one(left: tuple[list[int], list[bool]], right: tuple[list[int], list[bool]]) -> None:
    table = Layout()
    a, b = _built(table, *left), _built(table, *right)
    size_a, size_b = table.size(a), table.size(b)
    if size_a != size_b:
        # An atom on the smaller side makes both the same size, so that most examples say something.
        small, large = (a, size_b - size_a) if size_a < size_b else (b, size_a - size_b)
        grown = concat(small, table.atom(large))
        a, b = (grown, b) if size_a < size_b else (a, grown)
    total = table.size(a)
    with contextlib.suppress(ConflictError):
        table.unify(a, b)
        assert _flat(table, a) == _flat(table, b)
    assert table.size(table.norm(a)) == table.size(table.norm(b)) == total


@given(EXPRESSIONS, st.data())
@settings(max_examples=100, deadline=None)
def test_refining_never_frees_what_is_frozen(built: tuple[list[int], list[bool]], data: st.DataObject) -> None:
    table = Layout()
    expr = _built(table, *built)
    atoms = list(atoms_of(expr))
    frozen = data.draw(st.sampled_from(atoms))
    table.freeze(frozen, "input")
    for _ in range(3):
        total = table.size(expr)
        with contextlib.suppress(ConflictError):
            table.factor(expr, data.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0])))
        with contextlib.suppress(ConflictError):
            table.split(expr, data.draw(st.integers(1, total - 1)))
    assert table.is_frozen(frozen)
    assert table.size(table.norm(frozen)) == table.sizes[frozen]


@given(EXPRESSIONS, st.data())
@settings(max_examples=100, deadline=None)
def test_masks_agree_with_counts_and_with_positions(built: tuple[list[int], list[bool]], data: st.DataObject) -> None:
    table = Layout()
    expr = _built(table, *built)
    coupling = _coupling(table)
    keep = {}
    for atom, name in coupling.axis_of.items():
        bits = st.lists(st.booleans(), min_size=table.sizes[atom], max_size=table.sizes[atom])
        keep[name] = np.array(data.draw(bits), bool)
    mask = coupling.mask(expr, keep)
    assert len(mask) == coupling.size(expr) == table.size(expr)
    assert int(mask.sum()) == coupling.kept(expr, keep)
    expected = [all(keep[f"a{a}"][i] for a, i in place) for place in _flat(table, expr)]
    assert mask.tolist() == expected


def _coupling(table: Layout) -> Coupling:
    graph = Graph((), (), None, (), None, {}, {}, {}, (), {})
    names = {atom: f"a{atom}" for atom in range(len(table.sizes))}
    return Coupling(graph, {}, {}, {}, {}, (), {}, tuple(table.sizes), names)
