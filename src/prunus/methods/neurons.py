"""Neuron level: units with the lowest score go, with everything that is coupled to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunus.criteria import (
    UNIT_CRITERIA,
    Calibration,
    collect_evidence,
    comparable_scores,
    damage_curves,
    probes_for,
)
from prunus.methods.subject import METHODS, Method, Subject
from prunus.planning import make_plan, unit_decisions
from prunus.plans import Plan

_BATCH = 32


def unit_scores(subject: Subject, criterion: str) -> dict[str, np.ndarray]:
    """Score every removable unit by a criterion's name; what a pass over the data gave is measured once a subject."""

    def measure() -> dict[str, np.ndarray]:
        batches = list(subject.calibration.batches(_BATCH)) if probes_for(criterion) else []
        calibration = Calibration(subject.model, subject.coupling, batches, subject.loss, subject.seed)
        evidence = collect_evidence(criterion, calibration, subject.remember)
        return {a: s.numpy() for a, s in UNIT_CRITERIA.get(criterion)(evidence).items()}

    scores: dict[str, np.ndarray] = subject.remember(f"units:{criterion}", measure)
    return {a: scores[a] for a in subject.free_axes()}


def unit_plan(subject: Subject, kept: float, criterion: str, allocator: str = "uniform") -> Plan:
    """Remove the lowest units until the kept share is met."""
    scores = unit_scores(subject, criterion)
    damage = damage_curves(subject.coupling, scores, criterion)
    keep = subject.fit(comparable_scores(scores), subject.limit(kept), allocator=allocator, damage=damage)
    return make_plan(subject.coupling, keep, decisions=unit_decisions(keep, criterion), cost=subject.cost)


def _by(criterion: str) -> Callable[[Subject, float], Plan]:
    def plan(subject: Subject, kept: float) -> Plan:
        return unit_plan(subject, kept, criterion)

    return plan


def _unit_method(name: str, criterion: str, document: str, description: str) -> Callable[[Subject, float], Plan]:
    """Enrol a method that removes the units of lowest score, with the same share of every axis."""
    METHODS.register(name)(Method(name, "neuron", _by(criterion), description, documents=(document,)))
    return METHODS.get(name).plan


sensitivity = _unit_method(
    "sensitivity",
    "sensitivity",
    "prunus.criteria.activity:unit_sensitivity",
    "remove the units to whose output the loss is least sensitive, E[(∂L/∂a)²]",
)
contribution = _unit_method(
    "contribution",
    "contribution",
    "prunus.criteria.activity:unit_contribution",
    "remove the units with the least output energy, E[a²]",
)
filter_norm = _unit_method(
    "filter-norm",
    "magnitude",
    "prunus.criteria.unit_norm:unit_magnitude",
    "remove the units whose producing weights have the least norm",
)
