"""The network between two levels of the hierarchical procedure, and the optimisation of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.exporters import undo
from prunus.methods.hierarchy.settings import FINETUNE, NONE, REFIT, Optimisation
from prunus.methods.hierarchy.values import network_left, with_model
from prunus.methods.reduction import Reduction, whole
from prunus.outcome.cutting import cut_proved
from prunus.plans import Decision, Plan
from prunus.repairs import repair_
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, finetune_

_REFIT = "refold"
_LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The result of the levels so far, in the indices of the original network.

    Attributes:
        dense: the original network.
        reduction: the dropped blocks; its analysis holds the weights as optimised so far.
        keep: axis id → units that stay.
        masks: weight name → weights that stay.
        decisions: what was removed, and why.
        lines: the record of the procedure, a line a step.
    """

    dense: Analysis
    reduction: Reduction
    keep: Mapping[str, np.ndarray] = field(default_factory=dict)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    lines: tuple[str, ...] = ()

    @staticmethod
    def of(analysis: Analysis) -> State:
        """Return the state of the whole network."""
        return State(analysis, whole(analysis))

    @property
    def analysis(self) -> Analysis:
        """The network in its original shapes, with the weights as optimised so far."""
        return self.reduction.analysis

    def left(self) -> Analysis:
        """Return the analysis of the network that is left, with everything removed at zero."""
        return network_left(self.reduction, self.keep, self.masks)

    def plan(self, settings: Mapping[str, object] | None = None) -> Plan:
        """Return the plan of all levels so far."""
        return make_plan(
            self.analysis.coupling,
            self.keep,
            self.reduction.drops,
            self.masks,
            self.decisions,
            settings,
            cost=self.analysis.cost,
        )

    def spent(self) -> int:
        """Return the amount of the metric that is left; masked weights count as removed where zeros save some."""
        plan = self.plan()
        amount = self.analysis.spent(plan.after)
        return amount - plan.masked if self.analysis.metric == "params" else amount

    def with_line(self, line: str) -> State:
        """Return the same state with one more line of the record."""
        return replace(self, lines=(*self.lines, line))


def optimised(state: State, how: Optimisation) -> State:
    """Optimise the weights that are left: a repair towards the dense network, or a few steps of training.

    The next level scores the optimised network. A plan holds no weights: the cut network gets its own repair and
    recovery. Without data, and for a model that was captured in parts, the weights stay.
    """
    analysis, plan = state.analysis, state.plan()
    if how.method == NONE or not analysis.has_data or analysis.parts or plan.is_empty:
        return state
    small = cut_proved(analysis.model, analysis.coupling, plan, analysis.example_inputs, prove=False).model
    if how.method == FINETUNE:
        options = TrainingOptions(how.steps, lr=_LEARNING_RATE, loss=analysis.loss)
        finetune_(small, analysis.calibration, options, masks=sliced_masks(plan) or None, seed=analysis.seed)
        line = f"fine-tuned for {how.steps} steps"
    else:
        name = _REFIT if how.method == REFIT else how.method
        repair_(
            state.dense.model, small, analysis.coupling, plan, analysis.calibration, repair=name, seed=analysis.seed
        )
        line = f"weights refitted by {name}"
    current = with_model(analysis, undo(small, plan, analysis.model))
    return replace(state, reduction=replace(state.reduction, analysis=current)).with_line(f"   optimised: {line}")
