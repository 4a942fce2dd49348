"""Oracle: remove units one at a time by the true loss; every remaining unit is tried again after each removal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan, unit_decisions
from prunus.budget import Limits
from prunus.budget.problem import unit_problem
from prunus.errors import BudgetError, OptionError
from prunus.methods.masked_run import Replay
from prunus.methods.method import METHODS, Method
from prunus.plans import Plan, fingerprint

MOST_UNITS = 256
"""Most units: n units take n² runs of the selection split, minutes at this number."""


def oracle(analysis: Analysis, limits: Limits) -> Plan:
    """Remove the unit with the least rise of the loss per amount saved, until the budget holds.

    Each round runs the network without each remaining unit, on the selection split, and removes
    argmin_u (L(without u) − L) / saved(u); units without which the loss falls are removed first, the largest fall
    first. It measures the loss that other methods estimate by scores or sums. It is still greedy, and for small
    networks: a reference for tests, not a method for use.

    Source: own; an oracle as the reference of criteria: Molchanov et al., "Pruning Convolutional Neural Networks for
    Resource Efficient Inference", arXiv:1611.06440.

    Args:
        analysis: the network, of at most `MOST_UNITS` units.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: more units than that, or the budget is out of reach even with one unit an axis.
        OptionError: a bound that removal of single units cannot hold.
    """
    free = analysis.free_axes()
    units = sum(analysis.coupling.axes[axis].size for axis in free)
    if units > MOST_UNITS:
        raise BudgetError(
            f"method 'oracle' accepts at most {MOST_UNITS} units; this network has {units:,}. Use sensitivity or a "
            "criterion such as fisher, or exclude axes with ignore."
        )
    for axis, bound in analysis.bounds.items():
        if bound.round_to > 1 or bound.forced is not None or bound.ceiling is not None:
            raise OptionError(
                f"axis {axis!r} has a multiple, a ceiling or a forced width; method 'oracle' removes one unit at a "
                "time. Give it a floor, or take another method."
            )
    keep, losses = removed(analysis, limits)
    decisions = unit_decisions(keep, "true loss")
    settings = {"method": "oracle", "losses": losses}
    return make_plan(analysis.coupling, keep, decisions=decisions, settings=settings, cost=analysis.cost)


def removed(analysis: Analysis, limits: Limits) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return the units that stay, and the loss at the start and after each removal.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    axes = analysis.coupling.axes
    keep = {axis: np.ones(axes[axis].size, bool) for axis in analysis.free_axes()}
    bounds = {axis: bound for axis, bound in analysis.bounds.items() if axis in keep}
    alike = {axis: np.ones(len(mask)) for axis, mask in keep.items()}
    problem = unit_problem(analysis.cost, alike, limits[0], bounds=bounds)
    replay, least = Replay(analysis), problem.least
    losses = [_loss(analysis, replay, keep)]
    task = "oracle"
    analysis.progress.start(task, sum(len(mask) for mask in keep.values()))
    while not problem.fits({a: int(m.sum()) for a, m in keep.items()}):
        spent = analysis.spent(analysis.cost.price(keep))
        tried: list[tuple[float, str, int, float]] = []
        for axis, mask in keep.items():
            if int(mask.sum()) <= least[axis]:
                continue
            saved = 0
            for unit in np.flatnonzero(mask):
                smaller = {**keep, axis: mask & (np.arange(len(mask)) != unit)}
                # All units of an axis have the same price.
                saved = saved or max(1, spent - analysis.spent(analysis.cost.price(smaller)))
                loss = _loss(analysis, replay, smaller)
                rise = loss - losses[-1]
                tried.append((rise / saved if rise > 0 else rise * saved, axis, int(unit), loss))
        _, axis, cheapest, loss = min(tried)
        keep[axis][cheapest] = False
        losses.append(loss)
        analysis.progress.advance(task)
    analysis.progress.finish(task)
    return keep, losses


def _loss(analysis: Analysis, replay: Replay, keep: Mapping[str, np.ndarray]) -> float:
    touched = {axis: mask for axis, mask in keep.items() if not mask.all()}
    coupling = analysis.coupling
    return replay.loss(analysis.selection, Plan(fingerprint(coupling.graph), touched, coupling.tensor_masks(touched)))


METHODS.register("oracle")(
    Method(
        "oracle",
        "neuron",
        oracle,
        "remove units one at a time by the true loss, all tried anew each time; small networks only",
        most_units=MOST_UNITS,
    )
)
