"""Tree knapsack: blocks to drop and widths to keep from one knapsack over the tree; the true loss chooses the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from prunus.analysis import Analysis
from prunus.budget import Limit, Limits
from prunus.budget.knapsack_tree import solve_tree
from prunus.budget.limits import LATENCY
from prunus.criteria import damage_curves
from prunus.errors import BudgetError
from prunus.methods.join_importance import Gates
from prunus.methods.masked_copy import live_axes
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, whole
from prunus.methods.scored_units import unit_scores
from prunus.methods.true_loss import selection_loss
from prunus.plans import Decision, Plan
from prunus.tree import Branch, grow_tree
from prunus.tree.choices import ChoiceTree

_BUDGETS = (1.0, 1.15, 1.3, 1.6, 2.3)
"""Multiples of the limit for which blocks are proposed, because the price of the tree is an upper bound."""
_RATES = (0.01, 0.025, 0.06, 0.16, 0.4, 1.0)
"""Values of the worth of all blocks relative to that of all units; the true loss decides between them."""


@method("tree-knapsack", "hierarchical", "blocks and units from one knapsack over the tree, settled by the true loss")
def tree_knapsack(analysis: Analysis, limits: Limits) -> Plan:
    """Choose blocks to drop and widths to keep with a knapsack over the tree.

    The worth of units is their sensitivity, that of blocks their gate importance; the two have no common scale, so
    several ratios between them are tried. Each gives a set of blocks, for which the widths are solved again under the
    exact price of the network without them. The plan with the least true loss on the selection split is taken, with
    norm statistics re-estimated.

    Source: own; knapsacks over trees: Johnson and Niemi, "On Knapsacks, Partitions, and a New Dynamic Programming
    Technique for Trees", Mathematics of Operations Research 8, 1983.

    Raises:
        BudgetError: no set of blocks leaves a network that fits.
    """
    candidates = list(_proposals(analysis, analysis.kept(limits[0])))
    best: tuple[float, Plan] | None = None
    analysis.progress.start("tree knapsack", len(candidates))
    for reduction, rate in candidates:
        plan = _planned(reduction, rate, limits[0])
        if plan is not None:
            loss = selection_loss(analysis, plan)
            best = (loss, plan) if best is None or loss < best[0] else best
        analysis.progress.advance("tree knapsack")
    analysis.progress.finish("tree knapsack")
    if best is None:
        raise BudgetError(
            f"Budget {limits[0].metric} ≤ {limits[0].shown()}: no set of blocks and widths fits this network. "
            "Keep more."
        )
    return best[1]


def _proposals(analysis: Analysis, kept: float) -> Iterator[tuple[Reduction, float]]:
    """Yield each set of blocks that the knapsack drops at some budget and rate, with its rate; the empty set too."""
    branches, tree = {b.id: b for b in droppable(analysis)}, grow_tree(analysis.coupling)
    scores, worth = unit_scores(analysis, "sensitivity"), _worths(analysis, list(branches.values()))
    curves = damage_curves(analysis.coupling, scores, "sensitivity")
    # Damage of keeping half of every axis, for the ratio between units and blocks.
    scale = sum(float(c[len(c) // 2]) for c in curves.values()) / max(sum(worth.values()), 1e-30)
    sets: dict[frozenset[str], float] = {frozenset(): 0.0}
    # Layers of the tree have no times; MACs replace them until the exact price decides.
    proxy = Limit("macs" if analysis.metric == LATENCY else analysis.metric, 0)
    for rate in _RATES if branches else ():
        drops = {name: rate * scale * value for name, value in worth.items()}
        model = ChoiceTree.of(tree, analysis.cost, curves, drops, proxy.metric)
        for share in _BUDGETS:
            with contextlib.suppress(BudgetError):
                choices = model.read(solve_tree(model.root, int(share * kept * proxy.of(analysis.cost.price()))))
                sets.setdefault(frozenset(choices.dropped), rate)
    for names, rate in sets.items():
        reduction = Reduction.of(analysis, [b for name, b in branches.items() if name in names])
        if reduction is not None:
            yield reduction, rate


def _worths(analysis: Analysis, branches: Sequence[Branch]) -> dict[str, float]:
    if not branches:
        return {}
    importance = Gates(analysis).importance(whole(analysis))
    return {b.id: sum(importance[edge] for edge in b.edges) for b in branches}


def _planned(reduction: Reduction, rate: float, limit: Limit) -> Plan | None:
    """Return the plan without these blocks; None where the limit is out of reach or clearly less than it would stay."""
    analysis = reduction.analysis
    if reduction.spent < (1 - SLACK) * limit.value:
        return None
    live = set(live_axes(reduction))
    scores = {a: s for a, s in unit_scores(analysis, "sensitivity").items() if a in live}
    try:
        damage = damage_curves(analysis.coupling, scores, "sensitivity")
        keep = analysis.fit(
            scores, limit, cost=reduction.cost, allocator="knapsack", base=reduction.keep, damage=damage
        )
    except BudgetError:
        return None
    reason = f"cheaper to lose than the units that would go instead, at a rate of {rate:g}"
    decisions = [Decision(b.id, "structure", b.params, b.params, reason) for b in reduction.dropped]
    decisions += [
        Decision(a, "unit", int((~m).sum()), len(m), "its width by the knapsack over sensitivities")
        for a, m in keep.items()
        if a in live and not m.all()
    ]
    return reduction.as_plan(keep, decisions, {"method": "tree-knapsack", "rate": rate})
