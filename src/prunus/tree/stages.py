"""Stages: divided at changes of resolution or residual axis, into equal parts by index, or by connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunus.errors import OptionError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Ref, refs_in
from prunus.graph.layout import atoms_of
from prunus.tree.branches import residual_joins

DIVISIONS = ("feature", "depth", "connections")
_DEFAULT_COUNT = 4


@dataclass(frozen=True, slots=True)
class Item:
    """A block, or a layer outside all blocks; stages consist of items.

    Attributes:
        module: its path, or empty.
        join: the node at which it ends, or empty.
        params: number of connections.
        multiplies: whether it has a matrix; an item without one opens no stage.
    """

    module: str
    join: str
    params: int
    multiplies: bool


def divide_stages(coupling: Coupling, items: Sequence[Item], how: str, count: int | None) -> list[int]:
    """Return the stage of each item, from 0, never falling.

    ``feature``: a new stage begins where the resolution of the output, or its residual axis, differs from the one
    before; an item with unknown output begins none. ``depth``: ``count`` parts with equal numbers of items.
    ``connections``: ``count`` parts, the largest of which has as few parameters as possible.

    Raises:
        OptionError: an unknown division, or a count that does not fit.
    """
    check_division(how, count)
    if how == "feature":
        return _by_feature(coupling, items)
    parts = min(_DEFAULT_COUNT, len(items)) if count is None else count
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= max(1, len(items)):
        raise OptionError(f"count is {count!r}; allowed: 1 to {len(items)}, the number of blocks and free layers.")
    if how == "depth":
        return [i * parts // len(items) for i in range(len(items))]
    return _balanced([item.params for item in items], parts)


def check_division(how: str, count: int | None) -> None:
    """Refuse an unknown division into stages, and a count for a division that finds the number.

    Raises:
        OptionError: either of them.
    """
    if how not in DIVISIONS:
        raise OptionError(f"stages is {how!r}; allowed: {', '.join(DIVISIONS)}.")
    if how == "feature" and count is not None:
        raise OptionError(
            f"count is {count!r} with stages='feature', which finds the number; use depth or connections."
        )


def _by_feature(coupling: Coupling, items: Sequence[Item]) -> list[int]:
    residual = {
        a for node in residual_joins(coupling.graph) for e in coupling.values[Ref(node.name)] for a in atoms_of(e)
    } & coupling.axis_of.keys()
    outputs = {call.path: call.out_leaves for call in coupling.graph.calls}
    division: list[int] = []
    waiting = stage = 0
    space: tuple[int, ...] | None = None
    stream: frozenset[int] = frozenset()
    for item in items:
        leaves = [Ref(item.join)] if item.join else list(refs_in(outputs.get(item.module, ()) if item.module else ()))
        here, trunk = _feature(coupling, leaves, residual)
        moved = here is not None and space is not None and here != space
        if not item.multiplies:
            # A norm behind a change of resolution belongs to the next item that multiplies.
            waiting += int(moved or waiting > 0)
            division.append(stage)
            continue
        changed = moved or bool(trunk and stream and trunk != stream)
        stage += int(changed)
        division[len(division) - waiting :] = [stage] * waiting
        division.append(stage)
        waiting = 0
        space = here if here is not None else space
        stream = trunk or (frozenset() if changed else stream)
    return division


def _feature(
    coupling: Coupling, leaves: Sequence[Ref], residual: set[int]
) -> tuple[tuple[int, ...] | None, frozenset[int]]:
    """Return the lengths of all dims but the batch and the features, and the residual atoms of the features."""
    dims = next((coupling.values[ref] for ref in leaves if ref in coupling.values), None)
    if dims is None or len(dims) < 2:
        return None, frozenset()
    free = [d for d, e in enumerate(dims) if d and any(a in coupling.axis_of for a in atoms_of(e))]
    feature = free[0] if free else 1 if len(dims) > 3 else len(dims) - 1
    space = tuple(coupling.size(e) for d, e in enumerate(dims) if d not in (0, feature))
    return space, frozenset(residual & set(atoms_of(dims[feature])))


def _balanced(sizes: Sequence[int], parts: int) -> list[int]:
    """Divide a row into consecutive parts, none empty, so that the largest sum is least; bisection of that sum."""
    low, high = max(sizes, default=0), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _greedy(sizes, parts, middle)[-1] < parts else (middle + 1, high)
    return _greedy(sizes, parts, low) if sizes else []


def _greedy(sizes: Sequence[int], parts: int, most: int) -> list[int]:
    """Fill one part after another up to ``most``, leaving enough items that no later part is empty."""
    part, filled, division = 0, 0, []
    for i, size in enumerate(sizes):
        must = len(sizes) - i <= parts - 1 - part and i > 0
        if i and (filled + size > most or must):
            part, filled = part + 1, 0
        filled += size
        division.append(part)
    return division
