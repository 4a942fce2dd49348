"""What a pruning method gets, and what it is: (subject, kept share) → plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from prunus.budget import Limit
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.measurement.batches import DataSource
from prunus.measurement.price import CostModel, cost_model
from prunus.planning import cross_entropy
from prunus.plans import Plan
from prunus.progress import Progress, Silent
from prunus.registry import Registry

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
    progress: Progress = field(default_factory=Silent)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def limit(self, kept: float) -> Limit:
        """Return the budget of a kept share of the parameters."""
        return Limit("params", int(kept * self.cost.price().params))

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
                   loss or cross_entropy, seed, held, progress or Silent())  # fmt: skip


@dataclass(frozen=True, slots=True)
class Method:
    """One way of pruning.

    Attributes:
        name: as in recipes and reports.
        level: where it works.
        plan: (subject, kept share of the parameters) → plan.
        description: one line.
        only_kept: the kept shares it is defined for; None means all.
        fresh_weights: the cut network starts from new weights and is trained as long as the dense one was.
    """

    name: str
    level: Level
    plan: Callable[[Subject, float], Plan]
    description: str
    only_kept: tuple[float, ...] | None = None
    fresh_weights: bool = False


METHODS: Registry[Method] = Registry("method")


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
