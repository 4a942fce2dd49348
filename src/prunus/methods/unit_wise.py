"""Unit-wise: rank all units of similar layers together; the ranking sets the width of each layer."""

from __future__ import annotations

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.method import method
from prunus.methods.scored_units import unit_plan
from prunus.plans import Plan


@method(
    "unit-wise",
    "neuron",
    "remove the units of least sensitivity in one ranking over like layers",
    joint=True,
    counts="units",
    scored_by="sensitivity",
)
def unit_wise(analysis: Analysis, limits: Limits) -> Plan:
    """Rank units across layers; the number that a layer keeps follows from their scores alone.

    Scores are sensitivities, E[Σ_positions (∂L/∂a_u)²]. Layers of different kinds have scores of different scale, so
    each kind of axis (allocator ``isomorphic``) has a ranking of its own and keeps the same share of it.
    Source: Fang et al., "Isomorphic pruning for vision models", arXiv:2407.04616.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    return unit_plan(analysis, limits, "sensitivity", allocator="isomorphic")
