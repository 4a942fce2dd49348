"""What a pruning method gets, and what it is: (subject, kept share) → plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prunus.budget import Bound, Limit, fit_units
from prunus.budget.allocator import Allocator
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.measurement.batches import DataSource
from prunus.measurement.price import CostModel, cost_model
from prunus.planning import cross_entropy
from prunus.plans import Cost, Plan
from prunus.progress import Progress, Silent
from prunus.registry import Registry
from prunus.training.options import TrainingOptions

Level = Literal["weight", "neuron", "structure", "hierarchical", "baseline"]
LossFunction = Callable[[Any, torch.Tensor], torch.Tensor]

BATCH = 256


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained model with what methods may look at: never the test split.

    Attributes:
        model: trained; methods leave it as it is.
        example_inputs: one call of it.
        coupling: its analysis; ``coupling.graph`` is the captured program.
        cost: its exact price.
        calibration: scores and statistics come from here.
        selection: choices between candidates are made here.
        loss: (outputs, targets) → one number, averaging over the batch.
        held: axes that may not be cut (``ignore``).
        metric: what a kept share is a share of: params, bytes, macs or latency_ms; the latter needs a timed ``cost``.
        bounds: axis id → what a person said about its width.
        memo: what one method measured and another may use again, by name.
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
    progress: Progress = field(default_factory=Silent)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def limit(self, kept: float) -> Limit:
        """Return the budget of a kept share of the metric."""
        return Limit(self.metric, int(kept * self.spent(self.cost.price())))

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
        """Choose the units that stay within a limit and a person's bounds; arguments as in `fit_units`."""
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


def subject_of(
    model: nn.Module,
    example_inputs: Any,
    calibration: DataSource,
    selection: DataSource,
    *,
    loss: LossFunction | None = None,
    seed: int = 0,
    held: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Subject:
    """Capture and analyse a model; the loss defaults to cross-entropy of its logits."""
    coupling = couple(capture(model, example_inputs))
    return Subject(model, example_inputs, coupling, cost_model(coupling), calibration, selection,
                   loss or cross_entropy, seed, held, progress=progress or Silent())  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a method that prunes while it trains may spend: the training with which the others recover."""

    data: DataSource
    options: TrainingOptions
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What such a method hands back: its plan, and the network in the shapes of the subject's, as it was trained."""

    plan: Plan
    model: nn.Module


Teach = Callable[[Subject, float, Lesson], Learned]


@dataclass(frozen=True, slots=True)
class Method:
    """One way of pruning.

    Attributes:
        name: as in recipes and reports.
        level: where it works.
        plan: (subject, kept share of its metric) → plan.
        description: one line.
        only_kept: the kept shares it is defined for; None means all.
        fresh_weights: the cut network starts from new weights and is trained as long as the dense one was.
        teach: for methods that prune while they train: (subject, kept share, lesson) → plan and trained network. The
            lesson is all their training: what comes out is not recovered any more.
        most_units: networks with more removable units are refused; None means all are taken.
        documents: where its papers are named, ``module:name`` of what has a ``Source:`` line; by default in ``plan``.
    """

    name: str
    level: Level
    plan: Callable[[Subject, float], Plan]
    description: str
    only_kept: tuple[float, ...] | None = None
    fresh_weights: bool = False
    teach: Teach | None = None
    most_units: int | None = None
    documents: tuple[str, ...] = ()


METHODS: Registry[Method] = Registry("method", kind=Method)


def method(
    name: str,
    level: Level,
    description: str,
    *,
    only_kept: tuple[float, ...] | None = None,
    fresh_weights: bool = False,
) -> Callable[[Callable[[Subject, float], Plan]], Callable[[Subject, float], Plan]]:
    """Enrol a planning function as a method."""

    def enrol(plan: Callable[[Subject, float], Plan]) -> Callable[[Subject, float], Plan]:
        METHODS.register(name)(Method(name, level, plan, description, only_kept, fresh_weights))
        return plan

    return enrol
