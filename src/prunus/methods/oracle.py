"""Oracle: remove units one at a time by the true loss; every remaining unit is tried again after each removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan, unit_decisions
from prunus.budget import Limits
from prunus.budget.problem import unit_problem
from prunus.errors import BudgetError, OptionError
from prunus.methods.masked_run import Replay
from prunus.methods.method import METHODS, Method
from prunus.plans import Plan, fingerprint

Keep = dict[str, np.ndarray]
MOST_UNITS = 256
"""Most units: n units take n² runs of the selection split, minutes at this number."""


def oracle(analysis: Analysis, limits: Limits) -> Plan:
    """Remove the unit with the least rise of the loss per amount saved, until the budget holds.

    Each round runs the network without each unit that is left, on the selection split, and removes
    argmin_u (L(without u) − L) / saved(u); a unit without which the loss falls goes at once, the largest fall first.
    Units that the forward keeps together are tried as one step: of each axis those that are cheapest alone.
    No score stands between the unit and the loss, and nothing is added up: what other methods estimate is measured.
    It is greedy all the same, and for small networks: a reference for tests, not a way to prune.

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
    counts, least = problem.most, problem.least
    keep = problem.masks(counts)
    replay = Replay(analysis)
    losses = [_loss(analysis, replay, keep)]
    task = "oracle"
    analysis.progress.start(task, sum(len(mask) for mask in keep.values()))
    while not problem.fits(counts):
        spent = analysis.spent(analysis.cost.price(keep))
        tried: list[tuple[float, str, int, float, Keep]] = []
        for axis, count in counts.items():
            if count <= least[axis]:
                continue
            saved = 0
            gone = count - problem.snap(axis, count - 1)
            units = {member: n * gone for member, n in problem.groups.get(axis, {axis: 1}).items()}
            for number, fewer in enumerate(_fewer(analysis, replay, keep, units)):
                smaller = {**keep, **fewer}
                # All units of an axis cost alike.
                saved = saved or max(1, spent - analysis.spent(analysis.cost.price(smaller)))
                loss = _loss(analysis, replay, smaller)
                rise = loss - losses[-1]
                tried.append((rise / saved if rise > 0 else rise * saved, axis, number, loss, fewer))
        _, axis, _, loss, fewer = min(tried, key=lambda one: one[:3])
        keep |= fewer
        counts[axis] = problem.snap(axis, counts[axis] - 1)
        losses.append(loss)
        analysis.progress.advance(task)
    analysis.progress.finish(task)
    return keep, losses


def _fewer(analysis: Analysis, replay: Replay, keep: Keep, units: Mapping[str, int]) -> Iterator[Keep]:
    """Yield what may stay of an axis without each of its units; of several that go together, without the cheapest."""
    together = sum(units.values()) > 1
    chosen: Keep = {}
    for axis, count in units.items():
        mask, found = keep[axis], []
        for unit in np.flatnonzero(mask):
            without = mask & (np.arange(len(mask)) != unit)
            if together:
                found.append((_loss(analysis, replay, {**keep, axis: without}), int(unit)))
            else:
                yield {axis: without}
        chosen[axis] = mask & ~np.isin(np.arange(len(mask)), [unit for _, unit in sorted(found)[:count]])
    if together:
        yield chosen


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
