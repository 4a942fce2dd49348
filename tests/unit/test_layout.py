"""The dim algebra on small cases worked out by hand."""

from __future__ import annotations

import pytest

from prunus.graph.layout import (
    UNIT,
    ConflictError,
    Frozen,
    Layout,
    Prod,
    Sum,
    atoms_of,
    concat,
    factors_of,
    product,
    terms_of,
)


def test_products_and_sums_are_canonical() -> None:
    assert product() == UNIT
    assert product(3) == 3
    assert product(UNIT, 3, UNIT) == 3
    assert product(1, product(2, 3)) == Prod((1, 2, 3))
    assert concat(5) == 5
    assert concat(1, concat(2, 3)) == Sum((1, 2, 3))
    assert factors_of(7) == (7,)
    assert terms_of(Sum((1, 2))) == (1, 2)


def test_a_leading_sum_distributes_and_an_inner_one_stays() -> None:
    assert product(Sum((1, 2)), 3) == Sum((Prod((1, 3)), Prod((2, 3))))
    assert product(3, Sum((1, 2))) == Prod((3, Sum((1, 2))))


def test_a_768_dim_seen_as_heads_is_refined_everywhere() -> None:
    table = Layout()
    hidden = table.atom(768)
    heads, width = table.factor(hidden, 64)
    assert (table.size(heads), table.size(width)) == (12, 64)
    assert table.norm(hidden) == Prod((heads, width))
    assert table.factor(table.norm(hidden), 64) == (heads, width)


def test_a_fused_projection_has_its_index_as_a_factor() -> None:
    table = Layout()
    qkv = table.atom(2304)
    rest, width = table.factor(qkv, 64)
    three, heads = table.factor(rest, 12)
    table.freeze(three, "select")
    assert [table.frozen[a] for a in atoms_of(table.norm(qkv))] == [Frozen("select"), None, None]
    assert [table.size(e) for e in (three, heads, width)] == [3, 12, 64]


def test_concatenation_is_cut_where_it_was_joined() -> None:
    table = Layout()
    a, b = table.atom(3), table.atom(6)
    both = concat(a, b)
    assert table.split(both, 3) == (a, b)
    first, second = table.split(both, 5)
    assert (table.size(first), table.size(second)) == (5, 4)
    pieces = tuple(atoms_of(table.norm(b)))
    assert table.norm(b) == Sum(pieces)
    assert [table.size(p) for p in pieces] == [2, 4]


def test_unifying_an_atom_with_a_product_refines_it() -> None:
    table = Layout()
    whole, left, right = table.atom(12), table.atom(3), table.atom(4)
    table.unify(whole, product(left, right))
    assert table.norm(whole) == Prod((left, right))


def test_unifying_products_aligns_from_the_trailing_factor() -> None:
    table = Layout()
    a, b = table.atom(2), table.atom(12)
    c, d = table.atom(6), table.atom(4)
    table.unify(product(a, b), product(c, d))
    assert table.norm(product(a, b)) == table.norm(product(c, d))
    assert [table.size(f) for f in factors_of(table.norm(product(a, b)))] == [2, 3, 4]


def test_a_rotated_half_pairs_its_positions() -> None:
    table = Layout()
    whole = table.atom(8)
    first, second = table.split(whole, 4)
    table.unify(concat(second, first), concat(first, second))
    pair = table.norm(first)
    assert table.norm(whole) == Sum((pair, pair))


def test_a_ragged_cut_keeps_the_rows_around_it() -> None:
    table = Layout()
    rows, columns = table.atom(5), table.atom(4)
    first, second = table.split(product(rows, columns), 10)
    assert (table.size(first), table.size(second)) == (10, 10)
    assert table.size(table.norm(rows)) == 5
    assert table.norm(concat(first, second)) == table.norm(product(rows, columns))


def test_frozen_and_statistic_marks_reach_the_pieces() -> None:
    table = Layout()
    atom = table.atom(12)
    table.freeze(atom, "output")
    table.mark_statistic(atom)
    rest, trail = table.factor(atom, 4)
    assert table.is_frozen(rest)
    assert table.reason(trail) == Frozen("output")
    assert all(table.statistic[a] for a in atoms_of(table.norm(atom)))


def test_frozen_absorbs_what_it_meets() -> None:
    table = Layout()
    table.node = "pad_0"
    window, free = table.atom(12, "spatial"), table.atom(12)
    table.node = "add_0"
    table.unify(window, free)
    assert table.is_frozen(free)
    assert table.reason(free) == Frozen("spatial", "pad_0")


@pytest.mark.parametrize(("size", "factor"), [(12, 5), (7, 2)])
def test_what_does_not_divide_is_a_conflict(size: int, factor: int) -> None:
    table = Layout()
    with pytest.raises(ConflictError, match="multiple"):
        table.factor(table.atom(size), factor)


def test_an_axis_inside_itself_is_a_conflict() -> None:
    table = Layout()
    atom = table.atom(6)
    with pytest.raises(ConflictError):
        table.unify(atom, product(table.atom(2), atom))
    with pytest.raises(ConflictError, match="differ"):
        table.unify(table.atom(6), table.atom(7))
