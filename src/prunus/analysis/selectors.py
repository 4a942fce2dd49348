"""Selectors of modules and of parts of the tree: names, globs, ``re:`` patterns and class names."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from prunus.budget import Bound, bounds_of
from prunus.errors import OptionError, SelectorError, nearest
from prunus.foundation.linear_patterns import search
from prunus.graph.coupling import Coupling
from prunus.tree import Tree, TreeNode, grow_tree


def matching_modules(coupling: Coupling, patterns: Iterable[str], *, called: str = "ignore pattern") -> set[str]:
    """Return the module paths that any pattern matches, and everything below them.

    A pattern is a module path, a tensor name, a glob (``layer3.*``), ``re:`` and a regular expression, or a class name.
    One with a slash addresses the tree (``stage3/*/heads``) and stands for the modules of the layers that it matches.

    Args:
        coupling: the coupling of the network.
        patterns: the patterns.
        called: the word for a pattern in messages.

    Raises:
        SelectorError: a pattern matches nothing (the nearest name is given), or is not a valid regular expression.
    """
    paths = [p for p in coupling.graph.modules if p]
    # A class defined inside a function has a long qualified name; people write the last part.
    kinds = {p: coupling.graph.modules[p].rpartition(".")[2] for p in paths}
    tensors = [*coupling.graph.tensors, *coupling.graph.aliases]
    found: set[str] = set()
    for pattern in patterns:
        if _addresses_tree(pattern):
            tree = grow_tree(coupling)
            parts = (part for node in select_nodes(tree, [pattern]) for part in tree.below(node.id))
            found |= {part.module for part in parts if part.module}
            continue
        hits = {p for p in paths if _matches(p, kinds[p], pattern)}
        hits |= {t for t in tensors if _matches(t, "", pattern)}
        if not hits:
            known = [*paths, *set(kinds.values())]
            raise SelectorError(f"{called} {pattern!r} matches no module, class or tensor.{nearest(pattern, known)}")
        found |= hits
    return found


_LONGEST = 80


def _matches(path: str, kind: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return search(pattern[3:], path)
        except ValueError as error:
            short = pattern if len(pattern) <= _LONGEST else f"{pattern[:_LONGEST]}…"
            raise SelectorError(
                f"pattern {short!r} is not a regular expression that can be searched: {error}."
            ) from error
    return path == pattern or kind == pattern or fnmatch.fnmatchcase(path, pattern)


def ignored_axes(coupling: Coupling, patterns: Iterable[str]) -> set[str]:
    """Return the ids of axes that touch a tensor of any matched module; coupled layers are frozen with it."""
    given = list(patterns)
    on_tree = [pattern for pattern in given if _addresses_tree(pattern)]
    roots = matching_modules(coupling, [pattern for pattern in given if pattern not in on_tree])
    named = tensors_below(coupling, roots)
    held = selected_axes(grow_tree(coupling), on_tree) if on_tree else set()
    return held | {a.id for a in coupling.axes.values() if any(m.tensor in named for m in a.members)}


def select_nodes(tree: Tree, patterns: Iterable[str]) -> tuple[TreeNode, ...]:
    """Return the nodes of the tree that any pattern matches, outside before inside.

    A pattern is the id of a node, the path of a module, the id of an axis, a glob over any of these (``*`` matches
    slashes too: ``stage3/*/heads``), ``re:`` and a regular expression over the id, a class name, or a kind of units
    (``heads``).

    Raises:
        SelectorError: a pattern matches nothing (the nearest name is given), or is not a valid regular expression.
    """
    nodes = [node for node in tree.below() if node.id]
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [node.id for node in nodes if _names(node, pattern)]
        # A module that is no node stands for the layers inside it.
        hits = hits or [node.id for node in nodes if node.level != "unit" and node.module.startswith(f"{pattern}.")]
        if not hits:
            known = {name: None for node in nodes for name in (node.id, node.module, node.axis, node.kind) if name}
            raise SelectorError(f"Selector {pattern!r} matches no part of the tree.{nearest(pattern, known)}")
        found.update(dict.fromkeys(hits))
    return tuple(node for node in nodes if node.id in found)


def selected_axes(tree: Tree, patterns: Iterable[str]) -> set[str]:
    """Return the ids of the axes that the matched nodes write or read."""
    return {axis for node in select_nodes(tree, patterns) for axis in tree.axes(node.id)}


def bounds_on(tree: Tree, limits: Mapping[str, Bound | Mapping[str, Any]]) -> dict[str, Bound]:
    """Turn limits on parts of the tree into limits on axes; two limits of one axis both hold, the later one first.

    ``{"stage3/*/heads": {"round_to": 2}, "layer4": {"floor": 0.5}}``

    A frozen part freezes every axis that it touches. Other limits hold for the axes that it writes; the units that it
    reads have to be named, by ``inputs`` or by the id of the axis.

    Raises:
        SelectorError: a pattern matches nothing, or nothing that can be cut.
        OptionError: an unknown limit, or a value outside its range.
    """
    found: dict[str, Bound] = {}
    for pattern, bound in bounds_of(limits).items():
        parts = {part.id: part for node in select_nodes(tree, [pattern]) for part in tree.below(node.id) if part.axis}
        axes = {p.axis for p in parts.values() if bound.frozen or p.kind != "inputs" or _means_inputs(pattern, p)}
        if not axes:
            raise SelectorError(
                f"Selector {pattern!r} names no units that could go; see `prunus inspect` for what can."
            )
        _check_floor(pattern, bound, max(p.units for p in parts.values() if p.axis in axes))
        found.update({axis: bound.over(found[axis]) if axis in found else bound for axis in axes})
    return found


def selector_of_axes(coupling: Coupling, selectors: Iterable[str]) -> dict[str, str]:
    """Return axis id → the last selector of parts of the tree that write it, or name its inputs.

    Raises:
        SelectorError: a selector matches nothing, or nothing that can be cut.
    """
    tree = grow_tree(coupling)
    return {axis: selector for selector in selectors for axis in bounds_on(tree, {selector: Bound()})}


def selector_of_tensors(coupling: Coupling, selectors: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Return the name of a weight → the last selector whose modules hold it.

    Args:
        coupling: the coupling of the network.
        selectors: patterns as in `matching_modules`.
        names: the weights to choose from.

    Raises:
        SelectorError: a selector matches nothing, or none of these weights.
    """
    found: dict[str, str] = {}
    for selector in selectors:
        below = tensors_below(coupling, matching_modules(coupling, [selector], called="Selector"))
        if not below & set(names):
            raise SelectorError(f"Selector {selector!r} names no weights that could be masked. Name a layer with some.")
        found |= {name: selector for name in names if name in below}
    return found


def _check_floor(pattern: str, bound: Bound, size: int) -> None:
    """Refuse a floor that no axis of a pattern can keep; a smaller axis among larger ones stays whole."""
    if not isinstance(bound.floor, float) and bound.floor > size:
        raise OptionError(
            f"floor of {pattern!r} is {bound.floor}; its widest axis has {size} units, allowed: up to {size}, or "
            "frozen, which keeps all."
        )


def _means_inputs(pattern: str, part: TreeNode) -> bool:
    return pattern == part.axis or pattern.endswith(part.name)


def _addresses_tree(pattern: str) -> bool:
    return "/" in pattern and not pattern.startswith("re:")


def _names(node: TreeNode, pattern: str) -> bool:
    # A layer and its units share a module path; the path stands for the layer, or for the block of this module.
    module = node.module if node.level != "unit" else ""
    return any(_matches(name, node.kind, pattern) for name in (node.id, module, node.axis) if name)


def tensors_below(coupling: Coupling, roots: Collection[str]) -> set[str]:
    """Return the canonical names of the tensors in any of these modules, tied ones included."""
    names = {**{t: t for t in coupling.graph.tensors}, **coupling.graph.aliases}
    return {canonical for name, canonical in names.items() if _lies_in(name, roots)}


def _lies_in(name: str, roots: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:i]) in roots for i in range(1, len(parts) + 1))
