"""Unit-wise: rank all units of similar layers, or all weights, together; the ranking sets what each layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria import CriterionLike, criterion_name
from prunus.foundation.defaults import DEFAULTS
from prunus.masks import top_masks
from prunus.methods.method import method
from prunus.methods.scored_units import unit_plan
from prunus.methods.weights import MAGNITUDE, maskable, masked_plan, weight_scores, weights_to_keep
from prunus.plans import Plan

SENSITIVITY = "sensitivity"


@method(
    "unit-wise",
    "neuron",
    "remove the units of least sensitivity in one ranking over like layers",
    options=("criterion", "levels"),
    joint=True,
    counts="units",
    scored_by=SENSITIVITY,
)
def unit_wise(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    levels: Sequence[str] = DEFAULTS.levels,
) -> Plan:
    """Rank units, neurons or connections, across layers; the number that a layer keeps follows from their scores alone.

    Neurons are scored by sensitivity, E[Σ_positions (∂L/∂a_u)²], unless a criterion is given. Layers of different kinds
    have scores of different scale, so each kind of axis (allocator ``isomorphic``) has a ranking of its own and keeps
    the same share of it. Connections, single weights, are ranked in one list over the network, by |w| or a criterion of
    weights.
    Source: Fang et al., "Isomorphic pruning for vision models", arXiv:2407.04616.

    Args:
        analysis: the network and its data.
        limits: limits that must all hold; one for connections.
        criterion: criterion of the units; None is the default of the level.
        levels: ``("unit",)`` for neurons, ``("weight",)`` for connections.

    Raises:
        OptionError: an unknown criterion, or one that needs data where there are none.
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    if tuple(levels) == ("weight",):
        return _connections(analysis, limits, criterion or MAGNITUDE)
    name = criterion or SENSITIVITY
    plan = unit_plan(analysis, limits, name, allocator="isomorphic")
    return replace(plan, settings={**plan.settings, "criterion": criterion_name(name)})


def _connections(analysis: Analysis, limits: Limits, criterion: CriterionLike) -> Plan:
    weights, title = maskable(analysis), criterion_name(criterion)
    scores = weight_scores(analysis, analysis.user_model, list(weights), criterion)
    masks = top_masks(scores, keep_count=weights_to_keep(analysis, weights, limits))
    plan = masked_plan(analysis, masks, f"lowest {title} of all connections")
    return replace(plan, settings={"criterion": title})
