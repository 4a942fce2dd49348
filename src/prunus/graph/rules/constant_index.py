"""Lookups by a constant index: an index that repeats, splits or reorders positions in a pattern rearranges the dim."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from prunus.foundation.registry import words
from prunus.graph.ir import INPUT, TENSOR, Node, Ref, refs_in
from prunus.graph.layout import UNIT, Expr, concat, product
from prunus.graph.rules.context import Flow, base_name

# Ops that pass a constant on, number by number.
_SAME = frozenset(
    words("lift_fresh lift_fresh_copy clone detach alias to _to_copy contiguous view reshape flatten unsqueeze squeeze")
)
_INDEXES = frozenset(("index", "index_select"))
_MOST_RUNS = 32
_Level = tuple[int, int]


def picked(flow: Flow, dim: Expr, positions: Ref) -> Expr | None:
    """Return the flat dim that a constant index selects from ``dim``; None where the index follows no pattern.

    A cut renumbers the constant. Where that is impossible, dims that other lookups made with it are frozen.
    """
    source = _source(flow, positions)
    if source is None:
        return None
    flow.ids.give(positions, source.name)
    values = _values(flow, source)
    result = None if values is None or flow.layout.is_frozen(dim) else rearranged(flow, dim, values)
    if result is None:
        flow.ids.spoil(positions, "index")
        return None
    flow.ids.looks_up(positions, dim)
    rest, dims = result, flow.dims(positions)
    for own in reversed(dims):
        rest, trail = flow.factor(rest, flow.size(own))
        flow.unify(own, trail)
    return flow.norm(product(*flow.dims(positions)))


def unfollowed(flow: Flow, positions: Ref) -> None:
    """Note that a lookup cannot follow a renumbered index, so that a constant index keeps its numbers."""
    source = _source(flow, positions)
    if source is not None:
        flow.ids.give(positions, source.name)
        flow.ids.spoil(positions, "index")


def _source(flow: Flow, ref: Ref) -> Node | None:
    """Return the constant whose numbers a value holds; None where it is no copy of a constant."""
    node = flow.graph.node(ref.node)
    while node.op not in (INPUT, TENSOR):
        if base_name(node.op) not in _SAME or node.op == "aten.view.dtype":
            return None
        node = flow.graph.node(next(refs_in(node.args)).node)
    return node if node.tensor in flow.graph.constants else None


def _values(flow: Flow, source: Node) -> list[int] | None:
    """Return the numbers of a constant that only lookups read; else None."""
    value = flow.graph.constants[source.tensor]
    if value.dtype not in (torch.int64, torch.int32) or not value.numel():
        return None
    todo = [source.name]
    while todo:
        for reader in flow.readers(todo.pop()):
            name = base_name(reader.op)
            if name in _SAME:
                todo.append(reader.name)
            elif name not in _INDEXES:
                return None
    return [int(v) for v in value.flatten().tolist()]


def rearranged(flow: Flow, dim: Expr, places: Sequence[int]) -> Expr | None:
    """Return the dim that consists of these positions of ``dim``, in this order.

    A grid such as 0 2 4 1 3 5 is a product of the factors of ``dim`` in another order, a stride of 0 is a repetition;
    any other order is a sum of runs of neighbours.
    """
    size = flow.size(dim)
    places = [p + size if p < 0 else p for p in places]
    grid = _grid(places)
    if grid is not None and _covers(grid, places[0], size):
        return _regrouped(flow, dim, grid)
    return _joined_runs(flow, dim, places)


def _grid(places: Sequence[int]) -> list[_Level] | None:
    """Write positions as first + Σ iₖ·strideₖ and return (count, stride) from the innermost outwards."""
    levels: list[_Level] = []
    rest = list(places)
    while len(rest) > 1:
        stride = rest[1] - rest[0]
        count = next((i for i in range(2, len(rest)) if rest[i] - rest[i - 1] != stride), len(rest))
        steps = [rest[i] - rest[i - i % count] for i in range(len(rest))]
        if stride < 0 or len(rest) % count or any(s != (i % count) * stride for i, s in enumerate(steps)):
            return None
        levels.append((count, stride))
        rest = rest[::count]
    return levels


def _covers(grid: Sequence[_Level], first: int, size: int) -> bool:
    """Tell whether the strides nest so that every position occurs: factors in another order, repeated or not."""
    reach = 1
    for count, stride in sorted((level for level in grid if level[1]), key=lambda level: level[1]):
        if stride != reach:
            return False
        reach *= count
    return first == 0 and reach == size


def _regrouped(flow: Flow, dim: Expr, grid: Sequence[_Level]) -> Expr:
    rest, factors = dim, dict[int, Expr]()
    for count, stride in sorted((level for level in grid if level[1]), key=lambda level: level[1]):
        rest, factors[stride] = flow.factor(rest, count)
    return product(*(flow.norm(factors[s]) if s else flow.fresh(n) for n, s in reversed(grid)))


def _joined_runs(flow: Flow, dim: Expr, places: Sequence[int]) -> Expr | None:
    starts = [0, *(i for i in range(1, len(places)) if places[i] != places[i - 1] + 1)]
    runs = [(places[a], b - a) for a, b in zip(starts, [*starts[1:], len(places)], strict=True)]
    if len(runs) > _MOST_RUNS:
        return None
    size = flow.size(dim)
    edges = sorted({0, size, *(p for p, _ in runs), *(p + n for p, n in runs)})
    pieces = dict(zip(edges, flow.cuts(dim, [b - a for a, b in itertools.pairwise(edges)]), strict=False))
    terms = [pieces[e] for p, n in runs for e in edges if p <= e < p + n]
    return flow.norm(concat(*terms)) if len(terms) > 1 else flow.norm(terms[0] if terms else UNIT)
