"""The settings of nodes on the tree of a network: the setting of every axis, weight and block."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prunus.analysis import Analysis
from prunus.analysis.selectors import select_nodes
from prunus.errors import OptionError, SelectorError
from prunus.methods.hierarchy.settings import (
    BLOCKS,
    FINETUNE,
    KEEP,
    REMOVE,
    UNITS,
    WEIGHTS,
    WINDOWS,
    Division,
    NodeSetting,
    Optimisation,
    check_strategy,
    settings_of,
)
from prunus.methods.reduction import droppable
from prunus.methods.weights import maskable
from prunus.tree import Branch, Tree, TreeNode, grow_tree
from prunus.tree.addresses import NETWORK, VALUES, Group, parse_address, quantile_size

_INPUTS = "inputs"


@dataclass(frozen=True, slots=True)
class Place:
    """A node with its setting, and the pattern that gave it."""

    pattern: str
    node: str
    setting: NodeSetting


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """A group inside layers, with its setting.

    Attributes:
        pattern: the address.
        group: the group.
        setting: its setting.
        members: ids of the axes, or names of the weights.
    """

    pattern: str
    group: Group
    setting: NodeSetting
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """The settings of nodes, resolved on one network.

    Attributes:
        tree: the tree of the network.
        axes: axis id → the place whose setting holds for its units.
        weights: weight name → the place whose setting holds for it.
        removed: branch id → the place that drops it.
        rated: the places whose rate counts blocks, with the branches inside.
        groups: the groups inside layers.
    """

    tree: Tree
    axes: Mapping[str, Place]
    weights: Mapping[str, Place]
    removed: Mapping[str, Place]
    rated: tuple[tuple[Place, tuple[Branch, ...]], ...]
    groups: tuple[GroupPlace, ...]

    @property
    def places(self) -> tuple[Place | GroupPlace, ...]:
        """All places with a setting."""
        return (*self.axes.values(), *self.weights.values(), *self.groups)

    def may_go(self, branch: Branch) -> bool:
        """Tell whether a block may be dropped by the budget: no setting fixes what lies in it."""
        fixed = {name for name, place in self.weights.items() if _is_fixed(place)}
        axes = {axis for axis, place in self.axes.items() if _is_fixed(place)}
        inside = {axis for node in self.tree.below() if node.branch == branch.id for axis in self.tree.axes(node.id)}
        return fixed.isdisjoint(branch.tensors) and axes.isdisjoint(inside)


def _is_fixed(place: Place) -> bool:
    return place.setting.rate is not None or place.setting.kind == KEEP


def assign(analysis: Analysis, tree: Tree, settings: Mapping[str, NodeSetting]) -> Assignment:
    """Resolve the settings of nodes on a network.

    A node takes the setting of the nearest node around it that has one. Two patterns may not match one node. Units
    that several layers write take the setting of the first of these layers, unless one names the units themselves or
    keeps them.

    Raises:
        SelectorError: a pattern matches nothing, or nothing that its method can remove.
        OptionError: a node that is given two methods.
    """
    own: dict[str, Place] = {}
    groups = []
    for pattern, setting in settings.items():
        address = parse_address(pattern)
        nodes = _matched(tree, address.node, pattern)
        if address.group is not None:
            groups.append(_group(analysis, tree, nodes, pattern, address.group, setting))
            continue
        _check_useful(analysis, tree, nodes, pattern, setting)
        for node in nodes:
            _place(own, Place(pattern, node.id, setting))
    branches = {branch.id: branch for branch in droppable(analysis)}
    removed = {
        tree.node(p.node).branch: p
        for p in own.values()
        if p.setting.kind == REMOVE and tree.node(p.node).branch in branches
    }
    return Assignment(
        tree,
        _axes(analysis, tree, own),
        _weights(analysis, tree, own),
        removed,
        tuple(_rated(tree, own, branches)),
        tuple(groups),
    )


def check_tree_settings(analysis: Analysis, nodes: Any, strategy: Any, divide: Any, optimise: Any) -> None:
    """Refuse settings that a network cannot have, before anything is measured.

    Raises:
        SelectorError: a pattern that matches nothing, or nothing that its method can remove.
        OptionError: a node that is given two methods, or a strategy or fine-tuning that needs data where there are
            none.
    """
    assigned = assign(analysis, divided(analysis, Division.of(divide)), settings_of(nodes))
    check_optimisation_has_data(analysis, Optimisation.of(optimise))
    check_strategy_has_data(analysis, check_strategy(strategy))
    for place in assigned.places:
        check_strategy_has_data(analysis, place.setting.strategy or "", f" of {place.pattern!r}")


def divided(analysis: Analysis, division: Division) -> Tree:
    """Return the tree of a network, divided into stages.

    Raises:
        OptionError: more stages than there are blocks and free layers.
    """
    try:
        return grow_tree(analysis.coupling, division.by, division.count)
    except OptionError as error:
        raise OptionError(f"divide is {division}: {error}") from error


def check_strategy_has_data(analysis: Analysis, strategy: str, where: str = "") -> None:
    """Refuse a strategy that reads data where there are none.

    Raises:
        OptionError: it is gradient or activation.
    """
    if strategy in VALUES[1:] and not analysis.has_data:
        kind = "batches of (inputs, targets)" if strategy == VALUES[1] else "batches of inputs"
        raise OptionError(f"strategy {strategy!r}{where} needs data={kind}; give some, or use strategy weight or auto.")


def check_optimisation_has_data(analysis: Analysis, how: Optimisation) -> None:
    """Refuse a fine-tuning between levels where there are no data.

    Raises:
        OptionError: it is finetune.
    """
    if how.method == FINETUNE and not analysis.has_data:
        raise OptionError(f"optimise '{how}' needs data=batches of (inputs, targets); give some, or use optimise none.")


def _matched(tree: Tree, selector: str, pattern: str) -> tuple[TreeNode, ...]:
    if selector == NETWORK:
        return (tree.root,)
    try:
        return select_nodes(tree, [selector])
    except SelectorError as error:
        if "matches no part" not in str(error):
            raise
        known = dict.fromkeys(name for node in tree.below() for name in (node.id, node.module) if name)
        near = difflib.get_close_matches(selector, list(known), n=3, cutoff=0.4)
        shown = f" Nearest: {', '.join(map(repr, near))}." if near else ""
        raise SelectorError(
            f"nodes: {pattern!r} matches no part of the tree.{shown} `prunus levels` lists the parts."
        ) from error


def _place(own: dict[str, Place], place: Place) -> None:
    """Give a node its setting.

    Raises:
        OptionError: it has one from another pattern.
    """
    other = own.setdefault(place.node, place)
    if other.setting == place.setting:
        return
    first, second = (_named(p) for p in (other, place))
    raise OptionError(
        f"nodes: {place.node or NETWORK!r} is given two methods: {first} by {other.pattern!r}, and {second} by "
        f"{place.pattern!r}; give one, or narrow one of the patterns."
    )


def _named(place: Place) -> str:
    given = place.setting.plain()
    return f"{place.setting.kind} ({', '.join(f'{key} {value}' for key, value in given.items())})"


def _check_useful(
    analysis: Analysis, tree: Tree, nodes: Iterable[TreeNode], pattern: str, setting: NodeSetting
) -> None:
    """Refuse a setting whose nodes hold nothing of the kind that it removes."""
    kind, matched = setting.kind, list(nodes)
    inside = [part for node in matched for part in tree.below(node.id)]
    branches = {branch.id for branch in droppable(analysis)}
    written = {part.axis for part in inside if part.kind != _INPUTS or part in matched}
    what = {
        UNITS: ("units that could go", bool(written & set(analysis.free_axes()))),
        WEIGHTS: ("weights that could be masked", bool(_tensors(inside) & maskable(analysis).keys())),
        WINDOWS: ("weights that could be masked", bool(_tensors(inside) & maskable(analysis).keys())),
        BLOCKS: ("block that could be dropped", bool({p.branch for p in inside} & branches)),
        REMOVE: ("block that could be dropped", any(node.branch in branches for node in matched)),
        KEEP: ("part", True),
    }
    name, useful = what[kind]
    if not useful:
        raise SelectorError(
            f"nodes: {pattern!r} holds no {name}, and its method is {setting.method or kind}; see `prunus inspect` for "
            "what can be removed."
        )


def _tensors(nodes: Iterable[TreeNode]) -> set[str]:
    return {name for node in nodes for name in node.shapes}


def _group(
    analysis: Analysis, tree: Tree, nodes: Iterable[TreeNode], pattern: str, group: Group, setting: NodeSetting
) -> GroupPlace:
    inside = [part for node in nodes for part in tree.below(node.id)]
    if group.part == WEIGHTS:
        named = _tensors(inside)
        members = tuple(name for name in maskable(analysis) if name in named)
    else:
        free = set(analysis.free_axes())
        members = tuple(dict.fromkeys(p.axis for p in inside if p.axis in free and p.kind != _INPUTS))
    if not members:
        raise SelectorError(f"nodes: {pattern!r} holds no {group.part} that could go; see `prunus inspect`.")
    _check_group(pattern, group, setting, [_size(analysis, name) for name in members])
    return GroupPlace(pattern, group, setting, members)


def _size(analysis: Analysis, name: str) -> int:
    """Return the number of units of an axis, or of weights of a tensor."""
    axis = analysis.coupling.axes.get(name)
    return axis.size if axis is not None else math.prod(analysis.coupling.graph.tensors[name].shape)


def _around(tree: Tree, own: Mapping[str, Place], node: TreeNode) -> Place | None:
    """Return the setting of a node: its own, or that of the nearest node around it."""
    here = node
    while True:
        if here.id in own:
            return own[here.id]
        if not here.id:
            return None
        here = tree.node(here.parent)


def _axes(analysis: Analysis, tree: Tree, own: Mapping[str, Place]) -> dict[str, Place]:
    free = set(analysis.free_axes())
    found: dict[str, tuple[int, Place]] = {}
    for node in tree.below():
        if node.axis not in free:
            continue
        place = _around(tree, own, node)
        if place is None:
            continue
        direct = place.node == node.id and not place.pattern.startswith("re:") and "*" not in place.pattern
        if node.kind == _INPUTS and not direct and place.setting.kind != KEEP:
            continue
        rank = 0 if place.setting.kind == KEEP else 1 if direct else 2
        if node.axis not in found or rank < found[node.axis][0]:
            found[node.axis] = (rank, place)
    return {axis: place for axis, (_, place) in found.items()}


def _weights(analysis: Analysis, tree: Tree, own: Mapping[str, Place]) -> dict[str, Place]:
    names = maskable(analysis).keys()
    found = {}
    for node in tree.below():
        for name in node.shapes.keys() & names:
            place = _around(tree, own, node)
            if place is not None:
                found[name] = place
    return found


def _rated(
    tree: Tree, own: Mapping[str, Place], branches: Mapping[str, Branch]
) -> Iterator[tuple[Place, tuple[Branch, ...]]]:
    """Yield each pattern whose rate counts blocks, with the blocks inside all its outermost nodes together.

    Raises:
        OptionError: the rate of so many blocks is none.
    """
    taken: set[str] = set()
    found: dict[str, tuple[Place, set[str]]] = {}
    for node in tree.below():
        place = own.get(node.id)
        if place is None or place.setting.kind != BLOCKS or place.setting.rate is None:
            continue
        inside = {part.branch for part in tree.below(node.id)} & branches.keys() - taken
        taken |= inside
        found.setdefault(place.pattern, (place, set()))[1].update(inside)
    for place, inside in found.values():
        if inside:
            _check_rate(place.pattern, place.setting.rate, len(inside), "blocks")
            yield place, tuple(branch for name, branch in branches.items() if name in inside)


def _check_rate(pattern: str, rate: float | None, count: int, parts: str) -> None:
    """Refuse a rate whose share of the parts rounds to none."""
    if rate is not None and count and not round(rate * count):
        number = f"{count:,} {parts if count > 1 else parts[:-1]}"
        raise OptionError(
            f"nodes: {pattern!r}: rate {rate:g} of {number} removes none; give more than "
            f"{0.5 / count:.3g}, or leave it out."
        )


def _check_group(pattern: str, group: Group, setting: NodeSetting, sizes: Collection[int]) -> None:
    """Refuse a group by quantiles that holds no part of any layer, or whose rate removes none."""
    if group.clusters:
        return
    largest, most = max(sizes), max(quantile_size(group, size) for size in sizes)
    if not most:
        least = f"{math.ceil(10_000 / largest) / 100:g}"
        form = f"{group.part}<q{least}" if group.low == 0 else f"a range of at least {least} %"
        raise OptionError(
            f"nodes: {pattern!r} holds none of the {largest:,} {group.part} of a layer: "
            f"⌊{group.high - group.low:g}·{largest:,}⌋ = 0. Give {form}."
        )
    _check_rate(pattern, setting.rate, most, f"{group.part}")
