"""Budgets over the input size too: a plan for each size within the same budget, of which the best is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunus.analysis import Analysis
from prunus.analysis.input_size import INPUT_SIZE, at_size, input_size_of
from prunus.analysis.score import make_plan
from prunus.budget import METRICS, parse_budget
from prunus.budget.limits import FS_PER_MS, LATENCY
from prunus.cost.memory import memory_model
from prunus.data.input_size import AUTO, InputSize, Size, size_name
from prunus.errors import BudgetError, DataError, OptionError
from prunus.methods.true_loss import selection_loss
from prunus.pipeline.memory_budget import MEMORY, call_settings, memory_limit
from prunus.pipeline.request import Request
from prunus.pipeline.stage_checks import check_beside_resolution
from prunus.plans import Plan

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""Depth, width and resolution of the compound scaling: α·β²·γ² ≈ 2, so φ = −1 halves the MACs."""
_SMALLEST = 4
"""The smallest side or length that ``auto`` tries is this many steps of its grid."""
_COARSEST = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """One input size with its plan.

    Attributes:
        size: the input size.
        analysis: the network at this size.
        plan: the plan for the rest of the budget; None where there is none.
        reason: the reason why there is none.
        loss: loss on the selection split at this size, before any recovery; None without labels.
    """

    size: Size
    analysis: Analysis | None = None
    plan: Plan | None = None
    reason: str = ""
    loss: float | None = None

    def described(self) -> dict[str, Any]:
        """Return the candidate for a plan's settings."""
        found: dict[str, Any] = {"size": list(self.size)}
        if self.loss is not None and math.isfinite(self.loss):
            found["loss"] = self.loss
        if self.reason:
            found["reason"] = self.reason
        return found


def plan_over_sizes(analysis: Analysis, request: Request, plan_of: Callable[[Analysis, Request], Plan]) -> Plan:
    """Return the best plan over the input sizes of a request; each is priced exactly, by recording at that size.

    The budget is an amount for all sizes: shares refer to the network at its original size. With labelled data the
    plan with the lowest loss on the selection split wins, at its size and before any recovery; without, the size
    nearest to that of the compound scaling: with the kept share s of the MACs, φ = log₂ s, and the side is r = γ^φ of
    the original one, γ = 1.15. Depth and width share the rest as the method divides it.

    Source: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946.

    Args:
        analysis: the network at its original input size.
        request: with ``resolution``.
        plan_of: (analysis, request) → plan, at one size.

    Raises:
        OptionError: as `check_beside_resolution`; a size of the list that the network does not take.
        BudgetError: no size has a plan.
    """
    check_beside_resolution(request)
    before = input_size_of(analysis)
    budget, share = _absolute(analysis, request)
    ideal = tuple(side * GAMMA ** math.log2(share) for side in before.size)
    assert request.resolution is not None
    automatic = request.resolution == AUTO
    sizes = automatic_sizes(before, share) if automatic else sizes_of(request.resolution, before)
    inner = replace(request, budget=budget, resolution=None)
    progress = analysis.progress
    progress.start("input sizes", len(sizes))
    tried = []
    for size in sizes:
        tried.append(_candidate(analysis, size, inner, plan_of, refused=not automatic))
        progress.advance("input sizes")
    progress.finish("input sizes")
    smaller = [candidate for candidate in tried if candidate.size != before.size]
    if smaller and all(candidate.analysis is None for candidate in smaller):
        raise OptionError(smaller[0].reason.replace("leave this size out", "leave resolution out"))
    planned = [candidate for candidate in tried if candidate.plan is not None]
    if not planned:
        reasons = "; ".join(f"{size_name(candidate.size)}: {candidate.reason}" for candidate in tried)
        raise BudgetError(f"No input size has a plan within the budget. {reasons}")
    judged = all(candidate.loss is not None for candidate in planned)
    best = min(planned, key=_rank if judged else lambda candidate: _distance(candidate.size, ideal))
    assert best.plan is not None
    entry = {
        "before": list(before.size),
        "after": list(best.size),
        "chosen_by": "selection loss" if judged else "compound scaling",
        "compound": [round(side, 1) for side in ideal],
        "budget": dict(request.budget),
        "tried": [candidate.described() for candidate in tried],
    }
    settings = {**best.plan.settings, INPUT_SIZE: entry}
    return replace(best.plan, settings=settings, before=analysis.cost.price())


def sizes_of(given: Any, before: InputSize) -> list[Size]:
    """Return the sizes of a list, the largest first: sides or ``"HxW"`` of images, lengths of sequences.

    Raises:
        OptionError: a size of another kind, or one that is not within the original size.
    """
    sizes: list[Size] = []
    for entry in given:
        size = _size(entry, before)
        if size in sizes:
            raise OptionError(f"resolution: {size_name(size)} is given twice; name each size once.")
        sizes.append(size)
    return sorted(sizes, key=math.prod, reverse=True)


def _size(entry: Any, before: InputSize) -> Size:
    parts = [int(part) for part in entry.split("x")] if isinstance(entry, str) else [entry]
    own = before.size
    if before.of_images and len(parts) == 1:
        # One number is the shorter side; the other keeps the proportion.
        size: Size = tuple(max(1, round(side * parts[0] / min(own))) for side in own)
    else:
        size = tuple(parts)
    if len(size) != len(own) or any(side > most for side, most in zip(size, own, strict=False)):
        kinds = "sides or texts such as '160x192'" if before.of_images else "lengths"
        raise OptionError(
            f"resolution: got {entry!r}; the example inputs are of {size_name(own)}; allowed: {kinds} up to that."
        )
    return size


def automatic_sizes(before: InputSize, share: float) -> list[Size]:
    """Return the sizes that ``auto`` tries: the original one, that of the compound scaling, and those around it.

    The factors are γ^(φ·t) for t = 0, ½, 1, 2, 3, rounded to a grid: the largest power of two up to 32 that divides
    the sides and is at most a quarter of the shortest.

    Example:
        >>> automatic_sizes(InputSize((224, 224), (0,), 1), 0.3)
        [(224, 224), (192, 192), (160, 160), (128, 128), (96, 96)]
    """
    step = _COARSEST
    while step > 1 and (any(side % step for side in before.size) or step * _SMALLEST > min(before.size)):
        step //= 2
    factors = [GAMMA ** (math.log2(share) * t) for t in (0, 0.5, 1, 2, 3)]
    sizes = [tuple(max(step, round(side * factor / step) * step) for side in before.size) for factor in factors]
    return list(dict.fromkeys(sizes))


def _absolute(analysis: Analysis, request: Request) -> tuple[dict[str, Any], float]:
    """Return the budget as amounts that hold at every size, and the smallest kept share that a size can help to meet.

    Raises:
        BudgetError: the network meets the budget as it is.
    """
    counted = {metric: value for metric, value in request.budget.items() if metric in METRICS}
    if LATENCY in counted:
        analysis = analysis.timed(request.threads)
    whole = analysis.cost.price()
    budget: dict[str, Any] = {}
    shares = []
    for limit in parse_budget(counted, whole) if counted else ():
        amount = limit.value
        budget[limit.metric] = f"{amount / FS_PER_MS:.12f}ms" if limit.metric == LATENCY else max(1, amount)
        if limit.metric in ("macs", LATENCY):
            shares.append(amount / max(1, limit.of(whole)))
    if MEMORY in request.budget:
        memory = memory_model(analysis.coupling).price()
        budget[MEMORY] = memory_limit(request.budget[MEMORY], memory)
        shares.append(budget[MEMORY] / memory)
    if all(share >= 1 for share in shares):
        raise BudgetError("The model meets the budget as it is, at its original input size. Lower the budget.")
    return budget, min(1.0, *shares)


def _candidate(
    analysis: Analysis,
    size: Size,
    request: Request,
    plan_of: Callable[[Analysis, Request], Plan],
    *,
    refused: bool,
) -> Candidate:
    try:
        sized = at_size(analysis, size)
    except OptionError as error:
        if refused:
            raise
        return Candidate(size, reason=_first_line(error))
    try:
        plan = _met(sized, request) or plan_of(sized, request)
    except BudgetError as error:
        return Candidate(size, sized, reason=_first_line(error))
    return Candidate(size, sized, plan, loss=_loss(sized, plan))


def _met(analysis: Analysis, request: Request) -> Plan | None:
    """Return a plan that removes nothing, where the size alone meets the whole budget."""
    counted = {metric: value for metric, value in request.budget.items() if metric != MEMORY}
    if LATENCY in counted:
        analysis = analysis.timed(request.threads)
    whole = analysis.cost.price()
    within = all(limit.holds(whole) for limit in (parse_budget(counted, whole) if counted else ()))
    memory = request.budget.get(MEMORY)
    if not within or (memory is not None and memory_model(analysis.coupling).price() > memory):
        return None
    settings = {**request.settings(), "ignore": list(analysis.ignore), "seed": analysis.seed}
    settings |= {"forward": analysis.forward, "held": sorted(analysis.held)}
    settings |= call_settings(analysis, request.budget)
    return make_plan(analysis.coupling, {}, settings=settings, cost=analysis.cost)


def _loss(analysis: Analysis, plan: Plan) -> float | None:
    if not analysis.has_data:
        return None
    try:
        return selection_loss(analysis, plan)
    except (OptionError, DataError):  # inputs without labels
        return None


def _rank(candidate: Candidate) -> tuple[bool, float, int]:
    """Order by loss; of equal losses the larger size is better."""
    loss = candidate.loss if candidate.loss is not None else math.nan
    return not math.isfinite(loss), loss if math.isfinite(loss) else 0.0, -math.prod(candidate.size)


def _distance(size: Sequence[int], ideal: Sequence[float]) -> float:
    return abs(math.log(math.prod(size) / math.prod(ideal)))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
