"""Layer-wise: each layer gets its own kept fraction from the rise of the loss when it alone is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from prunus.analysis import BATCH, Analysis
from prunus.analysis.score import make_plan
from prunus.budget import ALLOCATORS, Limits, UnitProblem, top_up
from prunus.budget.limits import Limit
from prunus.cost.price import CostModel
from prunus.criteria import CriterionLike, criterion_name
from prunus.data.batches import answer, device_of
from prunus.data.calibration import evaluating, pairs
from prunus.foundation.defaults import DEFAULTS
from prunus.graph.recorder import named_tensors
from prunus.masks import top_masks
from prunus.methods.method import method
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import MAGNITUDE, maskable, masked_plan, weight_scores, weights_to_keep
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


def sensitivity_scan(analysis: Analysis, criterion: CriterionLike = MAGNITUDE) -> Scan:
    """Measure, for each removable axis, the loss on calibration data with its weakest units masked.

    An axis is measured once for an analysis and a criterion; if other axes become removable, only these are measured.
    """
    damage = scan_of(analysis, "units", criterion)
    scores = unit_scores(analysis, criterion)
    missing = [axis for axis in scores if axis not in damage]
    batches = list(analysis.calibration.batches(BATCH)) if missing else []
    base = masked_loss(analysis, {}, batches) if missing else 0.0
    analysis.progress.start("sensitivity scan", len(missing))
    for axis in missing:
        score = scores[axis]
        order = np.argsort(-score, kind="stable")
        losses = []
        for fraction in FRACTIONS:
            keep = np.zeros(len(score), bool)
            keep[order[: max(1, round(fraction * len(score)))]] = True
            losses.append(masked_loss(analysis, {axis: keep}, batches))
        damage[axis] = rise(losses, base)
        analysis.progress.advance("sensitivity scan")
    analysis.progress.finish("sensitivity scan")
    return Scan({axis: damage[axis] for axis in scores})


def scan_of(analysis: Analysis, level: str, criterion: CriterionLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the measurements of an analysis at a level, to be completed; a function has no name to store them by."""
    if callable(criterion):
        return {}
    known: dict[str, tuple[np.ndarray, np.ndarray]] = analysis.remember(
        f"sensitivity scan of {level}:{criterion_name(criterion)}", dict
    )
    return known


def rise(losses: Sequence[float], base: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions and the monotone increases of a layer from its losses at `FRACTIONS`."""
    increases = np.array([*(max(0.0, loss - base) for loss in losses), 0.0])
    return np.array([*FRACTIONS, 1.0]), np.maximum.accumulate(increases[::-1])[::-1]


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
    return loss_with(analysis, changed, batches)


def loss_with(
    analysis: Analysis, changed: Mapping[str, torch.Tensor], batches: Sequence[tuple[Any, torch.Tensor]]
) -> float:
    """Return the mean loss of the network with some of its tensors replaced."""
    total = count = 0.0

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(analysis.model, dict(changed), args, kwargs)

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
    criterion: CriterionLike = MAGNITUDE,
) -> dict[str, np.ndarray]:
    """Choose the units that stay, each axis with its own fraction; then spend the rest of the budget."""
    scan = sensitivity_scan(analysis, criterion)
    scores = unit_scores(analysis, criterion)
    weights = {a: sum(_numel(analysis, m.tensor) for m in analysis.coupling.axis(a).members) for a in scores}
    return analysis.fit(scores, limits, cost=cost, allocator=_ByDamage(scan, weights), base=base)


def _numel(analysis: Analysis, tensor: str) -> int:
    info = analysis.coupling.graph.tensors[tensor]
    return int(np.prod(info.shape)) if info.kind == "parameter" else 0


@method(
    "layer-wise",
    "hierarchical",
    "each layer its own fraction, by the loss when it alone is cut",
    options=("criterion", "levels"),
    joint=True,
)
def layer_wise(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    levels: Sequence[str] = DEFAULTS.levels,
) -> Plan:
    """Give each layer its own fraction by a sensitivity scan and a Lagrangian over the exact price.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (the scan); Shoham and Gersho,
    "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 36, 1988 (the division).

    Args:
        analysis: the network and its data.
        limits: limits that must all hold; one for weights.
        criterion: criterion by which a layer loses its parts, of units or of weights; None is magnitude.
        levels: ``("unit",)`` removes units, ``("weight",)`` masks weights.

    Raises:
        OptionError: an unknown criterion, or one that needs data where there are none.
        BudgetError: the budget is out of reach.
    """
    name = criterion or MAGNITUDE
    settings = {"criterion": criterion_name(name)}
    if tuple(levels) == ("weight",):
        return replace(weights_by_loss(analysis, limits, name), settings=settings)
    keep = layer_wise_keep(analysis, limits, criterion=name)
    decisions = [
        Decision(a, "unit", int((~m).sum()), len(m), "its share by the loss when it alone is cut")
        for a, m in keep.items()
        if not m.all()
    ]
    return make_plan(analysis.coupling, keep, decisions=decisions, settings=settings, cost=analysis.cost)


def weights_by_loss(analysis: Analysis, limits: Limits, criterion: CriterionLike) -> Plan:
    """Mask weights, each layer its own fraction: minimise Σ damage_l(f_l) + λ·n_l(f_l) with exactly n weights in all.

    damage_l is the rise of the loss on calibration data when layer l alone keeps the fraction f of highest score. No
    layer keeps less than half the uniform fraction, for the same reason as with units.

    Raises:
        OptionError: no data.
        BudgetError: the parameters that cannot be masked exceed the budget.
    """
    weights = maskable(analysis)
    number = weights_to_keep(analysis, weights, limits)
    scores = weight_scores(analysis, analysis.user_model, list(weights), criterion)
    scan = _scan_of_weights(analysis, scores, criterion)
    counts = _weight_counts(scan, {name: score.numel() for name, score in scores.items()}, number)
    masks = {name: top_masks({name: score}, keep_count=counts[name])[name] for name, score in scores.items()}
    return masked_plan(analysis, masks, "its share by the loss when it alone is masked")


def _scan_of_weights(analysis: Analysis, scores: Mapping[str, torch.Tensor], criterion: CriterionLike) -> Scan:
    damage, named = scan_of(analysis, "weights", criterion), named_tensors(analysis.model)
    missing = [name for name in scores if name not in damage]
    batches = list(analysis.calibration.batches(BATCH)) if missing else []
    base = loss_with(analysis, {}, batches) if missing else 0.0
    analysis.progress.start("sensitivity scan", len(missing))
    for name in missing:
        value, losses = named[name].detach(), []
        for fraction in FRACTIONS:
            mask = top_masks({name: scores[name]}, keep_count=max(1, round(fraction * value.numel())))[name]
            losses.append(loss_with(analysis, {name: value * mask.to(value.device)}, batches))
        damage[name] = rise(losses, base)
        analysis.progress.advance("sensitivity scan")
    analysis.progress.finish("sensitivity scan")
    return Scan({name: damage[name] for name in scores})


def _weight_counts(scan: Scan, sizes: Mapping[str, int], number: int) -> dict[str, int]:
    """Return the kept weights of every layer, exactly ``number`` in all; λ by bisection."""
    even = number / max(1, sum(sizes.values()))
    curves = {name: scan.at(name, _GRID) for name in sizes}
    least = {name: max(1, int(LEAST_OF_EVEN * even * size)) for name, size in sizes.items()}

    def counts(price: float) -> dict[str, int]:
        best = {name: int(np.argmin(curves[name] + price * size * _GRID)) for name, size in sizes.items()}
        return {n: min(size, max(least[n], round(float(_GRID[best[n]]) * size))) for n, size in sizes.items()}

    low, high = 0.0, 1e-9
    while sum(counts(high).values()) > number and high < 1e6:
        low, high = high, high * 4
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle).values()) > number else (low, middle)
    kept = counts(high)
    # The rest goes to the layers that the loss misses most; if rounding kept too many, those it misses least give.
    for name in sorted(sizes, key=lambda name: -float(curves[name][0])):
        kept[name] += max(0, min(sizes[name] - kept[name], number - sum(kept.values())))
    for name in sorted(sizes, key=lambda name: float(curves[name][0])):
        kept[name] -= max(0, min(kept[name] - 1, sum(kept.values()) - number))
    return kept
