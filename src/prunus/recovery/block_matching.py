"""Where a small network's inside can be compared with the dense one's: block by block, at the positions that stayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from prunus.data.batches import call
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.coupling import Coupling
from prunus.graph.ir import ModuleCall, Ref
from prunus.graph.layout import Expr
from prunus.recovery.feature_hooks import Taps
from prunus.tree import TreeNode, grow_tree

if TYPE_CHECKING:
    from prunus.recovery.task import RecoveryTask


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A stretch of modules that is to answer as the dense network does there.

    Attributes:
        first: the module where it begins, in the small network.
        last: the module whose answer counts, in the small network.
        dense: the module of the dense network whose answer is the goal; further on than ``last`` where what lies
            between was dropped.
        kept: which positions of each dim of the goal the small network still has; None = all.
    """

    first: str
    last: str
    dense: str
    kept: tuple[Tensor | None, ...]

    def goal(self, value: Tensor) -> Tensor:
        """Return the positions of a dense answer that the small network has."""
        for dim, index in enumerate(self.kept):
            if index is not None:
                value = value.index_select(dim, index.to(value.device))
        return value


def find_places(task: RecoveryTask) -> tuple[Place, ...]:
    """Return the places of a task in the order of execution: outermost blocks, and layers outside of blocks.

    A norm belongs to the layer before it. Where a block was dropped, the one before it answers for both. What the
    small network does not call as a module any more, or answers in another shape, is left out.
    """
    if task.coupling is None:
        return ()
    found: list[tuple[Place, tuple[Expr, ...]]] = []
    for node, dims, joins in _stretches(task.coupling):
        if found and (joins or not _has_parameters(task.model, node.module)):
            before, wide = found[-1]
            if dims == wide:
                last = node.module if joins and _has_parameters(task.model, node.module) else before.last
                found[-1] = replace(before, last=last, dense=node.module), wide
            continue
        if _has_parameters(task.model, node.module):
            found.append((Place(node.module, node.module, node.module, _kept(task, dims)), dims))
    return _seen(task, [place for place, _ in found])


def _stretches(coupling: Coupling) -> Iterator[tuple[TreeNode, tuple[Expr, ...], bool]]:
    """Yield the parts right inside the stages with the dims of their answers, and whether they are mere norms."""
    tree = grow_tree(coupling)
    calls: dict[str, list[ModuleCall]] = {}
    for one in coupling.graph.calls:
        calls.setdefault(one.path, []).append(one)
    for stage in tree.root.children:
        for child in tree.node(stage).children:
            node = tree.node(child)
            own = calls.get(node.module, ()) if node.module else ()
            refs = [leaf for leaf in own[0].out_leaves if isinstance(leaf, Ref)] if len(own) == 1 else []
            dims = coupling.values.get(refs[0]) if refs else None
            if dims is not None:
                norm = node.level == "layer" and all(
                    len(s) < 2 for part in tree.below(child) for s in part.shapes.values()
                )
                yield node, tuple(dims), norm


def _kept(task: RecoveryTask, dims: Sequence[Expr]) -> tuple[Tensor | None, ...]:
    if task.plan is None or task.coupling is None:
        return (None,) * len(dims)
    masks = [task.coupling.mask(expr, task.plan.axes) for expr in dims]
    return tuple(None if mask.all() else torch.from_numpy(np.flatnonzero(mask)) for mask in masks)


def _has_parameters(model: nn.Module, path: str) -> bool:
    module: nn.Module | None = model
    for name in path.split("."):
        module = getattr(module, name, None)
        if not isinstance(module, nn.Module):
            return False
    return any(p.requires_grad for p in module.parameters()) if module is not None else False


def _seen(task: RecoveryTask, places: Sequence[Place]) -> tuple[Place, ...]:
    """Keep the places that one call of both networks passes once, with answers of one shape."""
    from prunus.recovery.task import first_batch

    inputs, _ = first_batch(task.train, task.model)
    with torch.no_grad(), in_eval_mode(task.model), in_eval_mode(task.dense):
        with Taps(task.model, {p for place in places for p in (place.first, place.last)}) as ours:
            call(task.model, inputs)
        with Taps(task.dense, {place.dense for place in places}) as theirs:
            call(task.dense, inputs)

    def fits(place: Place) -> bool:
        once = ours.calls.get(place.first) == ours.calls.get(place.last) == theirs.calls.get(place.dense) == 1
        return once and ours.values[place.last].shape == place.goal(theirs.values[place.dense]).shape

    return tuple(place for place in places if fits(place))
