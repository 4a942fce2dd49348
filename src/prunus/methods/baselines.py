"""Honest baselines: units at random, and a smaller dense network trained from scratch."""

from __future__ import annotations

from prunus.methods.neurons import unit_plan
from prunus.methods.subject import Subject, method
from prunus.plans import Plan


@method("random", "baseline", "remove units at random")
def random(subject: Subject, kept: float) -> Plan:
    """Remove units drawn from the seed.

    Source: own; a strong baseline: Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks", arXiv:1801.10447.
    """
    return unit_plan(subject, kept, "random")


@method("smaller-dense", "baseline", "a uniformly narrower network of equal cost, new weights, trained from scratch",
        fresh_weights=True)  # fmt: skip
def smaller_dense(subject: Subject, kept: float) -> Plan:
    """Give the shape of a uniformly narrower network; the comparison trains it from new weights.

    Source: Liu et al., "Rethinking the Value of Network Pruning", arXiv:1810.05270.
    """
    return unit_plan(subject, kept, "magnitude")
