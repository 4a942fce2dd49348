"""The evaluation of the nodes of a tree: shares of the cost, mean values, and the loss at a trial rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prunus.analysis import Analysis
from prunus.criteria import damage_curves
from prunus.methods.hierarchy.choices import TRIAL_RATES, stronger
from prunus.methods.hierarchy.settings import UNITS, WEIGHTS
from prunus.methods.hierarchy.trials import Trials
from prunus.methods.hierarchy.values import GRADIENT, UNIT_CRITERIA, WEIGHT, connection_scores
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import maskable
from prunus.tree import Tree, TreeNode
from prunus.tree.addresses import NETWORK

_LEAST_FACTOR, _MOST_FACTOR = 0.25, 4.0
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class NodeEvaluation:
    """The evaluation of one node.

    Attributes:
        node, level: of the tree.
        params, macs: its share of those of the network.
        weight: mean \\|w\\| of its weights.
        gradient: mean of the units' E_samples[(∂ℓ/∂γ)²], the gradient in a gate on a unit; None without data.
        activation: mean of the units' E[a²]; None without data.
        loss: rise of the loss on the selection split with the weaker half of its units at zero, or 80 % of its weights
            where it has no removable units; None without data and for nodes that lose nothing.
    """

    node: str
    level: str
    params: float
    macs: float
    weight: float | None
    gradient: float | None
    activation: float | None
    loss: float | None

    def plain(self) -> dict[str, Any]:
        """Return the fields that are known, rounded, for the settings of a plan."""
        return {
            key: round(value, _DIGITS) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value is not None
        }


def evaluate(analysis: Analysis, tree: Tree) -> tuple[NodeEvaluation, ...]:
    """Evaluate the network, its stages, blocks and layers; the loss is measured for stages and blocks.

    A layer is tried when its strategy is chosen, so its loss stands with the reason of its decision.
    """
    whole = tree.root.price
    measured = _Measured(analysis, tree)
    rows = []
    for node in tree.below():
        if node.level == "unit":
            continue
        rows.append(
            NodeEvaluation(
                node.id or NETWORK,
                node.level,
                node.price.params / max(1, whole.params),
                node.price.macs_forward / max(1, whole.macs_forward),
                measured.weight(node),
                measured.units(node, "gradient"),
                measured.units(node, "activation"),
                measured.loss(node) if node.level in ("stage", "block") else None,
            )
        )
    return tuple(rows)


class _Measured:
    def __init__(self, analysis: Analysis, tree: Tree) -> None:
        self.analysis, self.tree = analysis, tree
        self.free = set(analysis.free_axes())
        self.weights = maskable(analysis)
        self.trials = Trials(analysis) if analysis.has_data else None
        values = ("gradient", "activation") if self.trials is not None and self.free else ()
        self.scores = {value: unit_scores(analysis, UNIT_CRITERIA[value]) for value in values}
        self.known: dict[frozenset[str], float] = {}

    def weight(self, node: TreeNode) -> float | None:
        names = [name for part in self.tree.below(node.id) for name in part.shapes if name in self.weights]
        total = sum(float(self.weights[name].detach().abs().double().sum()) for name in names)
        return total / sum(self.weights[name].numel() for name in names) if names else None

    def units(self, node: TreeNode, value: str) -> float | None:
        axes = written_axes(self.tree, node) & self.free
        if value not in self.scores or not axes:
            return None
        return float(np.concatenate([self.scores[value][axis] for axis in sorted(axes)]).mean())

    def loss(self, node: TreeNode) -> float | None:
        if self.trials is None:
            return None
        axes = written_axes(self.tree, node) & self.free
        names = {name for part in self.tree.below(node.id) for name in part.shapes if name in self.weights}
        parts = frozenset(axes or names)
        if parts and parts not in self.known:
            if axes:
                scores = self.scores[GRADIENT]
                keep = {axis: stronger(scores[axis], TRIAL_RATES[UNITS]) for axis in axes}
                self.known[parts] = self.trials.units(keep)
            else:
                found = connection_scores(self.analysis, sorted(names), "magnitude")
                masks = {n: stronger(s.double().cpu().numpy(), TRIAL_RATES[WEIGHTS]) for n, s in found.items()}
                self.known[parts] = self.trials.weights(masks)
        return self.known.get(parts)


def written_axes(tree: Tree, node: TreeNode) -> set[str]:
    """Return the axes that the layers of a node write."""
    return {part.axis for part in tree.below(node.id) if part.axis and part.kind != "inputs"}


def damage_factors(analysis: Analysis, tree: Tree, rows: tuple[NodeEvaluation, ...]) -> dict[str, float]:
    """Return axis id → the factor by which the trial of its stage corrects its predicted damage.

    The factor of a stage is √(r / p), at least 1/4 and at most 4: r is its share of the measured rises of all stages,
    p its share of the predicted ones. So the evaluation of the stages divides the budget among them.
    """
    measured = {row.node: row.loss for row in rows if row.level == "stage" and row.loss is not None}
    free = set(analysis.free_axes())
    stages = {node.id: written_axes(tree, node) & free for node in tree.at("stage") if node.id in measured}
    stages = {name: axes for name, axes in stages.items() if axes}
    if len(stages) < 2:
        return {}
    criterion = UNIT_CRITERIA[GRADIENT if analysis.has_data else WEIGHT]
    curves = damage_curves(analysis.coupling, unit_scores(analysis, criterion), criterion)
    predicted = {name: sum(float(curves[a][len(curves[a]) // 2]) for a in axes) for name, axes in stages.items()}
    rises = {name: max(0.0, measured[name] or 0.0) for name in stages}
    all_rises, all_predicted = sum(rises.values()), sum(predicted.values())
    if all_rises <= 0 or all_predicted <= 0:
        return {}
    factors: dict[str, float] = {}
    for name, axes in stages.items():
        ratio = (rises[name] / all_rises) / max(predicted[name] / all_predicted, 1e-12)
        factor = float(np.clip(np.sqrt(ratio), _LEAST_FACTOR, _MOST_FACTOR))
        factors |= {axis: factor for axis in sorted(axes) if axis not in factors}
    return factors


def stage_of(tree: Tree) -> Mapping[str, str]:
    """Return axis id or weight name → the first stage that writes or holds it."""
    found: dict[str, str] = {}
    for node in tree.at("stage"):
        for name in (*sorted(written_axes(tree, node)), *(n for part in tree.below(node.id) for n in part.shapes)):
            found.setdefault(name, node.id)
    return found
