"""What a pruning method is: (analysis, limits) → plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.data.batches import DataSource
from prunus.foundation.registry import Registry
from prunus.plans import Plan
from prunus.training.options import TrainingOptions

Level = Literal["weight", "neuron", "structure", "hierarchical", "baseline"]
Planning = Callable[..., Plan]
"""(analysis, limits) → plan; a method with options takes them as keyword arguments."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a method that prunes while it trains may spend: the training with which the others recover."""

    data: DataSource
    options: TrainingOptions
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What such a method hands back: its plan, and the network in its original shapes, as it was trained."""

    plan: Plan
    model: nn.Module


Teach = Callable[[Analysis, Limits, Lesson], Learned]


@dataclass(frozen=True, slots=True)
class Method:
    """One way of pruning: the one role of everything that plans.

    Attributes:
        name: as in recipes and reports.
        level: where it works.
        plan: (analysis, limits) → plan. Limits are of metrics that allocators know; ``limits[0].metric`` is the
            analysis's own. A method that is not ``joint`` is given one limit.
        description: one line.
        options: keyword arguments of ``plan`` beside these two, such as ``criterion`` and ``allocator``.
        joint: it meets several limits at once; others meet them one by one, the planner lowers the first.
        only_kept: the kept shares it is defined for; None means all.
        fresh_weights: the cut network starts from new weights and is trained as long as the dense one was.
        teach: for methods that prune while they train: (analysis, limits, lesson) → plan and trained network. The
            lesson is all their training: what comes out is not recovered any more.
        most_units: networks with more removable units are refused; None means all are taken.
        documents: where its papers are named, ``module:name`` of what has a ``Source:`` line; by default in ``plan``.
    """

    name: str
    level: Level
    plan: Planning
    description: str
    only_kept: tuple[float, ...] | None = None
    fresh_weights: bool = False
    teach: Teach | None = None
    most_units: int | None = None
    documents: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    joint: bool = False


METHODS: Registry[Method] = Registry("method", kind=Method)


def method(name: str, level: Level, description: str, **attributes: Any) -> Callable[[Planning], Planning]:
    """Enrol a planning function as a method; ``attributes`` are those of `Method`."""

    def enrol(plan: Planning) -> Planning:
        METHODS.register(name)(Method(name, level, plan, description, **attributes))
        return plan

    return enrol


__all__ = ["METHODS", "Learned", "Lesson", "Level", "Method", "Planning", "Teach", "method"]
