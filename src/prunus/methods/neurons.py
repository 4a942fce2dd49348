"""Neuron level: units with the lowest score go, with everything that is coupled to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    CriterionLike,
    collect_evidence,
    comparable_scores,
    criterion_of,
    damage_curves,
    probes_for,
)
from prunus.methods.subject import METHODS, Method, Subject
from prunus.planning import make_plan, unit_decisions
from prunus.plans import Plan

_BATCH = 32


def unit_scores(subject: Subject, criterion: CriterionLike) -> dict[str, np.ndarray]:
    """Score every removable unit by a criterion; what a pass over the data gave is measured once a subject."""

    def measure() -> dict[str, np.ndarray]:
        batches = list(subject.calibration.batches(_BATCH)) if probes_for(criterion) else []
        calibration = Calibration(subject.model, subject.coupling, batches, subject.loss, subject.seed)
        evidence = collect_evidence(criterion, calibration, subject.remember)
        return {a: s.numpy() for a, s in criterion_of(criterion)(evidence).items()}

    # A function has no name of its own to be remembered by: another may take the same one.
    scores: dict[str, np.ndarray] = (
        measure() if callable(criterion) else subject.remember(f"units:{criterion}", measure)
    )
    return {a: scores[a] for a in subject.free_axes()}


def unit_plan(subject: Subject, kept: float, criterion: CriterionLike, allocator: str = "uniform") -> Plan:
    """Remove the lowest units until the kept share is met."""
    scores = unit_scores(subject, criterion)
    damage = damage_curves(subject.coupling, scores, criterion)
    keep = subject.fit(comparable_scores(scores), subject.limit(kept), allocator=allocator, damage=damage)
    return make_plan(subject.coupling, keep, decisions=unit_decisions(keep, criterion), cost=subject.cost)


def _by(criterion: str) -> Callable[[Subject, float], Plan]:
    def plan(subject: Subject, kept: float) -> Plan:
        return unit_plan(subject, kept, criterion)

    return plan


def _unit_method(name: str, criterion: str, description: str) -> Callable[[Subject, float], Plan]:
    """Enrol a method that removes the units of lowest score, with the same share of every axis."""
    rule = UNIT_CRITERIA.get(criterion)
    score: Any = getattr(rule, "score", rule)
    documents = (f"{score.__module__}:{score.__qualname__}",)
    METHODS.register(name)(Method(name, "neuron", _by(criterion), description, documents=documents))
    return METHODS.get(name).plan


sensitivity = _unit_method(
    "sensitivity", "sensitivity", "remove the units to whose output the loss is least sensitive, E[(∂L/∂a)²]"
)
contribution = _unit_method("contribution", "contribution", "remove the units with the least output energy, E[a²]")
filter_norm = _unit_method("filter-norm", "magnitude", "remove the units whose producing weights have the least norm")

for _name, _criterion, _description in (
    ("filter-norm-l1", "l1", "remove the units whose producing weights have the least sum of |w|"),
    ("fpgm", "fpgm", "remove the units that are nearest to all others of their axis (FPGM)"),
    ("bn-scale", "bn_scale", "remove the units with the least scale in the norms on their way"),
    ("mean-activation", "mean_activation", "remove the units with the least mean |a|"),
    ("apoz", "apoz", "remove the units whose output is zero most often (APoZ)"),
    ("units-wanda", "wanda", "remove the units of which least is read, Σ |w|·‖x‖"),
    ("units-snip", "snip", "remove the units of least Σ |w·E[g]|"),
    ("units-redundancy", "redundancy", "remove the units whose output correlates most with another's"),
    ("taylor", "taylor", "remove the units of least (Σ w·E[g])², the mean over all data"),
    ("taylor-sample", "taylor_sample", "remove the units of least E[(∂ℓ/∂γ)²], squared for each sample"),
    ("taylor-batch", "taylor_batch", "remove the units of least E[(∂ℓ/∂γ)²], squared for each batch"),
    ("fisher", "fisher", "remove the units that change the predictions least; needs no labels"),
    ("worst-class", "worst_class", "remove the units that the class which needs them most misses least"),
):
    _unit_method(_name, _criterion, _description)
