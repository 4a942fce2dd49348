"""Layer-wise: each axis gets its own kept fraction from the rise of the loss when it alone is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from prunus.analysis import BATCH, Analysis
from prunus.analysis.score import make_plan
from prunus.budget import ALLOCATORS, Limits, UnitProblem, top_up
from prunus.budget.limits import Limit
from prunus.cost.price import CostModel
from prunus.data.batches import answer, device_of
from prunus.data.calibration import evaluating, pairs
from prunus.graph.recorder import named_tensors
from prunus.methods.method import method
from prunus.methods.scored_units import unit_scores
from prunus.plans import Decision, Plan

FRACTIONS = (0.1, 0.3, 0.5, 0.75)
LEAST_OF_EVEN = 0.5
"""Each axis keeps at least this share of its uniform width: damages measured alone stop adding up under large cuts."""
_GRID = np.linspace(0.05, 1.0, 20)


@dataclass(frozen=True, slots=True)
class Scan:
    """Loss increase of each axis when it alone keeps a fraction: axis id → (fractions, increases), both ascending."""

    damage: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def at(self, axis: str, fraction: np.ndarray) -> np.ndarray:
        """Return the monotone increase at any fractions, linearly interpolated."""
        x, y = self.damage[axis]
        return np.asarray(np.interp(fraction, x, y))


def sensitivity_scan(analysis: Analysis) -> Scan:
    """Measure, for each removable axis, the loss on calibration data with its weakest units masked.

    An axis is measured once for an analysis; if other axes become removable, only these are measured.
    """
    damage: dict[str, tuple[np.ndarray, np.ndarray]] = analysis.remember("sensitivity scan", dict)
    scores = unit_scores(analysis, "magnitude")
    missing = [axis for axis in scores if axis not in damage]
    batches = list(analysis.calibration.batches(BATCH)) if missing else []
    base = masked_loss(analysis, {}, batches) if missing else 0.0
    analysis.progress.start("sensitivity scan", len(missing))
    for axis in missing:
        score = scores[axis]
        order = np.argsort(-score, kind="stable")
        increases = []
        for fraction in FRACTIONS:
            keep = np.zeros(len(score), bool)
            keep[order[: max(1, round(fraction * len(score)))]] = True
            increases.append(max(0.0, masked_loss(analysis, {axis: keep}, batches) - base))
        rising = np.maximum.accumulate(np.array([*increases, 0.0])[::-1])[::-1]
        damage[axis] = (np.array([*FRACTIONS, 1.0]), rising)
        analysis.progress.advance("sensitivity scan")
    analysis.progress.finish("sensitivity scan")
    return Scan({axis: damage[axis] for axis in scores})


def masked_loss(
    analysis: Analysis, keep: Mapping[str, np.ndarray], batches: Sequence[tuple[Any, torch.Tensor]]
) -> float:
    """Return the mean loss with the removed units' parameters at zero; shapes do not change."""
    changed: dict[str, torch.Tensor] = {}
    named = named_tensors(analysis.model)
    touched = {m.tensor for a in keep for m in analysis.coupling.axis(a).members if m.tensor in named}
    for name in touched:
        value = named[name].detach()
        for dim, expr in enumerate(analysis.coupling.tensors[name]):
            mask = analysis.coupling.mask(expr, keep)
            if not mask.all():
                shape = [1] * value.dim()
                shape[dim] = len(mask)
                value = value * torch.from_numpy(mask).to(value.device, value.dtype).reshape(shape)
        changed[name] = value
    total = count = 0.0

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(analysis.model, changed, args, kwargs)

    with evaluating(analysis.model), torch.no_grad():
        for inputs, targets in pairs(batches, device_of(analysis.model)):
            total += float(analysis.loss(answer(run, inputs), targets)) * len(targets)
            count += len(targets)
    return total / count


class _ByDamage:
    """The allocator of layer-wise: minimise Σ damage_a(f_a) + λ·params_a(f_a), λ by bisection on the exact price."""

    def __init__(self, scan: Scan, weights: Mapping[str, int]) -> None:
        self.scan, self.weights = scan, weights

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        sizes = {a: len(s) for a, s in problem.scores.items()}
        even = ALLOCATORS.get("uniform")(problem)
        least = {a: max(problem.floor[a], round(LEAST_OF_EVEN * even[a])) for a in sizes}
        curves = {a: self.scan.at(a, _GRID) for a in sizes}

        def counts(price: float) -> dict[str, int]:
            chosen = {}
            for a, size in sizes.items():
                best = int(np.argmin(curves[a] + price * self.weights[a] * _GRID))
                chosen[a] = min(size, max(least[a], round(float(_GRID[best]) * size)))
            return chosen

        low, high = 0.0, 1e-9
        while not problem.fits(counts(high)) and high < 1e6:
            low, high = high, high * 4
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if problem.fits(counts(middle)) else (middle, high)
        widths = counts(high)
        order = sorted(sizes, key=lambda a: -float(curves[a][0]))
        return top_up(problem, widths, order) if problem.fits(widths) else even


def layer_wise_keep(
    analysis: Analysis,
    limits: tuple[Limit, ...],
    base: Mapping[str, np.ndarray] | None = None,
    cost: CostModel | None = None,
) -> dict[str, np.ndarray]:
    """Choose the units that stay, each axis with its own fraction; then spend the rest of the budget."""
    scan = sensitivity_scan(analysis)
    scores = unit_scores(analysis, "magnitude")
    weights = {a: sum(_numel(analysis, m.tensor) for m in analysis.coupling.axis(a).members) for a in scores}
    return analysis.fit(scores, limits, cost=cost, allocator=_ByDamage(scan, weights), base=base)


def _numel(analysis: Analysis, tensor: str) -> int:
    info = analysis.coupling.graph.tensors[tensor]
    return int(np.prod(info.shape)) if info.kind == "parameter" else 0


@method("layer-wise", "hierarchical", "each layer its own fraction, by the loss when it alone is cut", joint=True)
def layer_wise(analysis: Analysis, limits: Limits) -> Plan:
    """Give each layer its own fraction by a sensitivity scan and a Lagrangian over the exact price.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (the scan); Shoham and Gersho,
    "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 36, 1988 (the division).
    """
    keep = layer_wise_keep(analysis, limits)
    decisions = [
        Decision(a, "unit", int((~m).sum()), len(m), "its share by the loss when it alone is cut")
        for a, m in keep.items()
        if not m.all()
    ]
    return make_plan(analysis.coupling, keep, decisions=decisions, cost=analysis.cost)
