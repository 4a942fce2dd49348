"""Neuron level: units with the lowest score go, with everything that is coupled to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunus.budget import fit_units
from prunus.criteria import activation_statistics
from prunus.methods.subject import Subject, method
from prunus.planning import make_plan, unit_criterion, unit_decisions
from prunus.plans import Plan

_BATCH = 32


def unit_scores(subject: Subject, criterion: str) -> dict[str, np.ndarray]:
    """Score every removable unit, measured once a subject: filter norm, sensitivity, contribution, taylor, random."""

    def measure() -> dict[str, np.ndarray]:
        if criterion in ("sensitivity", "contribution"):
            batches = list(subject.calibration.batches(_BATCH))
            found = subject.remember(
                "activations", lambda: activation_statistics(subject.model, subject.coupling, batches, subject.loss)
            )
            return {a: s.numpy() for a, s in getattr(found, criterion).items()}
        data = subject.calibration.batches(_BATCH) if criterion == "taylor" else None
        return unit_criterion(subject.model, subject.coupling, criterion, data, subject.seed)

    scores: dict[str, np.ndarray] = subject.remember(f"units:{criterion}", measure)
    return {a: scores[a] for a in subject.free_axes()}


def unit_plan(subject: Subject, kept: float, criterion: str, allocator: str = "uniform") -> Plan:
    """Remove the lowest units until the kept share of the parameters is met."""
    keep = fit_units(subject.cost, unit_scores(subject, criterion), subject.limit(kept), allocator=allocator)
    return make_plan(subject.coupling, keep, decisions=unit_decisions(keep, criterion), cost=subject.cost)


def _by(criterion: str) -> Callable[[Subject, float], Plan]:
    def plan(subject: Subject, kept: float) -> Plan:
        return unit_plan(subject, kept, criterion)

    plan.__doc__ = f"Remove the units of lowest {criterion}."
    return plan


sensitivity = method("sensitivity", "neuron", "remove the units to whose output the loss is least sensitive, "
                     "E[(∂L/∂a)²]")(_by("sensitivity"))  # fmt: skip
contribution = method("contribution", "neuron", "remove the units with the least output energy, E[a²]")(
    _by("contribution")
)
filter_norm = method("filter-norm", "neuron", "remove the units whose producing weights have the least norm")(
    _by("magnitude")
)
