"""Neuron level: remove the units of lowest score, with everything that is coupled to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan, unit_decisions
from prunus.budget import Limits
from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    CriterionLike,
    collect_evidence,
    comparable_scores,
    criterion_name,
    criterion_of,
    damage_curves,
    probes_for,
)
from prunus.errors import OptionError
from prunus.methods.method import METHODS, Method, Planning
from prunus.plans import Plan

_BATCH = 32


def unit_scores(analysis: Analysis, criterion: CriterionLike) -> dict[str, np.ndarray]:
    """Score every removable unit by a criterion; the data are read once for an analysis."""

    def measure() -> dict[str, np.ndarray]:
        probes = probes_for(criterion)
        if probes and not analysis.has_data:
            labels = any(probe.labels for probe in probes)
            kind = "batches of (inputs, targets)" if labels else "batches of inputs, with or without targets"
            name = criterion_name(criterion)
            raise OptionError(f"criterion {name!r} needs data={kind}; give some, or use magnitude.")
        batches = list(analysis.calibration.batches(_BATCH)) if probes else []
        calibration = Calibration(analysis.user_model, analysis.coupling, batches, analysis.loss, analysis.seed)
        evidence = collect_evidence(criterion, calibration, analysis.remember)
        return {a: s.numpy() for a, s in criterion_of(criterion)(evidence).items()}

    # A function is not stored by its name, which another function may have too.
    scores: dict[str, np.ndarray] = (
        measure() if callable(criterion) else analysis.remember(f"units:{criterion_name(criterion)}", measure)
    )
    return {a: scores[a] for a in analysis.free_axes()}


def unit_plan(analysis: Analysis, limits: Limits, criterion: CriterionLike, allocator: str = "uniform") -> Plan:
    """Remove the lowest units until the limits hold."""
    scores = unit_scores(analysis, criterion)
    damage = damage_curves(analysis.coupling, scores, criterion)
    keep = analysis.fit(comparable_scores(scores), limits, allocator=allocator, damage=damage)
    return make_plan(analysis.coupling, keep, decisions=unit_decisions(keep, criterion), cost=analysis.cost)


def _by(criterion: str) -> Planning:
    def plan(analysis: Analysis, limits: Limits) -> Plan:
        return unit_plan(analysis, limits, criterion)

    return plan


def _unit_method(criterion: str, description: str, name: str = "", *, merges: bool = False) -> Planning:
    """Enrol a method that removes the units of lowest score, with the same share of every axis.

    It has the name of its criterion, unless ``name`` gives another where that one is taken by a method of weights or
    of blocks.
    """
    rule, name = UNIT_CRITERIA.get(criterion), name or criterion
    score: Any = getattr(rule, "score", rule)
    documents = (f"{score.__module__}:{score.__qualname__}",)
    made = Method(
        name,
        "neuron",
        _by(criterion),
        description,
        documents=documents,
        joint=True,
        counts="units",
        scored_by=criterion,
        merges=merges,
    )
    METHODS.register(name)(made)
    return made.plan


sensitivity = _unit_method("sensitivity", "remove the units to whose output the loss is least sensitive, E[(∂L/∂a)²]")
contribution = _unit_method("contribution", "remove the units with the least output energy, E[a²]")
magnitude = _unit_method("magnitude", "remove the units whose producing weights have the least norm")
_unit_method("l1", "remove the units whose producing weights have the least sum of |w|")
_unit_method("fpgm", "remove the units that are nearest to all others of their axis (FPGM)")
_unit_method("bn-scale", "remove the units with the least scale in the norms on their way")
_unit_method("mean-activation", "remove the units with the least mean |a|")
_unit_method("apoz", "remove the units whose output is zero most often (APoZ)")
_unit_method("wanda", "remove the units of which least is read, Σ |w|·‖x‖", "units-wanda")
_unit_method("snip", "remove the units of least Σ |w·E[g]|", "units-snip")
_unit_method(
    "redundancy", "remove the units whose output correlates most with another's", "units-redundancy", merges=True
)
_unit_method("taylor", "remove the units of least (Σ w·E[g])², the mean over all data")
_unit_method("taylor-sample", "remove the units of least E[(∂ℓ/∂γ)²], squared for each sample")
_unit_method("taylor-batch", "remove the units of least E[(∂ℓ/∂γ)²], squared for each batch")
_unit_method("fisher", "remove the units that change the predictions least; needs no labels")
_unit_method("worst-class", "remove the units that the class which needs them most misses least")
