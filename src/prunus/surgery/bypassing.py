"""Dropped branches and segments in a model that keeps its forwards: their modules return zeros, or no channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PlanError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, ModuleCall, Ref, refs_in
from prunus.plans import Plan
from prunus.surgery.record import Shipped
from prunus.surgery.rewriting.module_calls import live_calls


def silenced(model: nn.Module, coupling: Coupling, plan: Plan, edited: Graph) -> dict[str, Shipped]:
    """Return module path → the module that returns zeros there, for every branch or segment that a plan drops.

    A branch is silent if the last of its modules returns zeros; a segment of a concatenation is silent if its modules
    return no channels. Earlier modules that have parameters are replaced too, because nothing reads their results.

    Raises:
        PlanError: a branch has no module of its own, or its result has a shape that no such module returns.
    """
    if not plan.drops and all(mask.any() for mask in plan.axes.values()):
        return {}
    graph = coupling.graph
    dead = live_calls(graph) - live_calls(edited)
    outer = [c for c in graph.calls if c.index in dead and c.parent not in dead]
    by_path: dict[str, set[int]] = {}
    for call in graph.calls:
        by_path.setdefault(call.path, set()).add(call.index)
    last = _last_calls(graph, plan, outer)
    modules = dict(model.named_modules(remove_duplicate=False))
    zeros: dict[str, Shipped] = {}
    for call in outer:
        all_dead = by_path[call.path] <= dead
        has_parameters = next(modules[call.path].parameters(), None) is not None
        if all_dead and (call.index in last or has_parameters):
            zeros[call.path] = _zero(coupling, plan, call)
    for drop in plan.drops:
        ends = {c.path for c in outer if c.index in _last_calls(graph, plan, outer, drop.join)}
        if not ends & zeros.keys():
            where = graph.where(graph.node(drop.join))
            raise PlanError(
                f"Branch {drop.label!r} cannot be bypassed while {where} keeps its forward: no module of the branch "
                "stands alone. Leave the branch, or cut with forward='rewrite'."
            )
    return zeros


def _last_calls(graph: Graph, plan: Plan, outer: Sequence[ModuleCall], join: str = "") -> set[int]:
    """Return the calls whose results reach a dropped operand through ops of the forward that joins the branches."""
    made: dict[Ref, set[int]] = {}
    for call in outer:  # several calls return one value if one passes on the result of another
        for leaf in call.out_leaves:
            if isinstance(leaf, Ref):
                made.setdefault(leaf, set()).add(call.index)
    inside = {c.index for c in outer}
    last: set[int] = set()
    todo = [
        [graph.node(d.join).args["self"], graph.node(d.join).args["other"]][d.operand]
        for d in plan.drops
        if join in ("", d.join)
    ]
    seen: set[Ref] = set()
    while todo:
        ref = todo.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if ref in made:
            last |= made[ref]
        elif graph.node(ref.node).call not in inside:
            todo.extend(refs_in(graph.node(ref.node).args))
    return last


def _zero(coupling: Coupling, plan: Plan, call: ModuleCall) -> Shipped:
    graph = coupling.graph
    given = next((x for x in call.in_leaves if isinstance(x, Ref) and graph.meta(x).dtype.is_floating_point), None)
    results = _results(call)
    if given is None or results is None:
        raise PlanError(
            f"{call.path!r} cannot be replaced by zeros: its first argument is not a tensor, or it returns an object. "
            "Keep the branch, or use forward='rewrite'."
        )
    answer = call.out_leaves[0]
    one, two = ([coupling.kept(e, plan.axes) for e in coupling.values[r]] for r in (given, answer))
    changed = [d for d, (a, b) in enumerate(zip(one, two, strict=False)) if a != b]
    channels, behind = [d for d in changed if d in (1, len(two) - 1)], [d for d in changed if d > 1]
    sizes = {"results": results} if results else {}

    def width(dim: int) -> dict[str, int]:
        return {"dim": dim, **({"width": two[dim]} if two[dim] else {"empty": 1})}

    if len(one) == len(two) and (not changed or changed == [len(two) - 1]):
        return Shipped("Zero", {**sizes, **(width(-1) if changed else {})})
    strides = {round(one[d] / two[d]) for d in behind}
    if len(one) == len(two) > 2 and len(strides) <= 1 and set(changed) <= {1, *range(2, len(two))} and channels != [0]:
        stride = strides.pop() if strides else 1
        if all(-(-one[d] // stride) == two[d] for d in range(2, len(two))):
            channel = width(1) if 1 in changed else {}
            return Shipped("Zero", {**sizes, **channel, **({"stride": stride} if stride > 1 else {})})
    raise PlanError(
        f"{call.path!r} cannot be replaced by zeros: it turns shape {one} into {two}. "
        "Keep the branch, or use forward='rewrite'."
    )


def _results(call: ModuleCall) -> int | None:
    """Return 0 for a call that returns a tensor, the length of a tuple that begins with one, None for other results."""
    if not call.out_leaves or not isinstance(call.out_leaves[0], Ref):
        return None
    shape = pytree.tree_unflatten(list(call.out_leaves), call.out_spec)
    if isinstance(shape, Ref):
        return 0
    return len(shape) if isinstance(shape, tuple) and isinstance(shape[0], Ref) else None
