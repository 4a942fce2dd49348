"""A network without some branches: its program, its price, and the plan made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.cost.price import CostModel, cost_model
from prunus.criteria import UnitEvidence
from prunus.criteria.units import unit_magnitude
from prunus.errors import PlanError
from prunus.graph.ir import TENSOR, Graph
from prunus.graph.layout import atoms_of
from prunus.graph.recorder import named_tensors
from prunus.plans import Decision, Drop, Plan, fingerprint
from prunus.surgery.removable import removable_branches
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.tree import Branch
from prunus.tree.branches import breaks_a_size

SLACK = 0.03
"""A branch is dropped if the plan then stays at most this share below its budget; else units are trimmed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reduction:
    """The branches dropped so far, the program without them, and its price as a function of unit counts."""

    analysis: Analysis
    dropped: tuple[Branch, ...]
    graph: Graph
    cost: CostModel

    @staticmethod
    def of(analysis: Analysis, branches: Iterable[Branch]) -> Reduction | None:
        """Return the network without some branches; None where a needed value would be empty.

        Branches inside others of the set may be left out.
        """
        given = tuple(branches)
        bare = whole(analysis)
        if not given:
            return bare
        dropped = tuple(b for b in given if not any(other.holds(b) for other in given))
        bare = dataclasses.replace(bare, dropped=dropped)
        try:
            graph = rewrite(analysis.coupling, bare.keep, bare.drops)
        except PlanError:
            return None
        names = {node.name for node in graph.nodes}
        times = tuple(term for term in analysis.cost.times if term.owner in names)
        cost = dataclasses.replace(cost_model(analysis.coupling, graph), times=times, fixed_fs=analysis.cost.fixed_fs)
        return dataclasses.replace(bare, graph=graph, cost=cost)

    @property
    def keep(self) -> dict[str, np.ndarray]:
        """The emptied axes of the dropped segments, as masks."""
        axes = self.analysis.coupling.axes
        return {name: np.zeros(axes[name].size, bool) for branch in self.dropped for name in branch.axes}

    @property
    def drops(self) -> tuple[Drop, ...]:
        """The bypasses of the dropped residual branches."""
        return tuple(branch.drop for branch in self.dropped if branch.drop is not None)

    @property
    def spent(self) -> int:
        """The remaining amount of the analysis's metric: parameters, bytes, MACs or femtoseconds."""
        return self.analysis.spent(self.cost.price(self.keep))

    def spent_with(self, keep: Mapping[str, np.ndarray]) -> int:
        """Return the remaining amount of the metric where only some units of other axes stay."""
        return self.analysis.spent(self.cost.price({**keep, **self.keep}))

    def without(self, branch: Branch) -> Reduction | None:
        """Return the network without one more branch; None where a needed value would be empty."""
        return Reduction.of(self.analysis, (*self.dropped, branch))

    def left(self, branches: Iterable[Branch]) -> list[Branch]:
        """Return the branches that can still be dropped alone: their joins remain, with another operand."""
        names = {node.name for node in self.graph.nodes}
        dropped = {branch.id for branch in self.dropped}
        return [b for b in branches if b.id not in dropped and all(join in names for join in b.group)]

    def as_plan(
        self,
        keep: Mapping[str, np.ndarray] | None = None,
        decisions: Sequence[Decision] = (),
        settings: Mapping[str, object] | None = None,
    ) -> Plan:
        """Return the plan that drops these branches and keeps the given units; the price is exact."""
        coupling = self.analysis.coupling
        touched = {name: mask for name, mask in {**self.keep, **(keep or {})}.items() if not mask.all()}
        return Plan(
            fingerprint=fingerprint(coupling.graph),
            axes=touched,
            keep=coupling.tensor_masks(touched),
            drops=self.drops,
            decisions=tuple(decisions),
            before=self.analysis.cost.price(),
            after=self.cost.price(touched),
            settings=dict(settings or {}),
        )


def droppable(analysis: Analysis) -> tuple[Branch, ...]:
    """Return the branches of a network, without those with a weight on held axes only.

    A branch whose width another size of a kept forward is made of stays too, and one in whose place no module of a kept
    forward can return zeros.
    Where a config has to say what is left there are none: its entries count widths.
    """
    if analysis.config_ties:
        return ()
    coupling = analysis.coupling

    def is_held(tensor: str) -> bool:
        axes = {coupling.axis_of[a] for e in coupling.tensors[tensor] for a in atoms_of(e) if a in coupling.axis_of}
        return len(coupling.tensors[tensor]) > 1 and bool(axes) and axes <= analysis.held

    branches: tuple[Branch, ...] = analysis.remember("branches", lambda: removable_branches(analysis.model, coupling))
    return tuple(
        b
        for b in branches
        if analysis.held.isdisjoint(b.axes)
        and not any(is_held(name) for name in b.tensors)
        and not breaks_a_size(coupling, b)
    )


def savings(analysis: Analysis, branches: Iterable[Branch]) -> dict[str, int]:
    """Return branch id → amount of the analysis's metric that dropping it alone saves."""
    if analysis.metric == "params":
        return {branch.id: branch.params for branch in branches}
    start = whole(analysis)

    def saved(branch: Branch) -> int:
        left = start.without(branch)
        return 0 if left is None else start.spent - left.spent

    known: dict[str, int] = analysis.remember(f"savings:{analysis.metric}", dict)
    for branch in branches:
        if branch.id not in known:
            known[branch.id] = saved(branch)
    return known


def tensors_of(analysis: Analysis) -> dict[str, torch.Tensor]:
    """Return the model's parameters and buffers by the names of its graph, detached."""
    named = named_tensors(analysis.model)
    return {name: named[name].detach() for name, i in analysis.coupling.graph.tensors.items() if i.kind != "constant"}


def whole(analysis: Analysis) -> Reduction:
    """Return the reduction that drops nothing."""
    return Reduction(analysis, (), analysis.coupling.graph, analysis.cost)


def trimmed(reduction: Reduction, limit: Limit, reasons: Mapping[str, str], *, method: str) -> Plan:
    """Return the plan of a reduction, with units trimmed if it is still above the budget.

    Every axis loses the same share of its units, those whose weights have the least norm (`unit_magnitude`).

    Args:
        reduction: the network without the dropped branches.
        limit: limit of the metric.
        reasons: branch id → why it is dropped.
        method: name for the plan's settings.

    Raises:
        BudgetError: even one unit an axis exceeds the limit.
    """
    decisions = [Decision(b.id, "structure", b.params, b.params, reasons[b.id]) for b in reduction.dropped]
    keep: dict[str, np.ndarray] = {}
    over = reduction.spent - limit.value
    if over > 0:
        keep = reduction.analysis.fit(_norms(reduction), limit, cost=reduction.cost, base=reduction.keep)
        reason = (
            f"lowest filter norm; {limit.metric} {limit.shown(over)} remained above the budget when no branch fitted "
            "any more"
        )
        decisions += [
            Decision(axis, "unit", int((~mask).sum()), len(mask), reason)
            for axis, mask in keep.items()
            if not mask.all() and axis not in reduction.keep
        ]
    return reduction.as_plan(keep, decisions, {"method": method})


def _norms(reduction: Reduction) -> dict[str, np.ndarray]:
    """Score the units of the axes that are still on some parameter, by their remaining weights."""
    coupling = reduction.analysis.coupling
    present = {node.tensor for node in reduction.graph.nodes if node.op == TENSOR}
    weights = {
        name: value if name in present else torch.zeros_like(value)
        for name, value in tensors_of(reduction.analysis).items()
        if coupling.graph.tensors[name].kind == "parameter"
    }
    live = {
        coupling.axis_of[atom]
        for name in present & weights.keys()
        for expr in coupling.tensors[name]
        for atom in atoms_of(expr)
        if atom in coupling.axis_of
    }
    scores = unit_magnitude(UnitEvidence(coupling, weights))
    return {
        axis: scores[axis].numpy()
        for axis in reduction.analysis.free_axes()
        if axis in live and axis not in reduction.keep
    }
