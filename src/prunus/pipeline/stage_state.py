"""The state between two stages: the network so far, and everything that is removed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.methods.reduction import Reduction
from prunus.plans import Decision, Plan


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the stages so far have left, in the indices of the original network.

    Attributes:
        analysis: the network in its original shapes; what stays has the weights learned so far.
        reduction: the branches that went.
        keep: axis id → units that stay.
        masks: weight name → weights that stay.
        decisions: what went, and why.
    """

    analysis: Analysis
    reduction: Reduction
    keep: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def plan(self) -> Plan:
        """Return the plan of all stages so far."""
        return make_plan(
            self.analysis.coupling, self.keep, self.reduction.drops, self.masks, self.decisions, cost=self.analysis.cost
        )

    def spent(self) -> int:
        """Return what is left of the metric; weights at zero count as gone where they save something."""
        plan = self.plan()
        gone = sum(int((~mask).sum()) for mask in self.masks.values()) if self.analysis.metric == "params" else 0
        return self.analysis.spent(plan.after) - gone

    def with_weights(self, model: nn.Module) -> State:
        """Return the same state with other weights; what was measured on the old ones is forgotten."""
        analysis = replace(self.analysis, model=model, memo={})
        return replace(self, analysis=analysis, reduction=replace(self.reduction, analysis=analysis))
