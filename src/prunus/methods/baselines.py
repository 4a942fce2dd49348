"""Baselines: random units, and a smaller dense network trained from scratch."""

from __future__ import annotations

from dataclasses import replace

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.method import method
from prunus.methods.scored_units import unit_plan
from prunus.outcome import FRESH
from prunus.plans import Plan


@method("random", "baseline", "remove units at random", joint=True)
def random(analysis: Analysis, limits: Limits) -> Plan:
    """Remove units drawn from the seed.

    Source: own; a strong baseline: Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks", arXiv:1801.10447.
    """
    return unit_plan(analysis, limits, "random")


@method(
    "smaller-dense",
    "baseline",
    "a uniformly narrower network of equal cost, new weights, trained from scratch",
    fresh_weights=True,
    joint=True,
)
def smaller_dense(analysis: Analysis, limits: Limits) -> Plan:
    """Plan the shape of a uniformly narrower network; the comparison trains it from new weights.

    Source: Liu et al., "Rethinking the Value of Network Pruning", arXiv:1810.05270.
    """
    plan = unit_plan(analysis, limits, "magnitude")
    return replace(plan, settings={**plan.settings, FRESH: True})
