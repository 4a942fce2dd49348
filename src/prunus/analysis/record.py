"""`Analysis`: a model captured, coupled and priced once, with its data; every plan starts from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.analysis.selectors import bounds_on, ignored_axes
from prunus.budget import Bound, Limit, Limits, fit_units
from prunus.budget.allocator import Allocator
from prunus.budget.limits import LATENCY
from prunus.cost.price import CostModel, cost_model
from prunus.data.batches import DataSource, tensors_in
from prunus.data.given import Given, NoData
from prunus.errors import CaptureError
from prunus.exporters import config_terms
from prunus.foundation.arguments import door
from prunus.foundation.progress import Progress, Silent
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept_forward import OwnForward
from prunus.graph.partial_capture import Captured
from prunus.measurement.timing import latency_model, widths_in_multiples
from prunus.plans import Cost, Plan
from prunus.surgery.cut import cut
from prunus.surgery.own_forward import own_forward, with_terms
from prunus.tree import grow_tree

LossFunction = Callable[[Any, torch.Tensor], torch.Tensor]

BATCH = 256


COVERAGE_REWRITTEN = "coverage with forwards rewritten"
"""Name under which an analysis remembers it."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """A model that was captured, coupled and priced, with data, bounds and a memo of what was measured.

    One analysis answers many requests: ``analysis.plan({"params": 0.5})``, ``analysis.plan({"macs": 0.3},
    method="depth")``. `prunus.realise` turns a plan into an `Outcome`. Methods read it and leave the model as it is.

    Attributes:
        model: the network that was captured; of a model in parts a twin that shares its tensors and calls the parts.
        example_inputs: one call of ``model``.
        coupling: its removable axes; ``coupling.graph`` is the captured program.
        cost: its exact price as a function of kept counts.
        calibration: scores and statistics come from here.
        selection: choices between candidates are made here; the test split is never part of an analysis.
        loss: (outputs, targets) → one number, averaging over the batch.
        seed: of everything that draws numbers.
        held: axes that may not be cut.
        metric: what a kept share is a share of: params, bytes, macs or latency_ms; the latter needs a timed ``cost``.
        bounds: axis id → limits of its width.
        captured: how the model was captured: whole or in parts.
        source: the user's model and the call with which it was captured.
        given: the data as the user gave them.
        ignore: the patterns behind ``held``.
        opt_in: what else may go: ``experts``, ``vocabulary``.
        own: what a cut has to respect so that no forward is rewritten; None where forwards may be.
        config_ties: whether it has to respect besides that a Hugging Face config alone says what is left.
        progress: told of every long step.
        memo: what one method measured and another may use again, by name.

    Example:
        >>> import prunus
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> analysis = prunus.analyse(net, torch.randn(2, 8))
        >>> [analysis.plan({"params": share}).after.params for share in (0.75, 0.5, 0.25)]
        [316, 212, 108]
    """

    model: nn.Module
    example_inputs: Any
    coupling: Coupling
    cost: CostModel
    calibration: DataSource
    selection: DataSource
    loss: LossFunction
    seed: int = 0
    held: frozenset[str] = frozenset()
    metric: str = "params"
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    captured: Captured | None = None
    source: tuple[nn.Module, Any] | None = None
    given: Given | None = None
    ignore: tuple[str, ...] = ()
    opt_in: tuple[str, ...] = ()
    own: OwnForward | None = None
    config_ties: bool = False
    progress: Progress = field(default_factory=Silent, compare=False, repr=False)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @door("Analysis.plan")
    def plan(self, budget: Mapping[str, float | int | str], **options: Any) -> Plan:
        """Return the plan for a budget; what was measured for an earlier plan is not measured again.

        Args:
            budget: as in `prunus.prune`.
            **options: ``method``, ``criterion``, ``allocator``, ``levels``, ``bounds``, ``search``, ``judge``,
                ``stages``, ``damage``, ``recover``, ``threads``, as in `prunus.prune`.

        Raises:
            OptionError: an unknown option or name, or a value that is not allowed.
            BudgetError: the budget is out of reach or met already.
        """
        # The planner stands above the methods, and these above this record: the one call upwards, made by name.
        planner = import_module("prunus.pipeline.planner")
        made: Plan = planner.plan_for(self, budget, **options)
        return made

    def levels(self, **options: Any) -> Any:
        """Return every node of the tree with its cost, time, sensitivity and redundancy; see `prunus levels`."""
        return import_module("prunus.pipeline.levels").evaluate_levels(self, **options)

    def inspect(self) -> Any:
        """Return what can go, what is frozen and why; printing it shows the module tree."""
        return import_module("prunus.report.inspection").inspected(self)

    @property
    def has_data(self) -> bool:
        """Whether there are calibration data."""
        return not isinstance(self.calibration, NoData)

    @property
    def parts(self) -> tuple[str, ...]:
        """The submodules that were captured, where the whole could not be."""
        return self.captured.parts if self.captured is not None else ()

    @property
    def user_model(self) -> nn.Module:
        """The model as the user gave it."""
        return self.source[0] if self.source is not None else self.model

    @property
    def user_inputs(self) -> Any:
        """One call of the user's model."""
        return self.source[1] if self.source is not None else self.example_inputs

    @property
    def samples(self) -> int:
        """How many samples the captured program, and so its MACs, are for."""
        first = next(tensors_in(self.user_inputs), None)
        return int(first.shape[0]) if first is not None and first.dim() else 1

    def cut(self, plan: Plan) -> nn.Module:
        """Return the network cut by a plan, called as the user's is; nothing is proved."""
        try:
            small = cut(self.model, self.coupling, plan, self.example_inputs)
        except CaptureError:
            if self.own is None:
                raise
            small = cut(self.model, self._bare(), plan, self.example_inputs)
        return small if self.captured is None else self.captured.restored(small, self.user_model)

    @property
    def forward(self) -> str:
        """``keep`` where no forward of the user's is rewritten, else ``rewrite``."""
        return "rewrite" if self.own is None else "keep"

    def with_free_head_dims(self) -> Analysis:
        """Return the same analysis under which the widths of heads may go too, where the user's code allows it."""

        def free() -> OwnForward:
            own = own_forward(self.model, self._bare(), self.example_inputs, head_dims="free")
            return own_with_config(self.user_model, self._bare(), own, self.example_inputs) if self.config_ties else own

        return self.on(self.remember("own forward, free head dims", free))

    def for_plan(self, plan: Plan) -> Analysis:
        """Return the analysis whose axes a plan cuts: this one, or the one under which the widths of heads may go."""
        if self.own is None or plan.axes.keys() <= self.coupling.axes.keys():
            return self
        return self.with_free_head_dims()

    def on(self, own: OwnForward) -> Analysis:
        """Return the same analysis on other terms; scores that were measured are measured anew."""
        coupling = own.on(self._bare())
        held = frozenset(ignored_axes(coupling, self.ignore)) if self.ignore else self.held & coupling.axes.keys()
        bounds = {axis: bound for axis, bound in self.bounds.items() if axis in coupling.axes}
        cost = replace(cost_model(coupling), times=self.cost.times, fixed_fs=self.cost.fixed_fs)
        known = {k: v for k, v in self.memo.items() if k == COVERAGE_REWRITTEN}
        return replace(self, coupling=coupling, cost=cost, held=held, bounds=bounds, own=own, memo=known)

    def coverage_rewritten(self) -> float | None:
        """Return the share of the parameters that could go if forwards were rewritten; None where they may be."""
        return None if self.own is None else self.remember(COVERAGE_REWRITTEN, lambda: self._bare().coverage())

    def _bare(self) -> Coupling:
        return couple(self.coupling.graph, **self.coupling.options)

    def bounded(self, bounds: Mapping[str, Any] | None) -> Analysis:
        """Return the same analysis under limits of parts of the tree, as in `prunus.prune`, beside those that it has.

        Raises:
            SelectorError: a pattern matches nothing, or only what cannot go.
            OptionError: an unknown limit, or a value outside its range.
        """
        if not bounds:
            return self
        return replace(self, bounds={**self.bounds, **bounds_on(grow_tree(self.coupling), bounds)})

    def limit(self, kept: float) -> Limit:
        """Return the budget of a kept share of the metric."""
        return Limit(self.metric, int(kept * self.spent(self.cost.price())))

    def limits(self, kept: float) -> Limits:
        """Return the limits of a kept share of the metric, as methods take them."""
        return (self.limit(kept),)

    def kept(self, limit: Limit) -> float:
        """Return the kept share that a limit leaves of its metric."""
        return limit.value / max(1, limit.of(self.cost.price()))

    def spent(self, cost: Cost) -> int:
        """Return what a cost spends of the metric."""
        return Limit(self.metric, 0).of(cost)

    @property
    def masks_save(self) -> bool:
        """Whether weights at zero save anything of the metric: they do not change MACs or time."""
        return self.metric in ("params", "bytes")

    def fit(
        self,
        scores: Mapping[str, np.ndarray],
        limit: Limit | Sequence[Limit],
        *,
        cost: CostModel | None = None,
        base: Mapping[str, np.ndarray] | None = None,
        allocator: str | Allocator = "uniform",
        damage: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Choose the units that stay within limits and the bounds; arguments as in `fit_units`."""
        gone = {axis for axis, mask in (base or {}).items() if not mask.any()}
        bounds = {axis: bound for axis, bound in self.bounds.items() if axis in scores and axis not in gone}
        return fit_units(cost or self.cost, scores, limit, allocator=allocator, base=base, bounds=bounds, damage=damage)

    def free_axes(self) -> list[str]:
        """Return the ids of the axes that may be cut."""
        return [a for a in self.coupling.axes if a not in self.held]

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what was measured under this name before, or measure it now."""
        if name not in self.memo:
            self.memo[name] = make()
        return self.memo[name]

    def in_metric(self, metric: str, bounds: Mapping[str, Bound] | None = None, *, threads: int = 1) -> Analysis:
        """Return the same analysis whose kept shares are shares of another metric; the memo is shared.

        Args:
            metric: params, bytes, macs or latency_ms; for the latter the ops are timed on this machine, with the
                example inputs, and wide axes keep multiples of what the processor's registers hold.
            bounds: axis id → limits of its width; frozen axes also hold the branches that they lie in.
            threads: intra-op threads while timing.
        """
        own = {**self.bounds, **(bounds or {})}
        held = self.held | {axis for axis, bound in own.items() if bound.frozen}
        if metric != LATENCY:
            return replace(self, metric=metric, bounds=own, held=held)
        own = {**widths_in_multiples(self.coupling, self.free_axes()), **own}
        return replace(self.timed(threads), metric=metric, bounds=own, held=held)

    def timed(self, threads: int = 1) -> Analysis:
        """Return the same analysis with the ops of the model timed on this machine; they are timed once."""
        if self.cost.times:
            return self

        def measure() -> CostModel:
            found = latency_model(
                self.model,
                self.coupling,
                self.example_inputs,
                threads=threads,
                seed=self.seed,
                progress=self.progress,
            )
            return found.priced(self.cost)

        return replace(self, cost=self.remember(f"times on {threads} threads", measure))


def own_with_config(model: nn.Module, coupling: Coupling, own: OwnForward, example_inputs: Any) -> OwnForward:
    """Return the terms of a model's forwards and of its config together.

    Args:
        model: an uncut ``transformers`` model.
        coupling: its analysis without terms.
        own: the terms of its forwards.
        example_inputs: one call.

    Raises:
        ModelError: its config says nothing of what may be cut.
    """
    return with_terms(own, coupling, config_terms(model, own.on(coupling), example_inputs))


__all__ = ["BATCH", "Analysis", "LossFunction", "own_with_config"]
