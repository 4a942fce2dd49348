"""A method: the criterion and the allocator of this package, as one that recipes and `compare` can name."""

from __future__ import annotations

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan, unit_decisions
from prunus.budget import Limits
from prunus.criteria import UnitEvidence, comparable_scores
from prunus.methods import Method
from prunus.plans import Plan
from prunus_example.path_norm import path_norm
from prunus_example.square_root import square_root


def _plan(analysis: Analysis, limits: Limits) -> Plan:
    """Remove the units of least path norm, wide axes first.

    Source: own; see `path_norm` and `square_root`.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    weights = {name: weight.detach() for name, weight in analysis.model.named_parameters()}
    found = path_norm(UnitEvidence(analysis.coupling, weights))
    scores = {axis: found[axis].numpy() for axis in analysis.free_axes()}
    keep = analysis.fit(comparable_scores(scores), limits, allocator=square_root)
    return make_plan(analysis.coupling, keep, decisions=unit_decisions(keep, "path-norm"), cost=analysis.cost)


PATH_UNITS = Method("path-units", "neuron", _plan, "remove the units of least path norm, wide layers first", joint=True)
