"""The savings of each decision of a plan: the price without that decision, minus the price of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from prunus.cost.price import CostModel, cost_model
from prunus.graph.coupling import Coupling
from prunus.plans import Cost, Drop, Plan
from prunus.surgery.rewriting.rewrite_graph import rewrite


def with_savings(plan: Plan, coupling: Coupling, scores: Mapping[str, np.ndarray] | None = None) -> Plan:
    """Return the plan with every decision priced; nothing else changes.

    saves(d) = price(plan without d) − price(plan). Prices are products of widths, so the savings of single decisions do
    not add up to the savings of the plan. With ``scores``, score_share(a) = Σ_removed s / Σ_all s of the axis.

    Args:
        plan: made for this coupling.
        coupling: the analysed model.
        scores: axis id → score of every unit, as the criterion gave them (not negative).
    """
    price = _Prices(plan, coupling)
    after = price.of(plan.axes, plan.drops)
    decisions = []
    for decision in plan.decisions:
        without = price.without(decision.node)
        share = _share(plan.axes.get(decision.node), (scores or {}).get(decision.node))
        if without is not None:
            decision = replace(
                decision,
                saves_params=without.params - after.params,
                saves_macs=without.macs_forward - after.macs_forward,
            )
        decisions.append(decision if share is None else replace(decision, score_share=share))
    return replace(plan, decisions=tuple(decisions))


class _Prices:
    """Prices variants of one plan; without drops all of them are polynomials of one cost model."""

    def __init__(self, plan: Plan, coupling: Coupling) -> None:
        self.plan, self.coupling = plan, coupling
        self.whole: CostModel = cost_model(coupling)

    def of(self, axes: Mapping[str, np.ndarray], drops: tuple[Drop, ...]) -> Cost:
        """Return the exact price of kept units and dropped branches."""
        if not drops and all(m.any() for m in axes.values()):
            return self.whole.price(axes)
        return cost_model(self.coupling, rewrite(self.coupling, dict(axes), drops)).price(axes)

    def without(self, node: str) -> Cost | None:
        """Return the price without one decision; None where the node is neither an axis nor a branch."""
        if node in self.plan.axes:
            return self.of({a: m for a, m in self.plan.axes.items() if a != node}, self.plan.drops)
        left = tuple(d for d in self.plan.drops if node not in (d.label, d.join))
        return self.of(self.plan.axes, left) if len(left) < len(self.plan.drops) else None


def _share(kept: np.ndarray | None, scores: np.ndarray | None) -> float | None:
    if kept is None or scores is None or len(kept) != len(scores):
        return None
    total = float(np.sum(scores))
    return float(np.sum(scores[~kept]) / total) if total > 0 else None
