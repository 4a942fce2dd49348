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
    """The result of the stages so far, in the indices of the original network.

    Attributes:
        analysis: the network in its original shapes, with the weights trained so far.
        reduction: the dropped branches.
        keep: axis id → kept units.
        masks: weight name → kept weights.
        decisions: what was removed, and why.
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
        """Return the present cost in the metric; zero weights count as removed if they lower it."""
        plan = self.plan()
        masked = sum(int((~mask).sum()) for mask in self.masks.values()) if self.analysis.metric == "params" else 0
        return self.analysis.spent(plan.after) - masked

    def with_weights(self, model: nn.Module) -> State:
        """Return the same state with other weights and an empty memo."""
        analysis = self.analysis.with_model(model)
        return replace(self, analysis=analysis, reduction=replace(self.reduction, analysis=analysis))
