"""Key path: drop branches beside the most important path, which is recomputed from fresh gradients and may move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunus.budget import Limit
from prunus.cost.price import cost_model
from prunus.errors import OptionError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Graph, refs_in
from prunus.graph.layout import atoms_of
from prunus.pruner.options import Moment
from prunus.pruner.strategies.units import unit_scores
from prunus.pruner.strategy import STRATEGIES, Masks, Scene, Strategy, check_range
from prunus.pruner.structure import emptied
from prunus.surgery.removable import removable_branches
from prunus.training.schedules import DECAY
from prunus.tree import Branch
from prunus.tree.branches import breaks_a_size
from prunus.tree.given_path import above_gradient, check_divides, on_path
from prunus.tree.paths import key_path

SLACK = 0.03
"""A branch is too large to drop if the rest would lie more than this share below the schedule."""


@dataclass(frozen=True, slots=True)
class KeyPathSettings:
    """The way to find the path: modules in order, or a threshold of |g|; by default its importance.

    Attributes:
        path: modules or branches on the path; the branches beside it go, those on it stay.
        threshold: a branch with |g| = √E[(∂L/∂γ)²] above it is on the path, and lowers it for the next to 0.9 of it.
            The first change refuses one that leaves no branch on the path, or none beside it.
    """

    path: Sequence[str] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        path, threshold = self.path, self.threshold
        if path is not None and (isinstance(path, str) or not path or not all(isinstance(n, str) for n in path)):
            raise OptionError(f"settings of key-path: path is {path!r}; allowed: a list of modules in order.")
        if threshold is not None:
            check_range("key-path", "threshold", threshold, 0.0, 1e30)
            if threshold == 0:
                raise OptionError("settings of key-path: threshold is 0; allowed: a number above 0.")
        if path is not None and threshold is not None:
            raise OptionError("settings of key-path: got path and threshold; give one of them.")


@STRATEGIES.register("key-path")
class KeyPath(Strategy):
    """Drop branches along the schedule, those beside the key path first, least important per parameter first.

    I(edge) = E_steps[(Σ w·∂L/∂w)²] over the weights of the last layer of the branch that ends in the edge, which is
    (∂L/∂γ)² of a gate γ on this layer's output. Only the gradients of the training itself are read. The
    key path is the path with the largest sum of importances, or the branches with |g| above a threshold that falls with
    each; it is computed before every single drop. Branches on a path that is given stay. If no branch is
    left, or all are too large, units of least norm are removed to meet the final budget.
    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771 (the importance).
    """

    structural = True
    reads = ("metric", "allocator")
    Settings: ClassVar[type[Any]] = KeyPathSettings

    def __init__(self, scene: Scene, settings: Any) -> None:
        super().__init__(scene, settings)
        # A strategy with settings of its own finds the path by importance.
        self._path = settings if isinstance(settings, KeyPathSettings) else KeyPathSettings()
        self._divided = False
        self._prepare()

    def check(self) -> None:
        """Refuse nothing: the smallest reachable size is known only after branches were dropped."""

    def _prepare(self) -> None:
        parts = self.scene.parts
        held = {m.tensor for a in parts.coupling.axes.values() if a.id not in parts.free for m in a.members}
        self._branches = [
            b
            for b in removable_branches(parts.analysis.model, parts.coupling)
            if held.isdisjoint(b.tensors) and not breaks_a_size(parts.coupling, b)
        ]
        self._last = {b.id: tuple(last_weights(parts.coupling.graph, b)) for b in self._branches}
        self._given = on_path(parts.coupling.graph, self._branches, list(self._path.path)) if self._path.path else None
        self._sums = torch.zeros(len(self._branches), dtype=torch.float64)
        self._count = 0
        self.way: tuple[tuple[str, int], ...] = ()

    @torch.no_grad()
    def observe(self, moment: Moment) -> None:
        """Add the squared gradient of every branch's gate."""
        if not moment.updates_left:
            return
        named = dict(self.scene.model.named_parameters())
        slopes = torch.zeros_like(self._sums)
        for i, branch in enumerate(self._branches):
            for name in self._last[branch.id]:
                weight = named[name]
                if weight.grad is not None:
                    slopes[i] += float((weight.detach() * weight.grad).sum())
        if bool(torch.isfinite(slopes).all()):
            self._sums += self.importance(slopes)
            self._count += 1

    def importance(self, slopes: Tensor) -> Tensor:
        """Return the importance of branches from the gradients of their gates in one step."""
        return slopes.square()

    def update(self, moment: Moment) -> Masks | None:
        """Find the path and drop a branch beside it until the schedule is met; at the last change remove units too."""
        self.drop_to(moment, self.means())
        return self.scene.parts.masks(self.scene.model)

    def means(self) -> dict[str, float]:
        """Return branch id → mean importance since the last change, in the order of the program; reset the sums."""
        means = (self._sums / max(1, self._count)).tolist()
        self._sums, self._count = torch.zeros_like(self._sums), 0
        return {branch.id: mean for branch, mean in zip(self._branches, means, strict=True)}

    def drop_to(self, moment: Moment, worth: Mapping[str, float]) -> None:
        """Drop branches beside the key path until the kept share of the moment is met."""
        parts = self.scene.parts
        limit = parts.limit(moment.kept).value
        while (graph := parts.without(parts.dropped)) and parts.spent(graph, parts.dropped) > limit:
            left = self._left(graph, worth)
            following = next(filter(None, (self._fitting(b, limit) for b in left[: None if moment.final else 1])), None)
            if following is None:
                # Before the end a branch that is too large waits until the schedule is low enough.
                if moment.final or not left:
                    self._trim(limit)
                break
            parts.dropped = (*parts.dropped, following)

    def _left(self, graph: Graph, worth: Mapping[str, float]) -> list[Branch]:
        """Return the droppable branches: beside the path before on it, least importance per parameter first."""
        parts, names = self.scene.parts, {node.name for node in graph.nodes}
        dropped = {branch.id for branch in parts.dropped}
        importance = {edge: worth[b.id] for b in self._branches for edge in b.edges if b.id not in dropped}
        importance |= {edge: -math.inf for b in parts.dropped for edge in b.edges}
        self.way = key_path(parts.coupling.graph, importance)
        if self._path.threshold:
            slopes = [(b.id, math.sqrt(worth[b.id])) for b in self._branches if b.id not in dropped]
            above = above_gradient(slopes, self._path.threshold, DECAY)
            if not self._divided and any(slope for _, slope in slopes):
                check_divides(slopes, above, f"settings of key-path: threshold is {self._path.threshold:g}")
                self._divided = True
            self.way = tuple(edge for b in self._branches if b.id in above for edge in b.edges)
        left = [
            b
            for b in self._branches
            if b.id not in dropped
            and b.id not in (self._given or ())
            and all(join in names for join in b.group)
            and parts.without((*parts.dropped, b)) is not None
        ]
        left.sort(key=lambda b: (not set(self.way).isdisjoint(b.edges), worth[b.id] / max(1, b.params), b.id))
        return left

    def _fitting(self, branch: Branch, limit: int) -> Branch | None:
        """Return the branch unless it removes far more than needed: removing units then damages less."""
        parts, dropped = self.scene.parts, (*self.scene.parts.dropped, branch)
        smaller = parts.without(dropped)
        return branch if smaller is not None and parts.spent(smaller, dropped) >= (1 - SLACK) * limit else None

    def _trim(self, limit: int) -> None:
        """Remove the units of least norm in the remaining branches to meet the final budget."""
        parts = self.scene.parts
        graph = parts.without(parts.dropped)
        if graph is None or parts.spent(graph, parts.dropped) <= limit:
            return
        live = live_axes(parts.coupling, graph) - emptied(parts.coupling, parts.dropped).keys()
        scores = {axis: s for axis, s in unit_scores(self.scene, "magnitude").items() if axis in live}
        cost = cost_model(parts.coupling, graph)
        parts.keep = parts.fit(scores, Limit(parts.metric, limit), self.scene.options.allocator, cost=cost)

    def evidence(self) -> list[Tensor]:
        """Return the sums of squared gradients."""
        return [self._sums]

    def state(self) -> dict[str, Any]:
        """Return the sums of squared gradients."""
        return {"sums": self._sums.clone(), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._sums, self._count = state["sums"].clone(), int(state["count"])
        self._divided = True

    def forget(self) -> None:
        """Find the branches of the cut network."""
        self._prepare()


def last_weights(graph: Graph, branch: Branch) -> Iterator[str]:
    """Yield the parameters of the layers in which a branch ends: the first ones backwards from its join."""
    waiting, seen = [branch.value.node], set[str]()
    while waiting:
        node = graph.node(waiting.pop())
        if node.name in seen or node.op in (INPUT, TENSOR):
            continue
        seen.add(node.name)
        sources = [graph.node(ref.node) for ref in refs_in(node.args)]
        own = [s.tensor for s in sources if s.op == TENSOR and graph.tensors[s.tensor].kind == "parameter"]
        yield from own
        if not own:
            waiting += [s.name for s in sources]


def live_axes(coupling: Coupling, graph: Graph) -> set[str]:
    """Return the axes that lie on some parameter of a reduced program."""
    present = {node.tensor for node in graph.nodes if node.op == TENSOR}
    return {
        coupling.axis_of[atom]
        for name in present
        if coupling.graph.tensors[name].kind == "parameter"
        for expr in coupling.tensors[name]
        for atom in atoms_of(expr)
        if atom in coupling.axis_of
    }
