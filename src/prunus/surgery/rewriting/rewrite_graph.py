"""Rewrite a graph for a plan: every size literal is recomputed from the dim expression that it counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from prunus.errors import PlanError
from prunus.graph.coupling import Coupling, Keep
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, TensorMeta, map_refs
from prunus.graph.passes import drop_dead
from prunus.graph.rules.context import base_name
from prunus.plans import Drop
from prunus.surgery.rewriting.rewrite_rules import REWRITES, Args, Sizes
from prunus.surgery.token_ids import cut_indices


def rewrite(coupling: Coupling, keep: Keep, drops: Sequence[Drop] = ()) -> Graph:
    """Return the program of the cut model: new shapes and literals, without bypassed branches.

    Raises:
        PlanError: the plan empties an axis that is still needed.
    """
    sizes = Sizes(coupling, keep)
    graph = coupling.graph
    alias = _bypasses(graph, drops)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in alias:
            continue
        metas = tuple(
            None if m is None else TensorMeta(sizes.new(Ref(node.name, i)), m.dtype) for i, m in enumerate(node.outputs)
        )
        op, args = node.op, node.args
        if node.op not in (INPUT, TENSOR):
            rewritten = _rewritten(sizes, node)
            op, args = rewritten if rewritten is not None else (node.op, node.args)
            args = {k: map_refs(v, lambda r: alias.get(r.node, r)) for k, v in args.items()}
            args = _without_empty(sizes, op, args)
        nodes.append(dataclasses.replace(node, op=op, args=args, outputs=metas))
    outputs = tuple(map_refs(o, lambda r: alias.get(r.node, r)) for o in graph.outputs)
    tensors = {
        name: dataclasses.replace(i, shape=tuple(coupling.kept(e, keep) for e in coupling.tensors[name]))
        for name, i in graph.tensors.items()
    }
    calls = (
        tuple(
            dataclasses.replace(
                c,
                in_leaves=tuple(map_refs(x, lambda r: alias.get(r.node, r)) for x in c.in_leaves),
                out_leaves=tuple(map_refs(x, lambda r: alias.get(r.node, r)) for x in c.out_leaves),
            )
            for c in graph.calls
        )
        if alias
        else graph.calls
    )
    indices = {n: cut_indices(coupling, keep, n, v) for n, v in graph.constants.items() if n in coupling.ids}
    edited = dataclasses.replace(
        graph,
        nodes=tuple(nodes),
        outputs=outputs,
        tensors=tensors,
        constants={**graph.constants, **indices},
        calls=calls,
        _by_name={},
    )
    edited = _without_orphans(graph, drop_dead(edited))
    _refuse_empty(coupling, edited)
    _refuse_too_few(coupling, keep)
    return edited


def _without_orphans(before: Graph, edited: Graph) -> Graph:
    """Remove the tensors that lost their last reader; those that never had a reader belong to the user."""
    orphans = {n.tensor for n in before.nodes if n.op == TENSOR} - {n.tensor for n in edited.nodes if n.op == TENSOR}
    tensors = {name: info for name, info in edited.tensors.items() if name not in orphans}
    aliases = {alias: name for alias, name in edited.aliases.items() if name not in orphans}
    return dataclasses.replace(edited, tensors=tensors, aliases=aliases, _by_name={}) if orphans else edited


def _rewritten(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    member = REWRITES.find(base_name(node.op)) if node.op.startswith("aten.") else None
    return member(sizes, node) if member is not None else None


def _bypasses(graph: Graph, drops: Sequence[Drop]) -> dict[str, Ref]:
    """Map each bypassed addition to the operand that it keeps."""
    alias: dict[str, Ref] = {}
    known = {n.name for n in graph.nodes}
    for drop in drops:
        if drop.join not in known:
            raise PlanError(f"The plan bypasses {drop.label!r} at node {drop.join!r}, which this model does not have.")
        node = graph.node(drop.join)
        if drop.join in alias:
            raise PlanError(f"Both branches of {drop.join!r} ({drop.label}) would go; keep one.")
        alias[drop.join] = [node.args["self"], node.args["other"]][1 - drop.operand]

    def final(ref: Ref) -> Ref:
        while ref.node in alias:
            ref = alias[ref.node]
        return ref

    return {name: final(ref) for name, ref in alias.items()}


def _without_empty(sizes: Sizes, op: str, args: Args) -> Args:
    """Drop the operands of a concatenation that lost all units."""
    if base_name(op) not in ("cat", "concat", "concatenate"):
        return args
    real = [r for r in args["tensors"] if 0 not in sizes.new(r) or 0 in sizes.old(r)]
    return args if len(real) == len(args["tensors"]) or not real else {**args, "tensors": real}


def _refuse_empty(coupling: Coupling, edited: Graph) -> None:
    for node in edited.nodes:
        for i, meta in enumerate(node.outputs):
            if meta is None or 0 not in meta.shape:
                continue
            old = coupling.graph.meta(Ref(node.name, i)).shape
            if 0 not in old:
                dim = [n == 0 and o != 0 for n, o in zip(meta.shape, old, strict=True)].index(True)
                where = node.tensor or coupling.graph.where(coupling.graph.node(node.name))
                raise PlanError(
                    f"{where} would keep 0 of {old[dim]} units in dim {dim}; at least 1 must stay. "
                    "Raise the budget or exempt it."
                )


def _refuse_too_few(coupling: Coupling, keep: Keep) -> None:
    for name, mask in keep.items():
        axis, count = coupling.axes.get(name), int(np.count_nonzero(mask))
        if axis is not None and 0 < count < axis.least:
            raise PlanError(
                f"Axis {name!r} would keep {count} of {axis.size} units; the model chooses among them and needs "
                f"{axis.least}. Keep more, or exempt it."
            )


__all__ = ["REWRITES", "Sizes", "rewrite"]
