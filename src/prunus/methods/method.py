"""The role of a pruning method: (analysis, limits) → plan, with the registry of its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.data.batches import DataSource
from prunus.foundation.registry import Registry
from prunus.masks import Window
from prunus.masks.window_option import WindowKind
from prunus.plans import Plan
from prunus.recovery import RecoveryOptions
from prunus.training.options import TrainingOptions

Level = Literal["weight", "neuron", "structure", "hierarchical", "baseline"]
Counted = Literal["", "units", "modules", "windows", "weights"]
Criteria = Literal["units", "weights", "modules"]
Planning = Callable[..., Plan]
"""(analysis, limits) → plan; a method with options takes them as keyword arguments."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """The training of a method that prunes while it trains: the same with which the other methods recover.

    Attributes:
        data, options, seed: what is learned from, and how.
        settings: the options of the method itself, such as ``{"threshold": 0.01}``.
        recover: how the other methods recover; with its method ``distil`` the dense network teaches here too.
        minutes: the time of the training in place of ``options.steps``.
    """

    data: DataSource
    options: TrainingOptions
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    recover: RecoveryOptions | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """The result of such a method: its plan, and the trained network in its original shapes."""

    plan: Plan
    model: nn.Module


Teach = Callable[[Analysis, Limits, Lesson], Learned]


@dataclass(frozen=True, slots=True)
class Method:
    """A pruning method.

    Attributes:
        name: name in recipes and reports.
        level: level of the tree on which it works.
        plan: (analysis, limits) → plan. Limits are of metrics that allocators know; ``limits[0].metric`` is that of
            the analysis. A method that is not ``joint`` is given one limit.
        description: one line.
        counts: the parts that a budget such as ``{"units": 0.2}`` or ``{"threshold": 0.1}`` counts or compares for this
            method; empty if it meets prices alone.
        scored_by: the criterion of these parts, by default where it is an option.
        window: the window, where it counts windows.
        criteria: the kind of parts that its option ``criterion`` scores.
        options: keyword arguments of ``plan`` beside these two, such as ``criterion`` and ``allocator``.
        merges: inputs that stay take over the share of those that go, unless the request says otherwise.
        switches: keyword arguments of ``plan`` that may be left out and that a budget of counts knows too.
        joint: it meets several limits at once; for other methods the planner lowers the first limit until all hold.
        only_kept: the kept shares for which it is defined; None means all.
        fresh_weights: the cut network starts from new weights and is trained as long as the dense one was.
        teach: for methods that prune while they train: (analysis, limits, lesson) → plan and trained network. The
            lesson is all their training: their result is not recovered afterwards.
        most_units: networks with more removable units are refused; None means no limit.
        documents: ``module:name`` of the objects whose ``Source:`` lines name its papers; by default that of ``plan``.
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
    counts: Counted = ""
    scored_by: str = ""
    window: Window | WindowKind | None = None
    criteria: Criteria = "units"
    options: tuple[str, ...] = ()
    joint: bool = False
    merges: bool = False
    switches: tuple[str, ...] = ()


METHODS: Registry[Method] = Registry("method", kind=Method)


def method(name: str, level: Level, description: str, **attributes: Any) -> Callable[[Planning], Planning]:
    """Enrol a planning function as a method; ``attributes`` are those of `Method`."""

    def enrol(plan: Planning) -> Planning:
        METHODS.register(name)(Method(name, level, plan, description, **attributes))
        return plan

    return enrol
