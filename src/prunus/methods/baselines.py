"""Honest baselines: units at random, and a smaller dense network trained from scratch."""

from __future__ import annotations

from prunus.methods.neurons import unit_plan
from prunus.methods.subject import Subject, method
from prunus.plans import Plan


@method("random", "baseline", "remove units at random")
def random(subject: Subject, kept: float) -> Plan:
    """Remove units drawn from the seed."""
    return unit_plan(subject, kept, "random")


@method("smaller-dense", "baseline", "a uniformly narrower network of equal cost, new weights, trained from scratch",
        fresh_weights=True)  # fmt: skip
def smaller_dense(subject: Subject, kept: float) -> Plan:
    """Give the shape of a uniformly narrower network; the comparison trains it from new weights."""
    return unit_plan(subject, kept, "magnitude")
