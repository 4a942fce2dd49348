"""Pairs of blocks: modules of the small network and of the dense one whose outputs can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from prunus.data.batches import call
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.coupling import Coupling
from prunus.graph.ir import ModuleCall, Ref
from prunus.graph.layout import Expr
from prunus.recovery.feature_hooks import FeatureHooks
from prunus.recovery.task import RecoveryTask, first_batch
from prunus.tree import TreeNode, grow_tree


@dataclass(frozen=True, slots=True, eq=False)
class BlockPair:
    """A block of the small network with the dense module whose output is its goal.

    Attributes:
        first: the first module of the block, in the small network.
        last: the module whose output is compared, in the small network.
        dense: the module of the dense network whose output is the goal; it lies behind ``last`` where the modules
            between were dropped.
        kept: for each dim of the goal, the positions that the small network has; None = all.
    """

    first: str
    last: str
    dense: str
    kept: tuple[Tensor | None, ...]

    def goal(self, value: Tensor) -> Tensor:
        """Return the positions of a dense output that the small network has."""
        for dim, index in enumerate(self.kept):
            if index is not None:
                value = value.index_select(dim, index.to(value.device))
        return value


def find_block_pairs(task: RecoveryTask) -> tuple[BlockPair, ...]:
    """Return the pairs of a task in the order of execution: outermost blocks, and layers outside of blocks.

    A norm belongs to the layer before it. Where a block was dropped, the goal of the block before it is the dropped
    block's output. Modules that the small network no longer calls, or whose output has another shape, are left out.
    """
    if task.coupling is None:
        return ()
    pairs: list[tuple[BlockPair, tuple[Expr, ...]]] = []
    for node, dims, joins in _blocks(task.coupling):
        if pairs and (joins or not _has_parameters(task.model, node.module)):
            before, wide = pairs[-1]
            if dims == wide:
                last = node.module if joins and _has_parameters(task.model, node.module) else before.last
                pairs[-1] = replace(before, last=last, dense=node.module), wide
            continue
        if _has_parameters(task.model, node.module):
            pairs.append((BlockPair(node.module, node.module, node.module, _kept(task, dims)), dims))
    return _comparable(task, [pair for pair, _ in pairs])


def _blocks(coupling: Coupling) -> Iterator[tuple[TreeNode, tuple[Expr, ...], bool]]:
    """Yield the children of all stages with the dims of their outputs, and True for those that only normalise."""
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


def _comparable(task: RecoveryTask, pairs: Sequence[BlockPair]) -> tuple[BlockPair, ...]:
    """Keep the pairs that one call of both networks runs exactly once, with outputs of equal shape."""
    inputs, _ = first_batch(task.train, task.model)
    with torch.no_grad(), in_eval_mode(task.model), in_eval_mode(task.dense):
        with FeatureHooks(task.model, {path for pair in pairs for path in (pair.first, pair.last)}) as ours:
            call(task.model, inputs)
        with FeatureHooks(task.dense, {pair.dense for pair in pairs}) as theirs:
            call(task.dense, inputs)

    def fits(pair: BlockPair) -> bool:
        once = ours.calls.get(pair.first) == ours.calls.get(pair.last) == theirs.calls.get(pair.dense) == 1
        return once and ours.values[pair.last].shape == pair.goal(theirs.values[pair.dense]).shape

    return tuple(pair for pair in pairs if fits(pair))
