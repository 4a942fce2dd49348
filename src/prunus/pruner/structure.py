"""The structure of a network in training: its axes, its price, and the units and branches removed so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.analysis import Analysis, analyse
from prunus.analysis.score import make_plan
from prunus.budget import Bound, Limit, fit_units
from prunus.cost.price import CostModel, cost_model
from prunus.errors import BudgetError, CaptureError, OptionError, PlanError
from prunus.foundation.defaults import DEFAULTS
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.plans import Decision, Drop, Plan
from prunus.surgery.proving.reference import masked_tensors
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.tree import Branch


@dataclass(slots=True)
class Structure:
    """A network's analysis, with the units and branches that are removed from it.

    Attributes:
        analysis: the analysis of the present network.
        total: the cost of the network before any cut, in the metric.
        keep: axis id → kept units; whole axes are left out.
        dropped: bypassed or emptied branches.
        masked: weight name → mask (True = keep) of single weights beside them; True where a unit is removed anyway.
    """

    analysis: Analysis
    total: int
    keep: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: tuple[Branch, ...] = ()
    masked: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(analysis: Analysis) -> Structure:
        """Return the structure of a network from which nothing is removed."""
        return Structure(analysis, analysis.spent(analysis.cost.price()))

    @property
    def example_inputs(self) -> Any:
        """One call of the network."""
        return self.analysis.example_inputs

    @property
    def coupling(self) -> Coupling:
        """Its removable axes."""
        return self.analysis.coupling

    @property
    def cost(self) -> CostModel:
        """Its price."""
        return self.analysis.cost

    @property
    def free(self) -> tuple[str, ...]:
        """The axes that may be cut."""
        return tuple(self.analysis.free_axes())

    @property
    def metric(self) -> str:
        """The metric of kept shares."""
        return self.analysis.metric

    @property
    def bounds(self) -> Mapping[str, Bound]:
        """Axis id → limits of its width."""
        return self.analysis.bounds

    @property
    def share(self) -> float:
        """The kept share of the first cost of the network."""
        plan = self.plan()
        # Masked weights count as removed parameters.
        return (self.limit(1.0).of(plan.after) - (plan.masked if self.metric == "params" else 0)) / self.total

    def fit(
        self, scores: Mapping[str, np.ndarray], limit: Limit, allocator: str, *, cost: CostModel | None = None
    ) -> dict[str, np.ndarray]:
        """Return the units to keep within a limit, among those left; axes that dropped branches empty are left out."""
        empty = emptied(self.coupling, self.dropped)
        bounds = {axis: bound for axis, bound in self.bounds.items() if axis in scores}
        found = fit_units(
            cost or self.cost, scores, limit, allocator=allocator, base={**self.keep, **empty} or None, bounds=bounds
        )
        return {axis: units for axis, units in found.items() if axis not in empty}

    def limit(self, kept: float) -> Limit:
        """Return the budget of a kept share of the first cost of the network."""
        return Limit(self.metric, int(kept * self.total))

    def without(self, dropped: Iterable[Branch]) -> Graph | None:
        """Return the program without some branches; None where a needed tensor would be empty."""
        branches = tuple(dropped)
        try:
            return rewrite(self.coupling, emptied(self.coupling, branches), drops(branches))
        except PlanError:
            return None

    def spent(self, graph: Graph, dropped: Iterable[Branch]) -> int:
        """Return the cost of a program without some branches and with the units that are left, in the metric."""
        keep = {**self.keep, **emptied(self.coupling, dropped)}
        return self.limit(1.0).of(cost_model(self.coupling, graph).price(keep))

    def plan(self, decisions: Iterable[Decision] = ()) -> Plan:
        """Return the plan of everything that is removed."""
        masks = {name: mask.cpu().numpy() for name, mask in self.masked.items()}
        keep = {**self.keep, **emptied(self.coupling, self.dropped)}
        return make_plan(self.coupling, keep, drops(self.dropped), masks, tuple(decisions), cost=self.cost)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return parameter name → mask of every parameter that loses a position."""
        plan = self.plan()
        dropped = {name for branch in self.dropped for name in branch.tensors}
        ones = {
            name: torch.full_like(value, name not in dropped, dtype=torch.bool)
            for name, value in unwrap(model).named_parameters()
            if name in self.coupling.tensors
        }
        return {name: mask for name, mask in masked_tensors(ones, self.coupling, plan).items() if not mask.all()}

    def after_cut(self, model: nn.Module, example_inputs: Any, ignore: Iterable[str]) -> Structure:
        """Return the structure of the cut network; budgets are still shares of the uncut one."""
        ties = self.analysis.config_ties
        fresh = structure_of(model, example_inputs, metric=self.metric, ignore=ignore, config_ties=ties)
        fresh.total = self.total
        return fresh


def structure_of(
    model: nn.Module,
    example_inputs: Any,
    *,
    metric: str,
    ignore: Iterable[str] = (),
    config_ties: bool = DEFAULTS.config_ties,
) -> Structure:
    """Capture and analyse a network; arguments as in `prunus.analyse`.

    Raises:
        OptionError: no example inputs.
        ModelError: ``config_ties`` for a network whose config gives no width.
        CaptureError: the network cannot be captured.
        BudgetError: no axis may be cut.
    """
    if example_inputs is None:
        raise OptionError("units and branches need example_inputs, one call of the network; give Pruner some.")
    analysis = analyse(model, example_inputs, ignore=tuple(ignore), config_ties=config_ties)
    if analysis.captured is not None and analysis.parts:
        raise CaptureError(analysis.captured.reason)
    if not analysis.free_axes():
        raise BudgetError(f"no unit of {type(model).__name__} may go; loosen ignore, or prune weights.")
    return Structure.of(replace(analysis, metric=metric))


def emptied(coupling: Coupling, branches: Iterable[Branch]) -> dict[str, np.ndarray]:
    """Return the axes that are empty because their segments of concatenations were dropped."""
    return {axis: np.zeros(coupling.axes[axis].size, bool) for branch in branches for axis in branch.axes}


def drops(branches: Iterable[Branch]) -> tuple[Drop, ...]:
    """Return the bypasses of dropped residual branches, without those inside others."""
    given = tuple(branches)
    return tuple(b.drop for b in given if b.drop is not None and not any(o.holds(b) for o in given))
