"""Groups of units and connections inside a layer, by quantiles or k-means of a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prunus.analysis import Analysis
from prunus.errors import OptionError
from prunus.methods.hierarchy.values import unit_values, weight_values
from prunus.methods.weights import maskable
from prunus.tree import Tree, TreeNode
from prunus.tree.addresses import PARTS, VALUES, Group, quantile_ranks

UNITS, WEIGHTS = PARTS
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of a layer, as ``prunus levels`` shows it.

    Attributes:
        address: the address of the group, for settings of nodes.
        value: weight, gradient or activation.
        count: number of its units or weights.
        low, high: least and largest value in it; 0 where it is empty.
    """

    address: str
    value: str
    count: int
    low: float
    high: float


def members_of(values: np.ndarray, group: Group) -> np.ndarray:
    """Return which parts of a layer a group holds.

    Quantiles count parts: ranks are stable, so equal values keep their order, and ⌊low·n⌋ to ⌊high·n⌋ are taken.

    Shapes: as the values, bool.

    Example:
        >>> from prunus.tree.addresses import parse_address
        >>> members_of(np.array([5.0, 1.0, 4.0, 2.0]), parse_address("a/units<q50").group).tolist()
        [False, True, False, True]
    """
    flat = np.asarray(values, float).reshape(-1)
    if group.clusters:
        number = clusters_of(flat, group.clusters) + 1
        return ((number >= group.low) & (number <= group.high)).reshape(np.shape(values))
    chosen = np.zeros(flat.size, bool)
    first, last = quantile_ranks(group, flat.size)
    chosen[np.argsort(flat, kind="stable")[first:last]] = True
    return chosen.reshape(np.shape(values))


def clusters_of(values: np.ndarray, clusters: int) -> np.ndarray:
    """Return the cluster of every value by k-means on one line, numbered from 0 by rising centre.

    Lloyd's rounds start from the middles of equal quantiles, so the result depends on the values alone. On a line every
    cluster is an interval between the middles of two centres.

    Shapes: (n,) → (n,), int64.

    Example:
        >>> clusters_of(np.array([0.1, 5.0, 0.2, 5.2, 0.0]), 2).tolist()
        [0, 1, 0, 1, 0]
    """
    line = np.sort(np.asarray(values, float))
    if not len(line):
        return np.zeros(0, np.int64)
    sums = np.append(0.0, np.cumsum(line))
    centres = np.quantile(line, (np.arange(clusters) + 0.5) / clusters)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(line, (centres[1:] + centres[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], ends, [len(line)]])
        counts = np.diff(bounds)
        moved = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, np.asarray(values, float), side="left").astype(np.int64)


def parse_grouping(text: str | None) -> tuple[str, int] | None:
    """Return the kind and the number of groups of ``quantiles:4`` or ``kmeans:3``; None stays None.

    Raises:
        OptionError: another text, or a number outside 2 to 64.
    """
    if text is None:
        return None
    kind, _, digits = str(text).partition(":")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 0
    if kind not in ("quantiles", "kmeans") or not 2 <= number <= 64:
        raise OptionError(f"groups is {text!r}; allowed: quantiles:4 or kmeans:3, with 2 to 64 groups.")
    return kind, number


def group_rows(analysis: Analysis, tree: Tree, grouping: tuple[str, int]) -> dict[str, tuple[GroupRow, ...]]:
    """Return id of a layer → its groups of units and weights by every value that can be measured.

    Without data only the weights group them.
    """
    values = VALUES if analysis.has_data else VALUES[:1]
    names = list(maskable(analysis))
    units = {value: unit_values(analysis, value) for value in values} if analysis.free_axes() else {}
    weights = {value: weight_values(analysis, names, value) for value in values}
    rows: dict[str, tuple[GroupRow, ...]] = {}
    for node in tree.at("layer"):
        found = [*_rows(node.id, UNITS, _units_of(tree, node), units, grouping)]
        found += _rows(node.id, WEIGHTS, [name for name in node.shapes if name in names], weights, grouping)
        rows[node.id] = tuple(found)
    return rows


def _units_of(tree: Tree, node: TreeNode) -> list[str]:
    return [part.axis for part in tree.children(node.id) if part.axis and part.kind != "inputs"]


def _rows(
    node: str,
    part: str,
    members: list[str],
    values: Mapping[str, Mapping[str, np.ndarray]],
    grouping: tuple[str, int],
) -> Iterator[GroupRow]:
    """Yield the groups of a layer; of several axes or weights the values stand side by side."""
    for value, measured in values.items():
        lines = [measured[name] for name in members if name in measured]
        for group in _groups(part, value, grouping) if lines else ():
            held = np.concatenate([line.reshape(-1)[members_of(line, group).reshape(-1)] for line in lines])
            low, high = (float(held.min()), float(held.max())) if held.size else (0.0, 0.0)
            yield GroupRow(f"{node}/{group}", value, int(held.size), low, high)


def _groups(part: str, value: str, grouping: tuple[str, int]) -> Iterator[Group]:
    kind, number = grouping
    for i in range(number):
        if kind == "kmeans":
            yield Group(part, i + 1.0, i + 1.0, number, value)
        else:
            yield Group(part, i / number, (i + 1) / number, 0, value)


def selected(analysis: Analysis, group: Group, members: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return axis id, or weight name → which of its parts a group holds."""
    found = unit_values(analysis, group.value) if group.part == UNITS else weight_values(analysis, members, group.value)
    return {name: members_of(found[name], group) for name in members}
