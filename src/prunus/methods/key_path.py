"""Key path: keep the most important way through the network, drop what lies beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prunus.graph.ir import INPUT, Graph, refs_in
from prunus.methods.gates import GateImportance, Gates
from prunus.methods.reduction import SLACK, Reduction, droppable, trimmed, whole
from prunus.methods.subject import Subject, method
from prunus.plans import Plan
from prunus.tree import Branch

_ROUNDS = 8
"""A round drops at least this part of what was too much at the start, so that so many rounds are enough."""


def key_path(graph: Graph, importance: Mapping[tuple[str, int], float]) -> tuple[tuple[str, int], ...]:
    """Return the way from an input to an output with the largest sum of gate importances.

    best(n) = max over readings i of n of best(source_i) + I(n, i), with I = 0 where there is no gate; input nodes
    start at 0, nodes that depend on no input are on no way. Of equal ways the earlier operand is taken.

    Args:
        graph: a program in execution order.
        importance: (node, which of its readings) → importance, not negative.

    Returns:
        The edges of the way in order: (node, which of its readings).
    """
    best: dict[str, float] = {}
    came: dict[str, tuple[int, str]] = {}
    for node in graph.nodes:
        if node.op == INPUT:
            best[node.name] = 0.0
            continue
        for i, ref in enumerate(refs_in(node.args)):
            if ref.node in best:
                value = best[ref.node] + importance.get((node.name, i), 0.0)
                if node.name not in best or value > best[node.name]:
                    best[node.name], came[node.name] = value, (i, ref.node)
    ends = [ref.node for ref in refs_in(list(graph.outputs)) if ref.node in best]
    if not ends:
        return ()
    here = max(ends, key=lambda name: best[name])
    way: list[tuple[str, int]] = []
    while here in came:
        i, source = came[here]
        way.append((here, i))
        here = source
    return tuple(reversed(way))


@method("key-path", "structure", "keep the most important path from input to output, drop the branches beside it")
def plan_key_path(subject: Subject, kept: float) -> Plan:
    """Drop the branches beside the key path, least important per parameter first, until the budget is met.

    After every round the importances and the path are found anew on the reduced network; the path may move. When
    nothing beside it is left, branches on it go, least first. A branch that would take more than is needed stays;
    what is then still above the budget is trimmed by units.

    Args:
        subject: the network.
        kept: share of the parameters that may stay.

    Raises:
        BudgetError: out of reach even with one unit an axis.
    """
    limit, branches, gates = subject.limit(kept).value, droppable(subject), Gates(subject)
    reduction = whole(subject)
    share = (reduction.params - limit) / _ROUNDS
    reasons: dict[str, str] = {}
    subject.progress.start("key path", len(branches))
    while reduction.params > limit and (candidates := reduction.left(branches)):
        following, why = _round(reduction, candidates, gates.importance(reduction), limit, share)
        if not why:
            break
        reasons |= why
        subject.progress.advance("key path", len(why))
        reduction = following
    subject.progress.finish("key path")
    return trimmed(reduction, kept, reasons, method="key-path")


def _round(
    reduction: Reduction, candidates: Sequence[Branch], importance: GateImportance, limit: int, share: float
) -> tuple[Reduction, dict[str, str]]:
    """Drop at least one branch, and on until ``share`` parameters are gone; nothing if none fits."""
    gone = dict.fromkeys((edge for branch in reduction.dropped for edge in branch.edges), -math.inf)
    way = frozenset(key_path(reduction.subject.coupling.graph, {**importance, **gone}))
    beside = [b for b in candidates if way.isdisjoint(b.edges)]
    on_it = [b for b in candidates if not way.isdisjoint(b.edges)]
    worth = {b.id: sum(importance[edge] for edge in b.edges) for b in candidates}
    for pool, place in ((beside, "beside the key path"), (on_it, "on the key path; nothing beside it could go")):
        pool.sort(key=lambda b: (worth[b.id] / max(1, b.params), b.id))
        smaller, taken, too_large = _drop(reduction, pool, worth, limit, share)
        if taken or too_large:
            return smaller, {
                b.id: f"{place}: gate importance {worth[b.id]:.3g} for {b.params:,} parameters" for b in taken
            }
    return reduction, {}


def _drop(
    reduction: Reduction, pool: Sequence[Branch], worth: Mapping[str, float], limit: int, share: float
) -> tuple[Reduction, list[Branch], bool]:
    """Drop from the front of the pool; also say whether one stayed only because it is more than has to go."""
    start, taken, ceiling = reduction.params, list[Branch](), math.inf
    for branch in pool:
        # Worth more than a branch that would have met the budget alone: trimming units is the lesser loss.
        if worth[branch.id] > ceiling:
            continue
        if branch not in reduction.left(pool) or (smaller := reduction.without(branch)) is None:
            continue
        if smaller.params < (1 - SLACK) * limit:
            ceiling = min(ceiling, worth[branch.id])
            continue
        reduction = smaller
        taken.append(branch)
        if reduction.params <= limit or start - reduction.params >= share:
            break
    return reduction, taken, ceiling < math.inf
