"""A network with some branches gone: what is left, what it costs, and the plan it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from prunus.criteria import UnitEvidence
from prunus.criteria.units import unit_magnitude
from prunus.errors import PlanError
from prunus.graph.ir import TENSOR, Graph
from prunus.graph.layout import atoms_of
from prunus.graph.recorder import named_tensors
from prunus.measurement.price import CostModel, cost_model
from prunus.methods.subject import Subject
from prunus.plans import Decision, Drop, Plan, fingerprint
from prunus.surgery.literals import rewrite
from prunus.tree import Branch, find_branches

SLACK = 0.03
"""A plan may stay this share below its budget before another branch is cut into instead of dropped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reduction:
    """The branches dropped so far, the program without them, and its price as a function of unit counts."""

    subject: Subject
    dropped: tuple[Branch, ...]
    graph: Graph
    cost: CostModel

    @staticmethod
    def of(subject: Subject, branches: Iterable[Branch]) -> Reduction | None:
        """Return the network without some branches; None where something still needed would be empty.

        Branches inside others of the set need no mention of their own.
        """
        given = tuple(branches)
        bare = whole(subject)
        if not given:
            return bare
        dropped = tuple(b for b in given if not any(other.holds(b) for other in given))
        bare = dataclasses.replace(bare, dropped=dropped)
        try:
            graph = rewrite(subject.coupling, bare.keep, bare.drops)
        except PlanError:
            return None
        names = {node.name for node in graph.nodes}
        times = tuple(term for term in subject.cost.times if term.owner in names)
        cost = dataclasses.replace(cost_model(subject.coupling, graph), times=times, fixed_fs=subject.cost.fixed_fs)
        return dataclasses.replace(bare, graph=graph, cost=cost)

    @property
    def keep(self) -> dict[str, np.ndarray]:
        """The emptied axes of the dropped segments, as masks."""
        axes = self.subject.coupling.axes
        return {name: np.zeros(axes[name].size, bool) for branch in self.dropped for name in branch.axes}

    @property
    def drops(self) -> tuple[Drop, ...]:
        """The bypasses of the dropped residual branches."""
        return tuple(branch.drop for branch in self.dropped if branch.drop is not None)

    @property
    def spent(self) -> int:
        """What is left of the subject's metric: parameters, bytes, MACs or femtoseconds."""
        return self.subject.spent(self.cost.price(self.keep))

    def without(self, branch: Branch) -> Reduction | None:
        """Return the network without one more branch; None where something still needed would be empty."""
        return Reduction.of(self.subject, (*self.dropped, branch))

    def left(self, branches: Iterable[Branch]) -> list[Branch]:
        """Return the branches that can still be dropped alone: their joins are there, with another operand."""
        names = {node.name for node in self.graph.nodes}
        gone = {branch.id for branch in self.dropped}
        return [b for b in branches if b.id not in gone and all(join in names for join in b.group)]

    def as_plan(
        self,
        keep: Mapping[str, np.ndarray] | None = None,
        decisions: Sequence[Decision] = (),
        settings: Mapping[str, object] | None = None,
    ) -> Plan:
        """Return the plan that drops these branches and keeps the given units; the price is exact."""
        coupling = self.subject.coupling
        touched = {name: mask for name, mask in {**self.keep, **(keep or {})}.items() if not mask.all()}
        return Plan(
            fingerprint=fingerprint(coupling.graph),
            axes=touched,
            keep=coupling.tensor_masks(touched),
            drops=self.drops,
            decisions=tuple(decisions),
            before=self.subject.cost.price(),
            after=self.cost.price(touched),
            settings=dict(settings or {}),
        )


def droppable(subject: Subject) -> tuple[Branch, ...]:
    """Return the branches of a network, without those that hold a weight all of whose axes may not be cut."""
    coupling = subject.coupling

    def is_held(tensor: str) -> bool:
        axes = {coupling.axis_of[a] for e in coupling.tensors[tensor] for a in atoms_of(e) if a in coupling.axis_of}
        return len(coupling.tensors[tensor]) > 1 and bool(axes) and axes <= subject.held

    branches: tuple[Branch, ...] = subject.remember("branches", lambda: find_branches(coupling))
    return tuple(
        b for b in branches if subject.held.isdisjoint(b.axes) and not any(is_held(name) for name in b.tensors)
    )


def savings(subject: Subject, branches: Iterable[Branch]) -> dict[str, int]:
    """Return branch id → what dropping it alone saves of the subject's metric."""
    if subject.metric == "params":
        return {branch.id: branch.params for branch in branches}
    start = whole(subject)

    def saved(branch: Branch) -> int:
        left = start.without(branch)
        return 0 if left is None else start.spent - left.spent

    known: dict[str, int] = subject.remember(f"savings:{subject.metric}", dict)
    for branch in branches:
        if branch.id not in known:
            known[branch.id] = saved(branch)
    return known


def tensors_of(subject: Subject) -> dict[str, torch.Tensor]:
    """Return the model's parameters and buffers by the names of its graph, detached."""
    named = named_tensors(subject.model)
    return {name: named[name].detach() for name, i in subject.coupling.graph.tensors.items() if i.kind != "constant"}


def whole(subject: Subject) -> Reduction:
    """Return the reduction that drops nothing."""
    return Reduction(subject, (), subject.coupling.graph, subject.cost)


def trimmed(reduction: Reduction, kept: float, reasons: Mapping[str, str], *, method: str) -> Plan:
    """Return the plan of a reduction, with units trimmed where it is still above the budget.

    Every axis gives the same share of its units, those whose weights have the least norm (`unit_magnitude`).

    Args:
        reduction: the branches that go.
        kept: share of the metric that may stay.
        reasons: branch id → why it goes.
        method: noted in the plan's settings.

    Raises:
        BudgetError: even one unit an axis is too much.
    """
    decisions = [Decision(b.id, "structure", b.params, b.params, reasons[b.id]) for b in reduction.dropped]
    keep: dict[str, np.ndarray] = {}
    limit = reduction.subject.limit(kept)
    over = reduction.spent - limit.value
    if over > 0:
        keep = reduction.subject.fit(_norms(reduction), limit, cost=reduction.cost, base=reduction.keep)
        reason = (
            f"lowest filter norm; {limit.metric} {limit.shown(over)} remained above the budget when no branch fitted "
            "any more"
        )
        decisions += [
            Decision(axis, "unit", int((~mask).sum()), len(mask), reason)
            for axis, mask in keep.items()
            if not mask.all() and axis not in reduction.keep
        ]
    return reduction.as_plan(keep, decisions, {"method": method, "kept": kept})


def _norms(reduction: Reduction) -> dict[str, np.ndarray]:
    """Score the units of the axes that still lie on some parameter, by what is left of their weights."""
    coupling = reduction.subject.coupling
    present = {node.tensor for node in reduction.graph.nodes if node.op == TENSOR}
    weights = {
        name: value if name in present else torch.zeros_like(value)
        for name, value in tensors_of(reduction.subject).items()
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
        for axis in reduction.subject.free_axes()
        if axis in live and axis not in reduction.keep
    }
