"""`Analysis`: a model captured, coupled and priced once, with its data; every plan starts from it."""

from __future__ import annotations

import copy
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
from prunus.errors import CaptureError, PlanError
from prunus.exporters import config_terms
from prunus.foundation.arguments import door
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress, Silent
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept_forward import OwnForward
from prunus.graph.partial_capture import Captured
from prunus.measurement.timing import latency_model, widths_in_multiples
from prunus.plans import Cost, Plan, fingerprint
from prunus.surgery.cut import cut
from prunus.surgery.keeping.own_forward import own_forward, with_terms
from prunus.tree import grow_tree

LossFunction = Callable[[Any, torch.Tensor], torch.Tensor]

BATCH = 256


BRIDGED = "analysis with bridges"
COVERAGE_REWRITTEN = "coverage with forwards rewritten"
"""The key of this share in the memo of an analysis."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """A model that was captured, coupled and priced, with data, bounds and a memo of measurements.

    One analysis answers many requests: ``analysis.plan({"params": 0.5})``, ``analysis.plan({"macs": 0.3},
    method="depth")``. `prunus.realise` turns a plan into an `Outcome`. Methods read it and do not change the model.

    Attributes:
        model: the captured network; for a model in parts a copy that shares its tensors and calls the parts.
        example_inputs: one call of ``model``.
        coupling: its removable axes; ``coupling.graph`` is the captured program.
        cost: its exact price as a function of kept counts.
        calibration: data for scores and statistics.
        selection: data for choices between candidates; the test split is never part of an analysis.
        loss: (outputs, targets) → one number, a mean over the batch.
        seed: the seed of all random numbers.
        held: axes that may not be cut.
        metric: the metric of kept shares: params, bytes, macs or latency_ms; the latter needs a timed ``cost``.
        bounds: axis id → limits of its width.
        captured: how the model was captured: whole or in parts.
        source: the user's model and the call with which it was captured.
        given: the data as the user gave them.
        ignore: the patterns behind ``held``.
        opt_in: further kinds of units that may be removed: ``experts``, ``vocabulary``.
        own: the constraints under which no forward is rewritten; None where forwards may be.
        config_ties: whether, besides, a Hugging Face config alone has to describe the cut network.
        full_size: the analysis at the original input size, where this one has smaller inputs.
        unbridged: the analysis of the network without bridges, where this one is of a network with bridges.
        effort: the work, time and memory of what is tried beyond the cut.
        progress: reports every long step.
        memo: measurements by name, shared between methods.

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
    full_size: Analysis | None = field(default=None, compare=False, repr=False)
    unbridged: Analysis | None = field(default=None, compare=False, repr=False)
    effort: Effort = field(default_factory=Effort, compare=False)
    progress: Progress = field(default_factory=Silent, compare=False, repr=False)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @door("Analysis.plan")
    def plan(self, budget: Mapping[str, Any], **options: Any) -> Plan:
        """Return the plan for a budget; measurements of earlier plans are reused.

        Args:
            budget: as in `prunus.prune`.
            **options: ``method``, ``criterion``, ``allocator``, ``levels``, ``bounds``, ``search``, ``judge``,
                ``window``, ``methods``, ``nodes``, ``strategy``, ``divide``, ``optimise``, ``stages``, ``damage``,
                ``recover``, ``threads``, ``merge``, ``reconnect``, ``key_path``, ``resolution``, ``transfer``,
                ``method_options``, as in `prunus.prune`.

        Raises:
            OptionError: an unknown option or name, or a value that is not allowed.
            BudgetError: the budget is out of reach or met already.
        """
        # The planner is in a higher layer, which this one may not import; so it is imported by name.
        planner = import_module("prunus.pipeline.planner")
        made: Plan = planner.plan_for(self, budget, **options)
        return made

    def levels(self, **options: Any) -> Any:
        """Return every node of the tree with its cost, time, sensitivity and redundancy; see `prunus levels`."""
        return import_module("prunus.pipeline.levels").evaluate_levels(self, **options)

    def inspect(self) -> Any:
        """Return what can be removed, what is frozen and why; printing it shows the module tree."""
        return import_module("prunus.report.inspection").inspected(self)

    @property
    def has_data(self) -> bool:
        """Return whether there are calibration data."""
        return not isinstance(self.calibration, NoData)

    @property
    def parts(self) -> tuple[str, ...]:
        """The submodules that were captured, if the whole model could not be."""
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
        """The number of samples of the captured call, to which time and memory refer."""
        first = next(tensors_in(self.user_inputs), None)
        return int(first.shape[0]) if first is not None and first.dim() else 1

    def with_model(self, model: nn.Module) -> Analysis:
        """Return the analysis of the same network with other weights; scores are measured anew, on these."""
        own = model if self.captured is None else self.captured.restored(copy.copy(model), self.user_model)
        return replace(self, model=model, source=(own, self.user_inputs), memo={})

    def cut(self, plan: Plan) -> nn.Module:
        """Return the network cut by a plan, with the call form of the user's model; nothing is verified."""
        ready = self.for_plan(plan)
        if ready is not self:
            return ready.cut(plan)
        try:
            small = cut(self.model, self.coupling, plan, self.example_inputs)
        except CaptureError:
            if self.own is None:
                raise
            small = cut(self.model, self._bare(), plan, self.example_inputs)
        return small if self.captured is None else self.captured.restored(small, self.user_model)

    @property
    def forward(self) -> str:
        """Either ``keep``, where no forward of the user's is rewritten, or ``rewrite``."""
        return "rewrite" if self.own is None else "keep"

    def with_free_head_dims(self) -> Analysis:
        """Return the analysis under which the widths of heads may be cut too, where the user's code allows it."""

        def free() -> OwnForward:
            own = own_forward(self.model, self._bare(), self.example_inputs, head_dims="free")
            return own_with_config(self.user_model, self._bare(), own, self.example_inputs) if self.config_ties else own

        return self.on(self.remember("own forward, free head dims", free))

    def for_plan(self, plan: Plan) -> Analysis:
        """Return the analysis of a plan: this one, that with its bridges, or that with free widths of heads."""
        if plan.bridges and plan.fingerprint != fingerprint(self.coupling.graph):
            # `analyse` makes records of this class, so it is imported by name.
            module = import_module("prunus.analysis.bridging")
            known, made = self.memo.get(BRIDGED, ((), None))
            if known != plan.bridges:
                made = module.bridged_analysis(self.unbridged or self, plan.bridges)
                self.memo[BRIDGED] = plan.bridges, made
            own = fingerprint(made.coupling.graph)
            if plan.fingerprint != own:
                raise PlanError(
                    f"The plan was made for a model with fingerprint {plan.fingerprint}; with its bridges this one has "
                    f"{own}. Bridges cannot be edited; plan again for this model."
                )
            ready: Analysis = made.for_plan(plan)
            return ready
        if self.own is None or plan.axes.keys() <= self.coupling.axes.keys():
            return self
        return self.with_free_head_dims()

    def on(self, own: OwnForward) -> Analysis:
        """Return the same analysis under other constraints of forwards; its memo of scores is empty."""
        coupling = own.on(self._bare())
        held = frozenset(ignored_axes(coupling, self.ignore)) if self.ignore else self.held & coupling.axes.keys()
        bounds = {axis: bound for axis, bound in self.bounds.items() if axis in coupling.axes}
        cost = replace(cost_model(coupling), times=self.cost.times, fixed_fs=self.cost.fixed_fs)
        known = {k: v for k, v in self.memo.items() if k == COVERAGE_REWRITTEN}
        return replace(self, coupling=coupling, cost=cost, held=held, bounds=bounds, own=own, memo=known)

    def coverage_rewritten(self) -> float | None:
        """Return the share of the parameters on removable axes if forwards were rewritten; None where they may be."""
        return None if self.own is None else self.remember(COVERAGE_REWRITTEN, lambda: self._bare().coverage())

    def _bare(self) -> Coupling:
        return couple(self.coupling.graph, **self.coupling.options)

    def bounded(self, bounds: Mapping[str, Any] | None) -> Analysis:
        """Return the same analysis with further limits of parts of the tree, as in `prunus.prune`.

        Raises:
            SelectorError: a pattern matches nothing, or nothing that can be cut.
            OptionError: an unknown limit, or a value outside its range.
        """
        if not bounds:
            return self
        return replace(self, bounds={**self.bounds, **bounds_on(grow_tree(self.coupling), bounds)})

    def limit(self, kept: float) -> Limit:
        """Return the budget of a kept share of the metric."""
        return Limit(self.metric, int(kept * self.spent(self.cost.price())))

    def limits(self, kept: float) -> Limits:
        """Return the limits of a kept share of the metric, in the form that methods take."""
        return (self.limit(kept),)

    def kept(self, limit: Limit) -> float:
        """Return a limit as a share of the whole network's metric."""
        return limit.value / max(1, limit.of(self.cost.price()))

    def spent(self, cost: Cost) -> int:
        """Return the amount of the metric in a cost."""
        return Limit(self.metric, 0).of(cost)

    @property
    def masks_save(self) -> bool:
        """Return whether zero weights lower the metric: they change neither MACs nor time."""
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
        """Choose the units to keep within limits and bounds; arguments as in `fit_units`."""
        dropped = {axis for axis, mask in (base or {}).items() if not mask.any()}
        bounds = {axis: bound for axis, bound in self.bounds.items() if axis in scores and axis not in dropped}
        return fit_units(cost or self.cost, scores, limit, allocator=allocator, base=base, bounds=bounds, damage=damage)

    def free_axes(self) -> list[str]:
        """Return the ids of the axes that may be cut."""
        return [a for a in self.coupling.axes if a not in self.held]

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the measurement of this name, and make it if it is not in the memo."""
        if name not in self.memo:
            self.memo[name] = make()
        return self.memo[name]

    def in_metric(self, metric: str, bounds: Mapping[str, Bound] | None = None, *, threads: int = 1) -> Analysis:
        """Return the same analysis with another metric of kept shares; the memo is shared.

        Args:
            metric: params, bytes, macs or latency_ms; for the latter the ops are timed on this machine, with the
                example inputs, and wide axes keep multiples of the width of the processor's registers.
            bounds: axis id → limits of its width; frozen axes also freeze the branches that they lie in.
            threads: intra-op threads while timing.
        """
        own = {**self.bounds, **(bounds or {})}
        held = self.held | {axis for axis, bound in own.items() if bound.frozen}
        if metric != LATENCY:
            return replace(self, metric=metric, bounds=own, held=held)
        own = {**widths_in_multiples(self.coupling, self.free_axes()), **own}
        return replace(self.timed(threads), metric=metric, bounds=own, held=held)

    def timed(self, threads: int = 1) -> Analysis:
        """Return the same analysis with the ops of the model timed on this machine; they are timed only once."""
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
    """Return the constraints of a model's forwards and of its config together.

    Args:
        model: an uncut ``transformers`` model.
        coupling: its coupling without constraints.
        own: the constraints of its forwards.
        example_inputs: one call.

    Raises:
        ModelError: no entry of its config sizes an axis that may be cut.
    """
    return with_terms(own, coupling, config_terms(model, own.on(coupling), example_inputs))
