"""Plans of budgets that count or compare: the best n parts stay, or all parts whose score exceeds a threshold."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.analysis.selectors import selector_of_axes, selector_of_tensors
from prunus.budget import UnitProblem, unit_problem
from prunus.budget.counts import Amount, Count, Threshold, number_kept
from prunus.budget.useful import check_something_goes, check_threshold
from prunus.budget.weights import fit_weights
from prunus.criteria import CriterionLike, comparable_scores, criterion_name
from prunus.criteria.weight_statistics import precise
from prunus.errors import BudgetError
from prunus.masks import contracted_dims, top_masks, window_means
from prunus.masks.window_option import Units
from prunus.methods.bridged_by_count import bridged_by_count
from prunus.methods.by_criterion import check_removable, chosen_criterion
from prunus.methods.counted import counted, number_of, reason_of, scored_by
from prunus.methods.method import Method
from prunus.methods.modules_by_count import modules_by_count
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import MAGNITUDE, maskable, masked_plan, weight_scores
from prunus.methods.window_units import run_means, runs_in, with_runs
from prunus.methods.window_wise import weight_windows
from prunus.plans import Decision, Plan

GLOBAL, UNIFORM = "global", "uniform"
UNIT_DIVISIONS = (GLOBAL, UNIFORM)
"""The allocators that divide a number of units: one ranking of normalised scores, or the same share of every axis."""
_LEAST_SHARE = 0.1


def plan_by_count(
    analysis: Analysis,
    count: Count,
    chosen: Method,
    criterion: CriterionLike | None = None,
    allocator: str | None = None,
    reconnect: str | None = None,
) -> Plan:
    """Return the plan that keeps the best parts of a method, as many as a count or a threshold says.

    Scores are those of the criterion or of the method, else magnitudes. Every layer keeps its best part.

    Args:
        analysis: the network and its data.
        count: the budget.
        chosen: the method; its ``counts`` says what is ranked.
        criterion: criterion of the parts, where the method takes one; None is that of the method, or magnitude.
        allocator: for a number of the whole network: None ranks the scores of all layers as they are, ``global`` ranks
            those of units divided by the mean of their layer, ``uniform`` keeps the same share of every layer; weights
            know ``erk`` and ``lamp`` too.
        reconnect: how ``modular`` reconnects modules of any network; None drops branches.

    Raises:
        BudgetError: all parts would stay, all would go, or fewer than one a layer would stay.
        SelectorError: a layer of the budget that does not exist.
    """
    if chosen.counts == "modules":
        if reconnect is not None or chosen.name == "chain-depth":
            return bridged_by_count(analysis, count, reconnect)
        return modules_by_count(analysis, count, criterion)
    name = criterion or chosen.scored_by or MAGNITUDE
    if chosen.counts == "units" or isinstance(chosen.window, Units):
        return _units(analysis, count, chosen, chosen_criterion(analysis, name), allocator)
    return _weights(analysis, count, chosen, name, allocator)


def _units(analysis: Analysis, count: Count, chosen: Method, criterion: CriterionLike, allocator: str | None) -> Plan:
    check_removable(analysis)
    length = chosen.window.length if isinstance(chosen.window, Units) else 1
    scores = run_means(unit_scores(analysis, criterion), length)
    bounds = {axis: bound for axis, bound in analysis.bounds.items() if axis in scores}
    problem = with_runs(unit_problem(analysis.cost, scores, (), bounds=bounds), length)
    kind = "windows" if length > 1 else "units"
    total = sum(runs_in(np.ones(len(values), bool), length) for values in scores.values())
    selected = _selected(problem, analysis, count)
    name = criterion_name(criterion)
    amounts = {axis: _amount_of(problem, axis, length) for axis in problem.scores}
    if count.compares:
        above = _units_above(problem, selected, name)
        counts = {axis: problem.snap(axis, int(above[axis])) for axis in problem.scores}
    elif count.whole is None:
        counts = {axis: _kept_of_axis(problem, axis, amount, amounts[axis]) for axis, amount in selected.items()}
        counts = {axis: problem.snap(axis, counts.get(axis, len(s))) for axis, s in problem.scores.items()}
    else:
        number = number_kept(number_of(count.whole), total)
        counts = _divided(problem, amounts, number, total, count, allocator, kind)
    masks = {axis: mask for axis, mask in problem.masks(counts).items() if not mask.all()}
    check_something_goes(count, kind, total, bool(masks))
    chooser = {member: axis for axis in problem.scores for member in _members(problem, axis)}
    title = f"mean {name} over runs of {length}" if length > 1 else name
    decisions = [
        Decision(a, "unit", int((~m).sum()), len(m), reason_of(title, count, selected.get(chooser.get(a, a))))
        for a, m in masks.items()
    ]
    kept = total - sum(runs_in(~mask, length) for mask in masks.values())
    settings = {**scored_by(chosen, name), "counted": counted(kind, kept, total)}
    return make_plan(analysis.coupling, masks, decisions=decisions, settings=settings, cost=analysis.cost)


def _amount_of(problem: UnitProblem, axis: str, length: int) -> np.ndarray:
    """Return the number of parts, units or runs of units, that the first 0, 1, … choices of an axis hold."""
    whole = np.zeros(len(problem.scores[axis]) + 1, int)
    for member, units in _members(problem, axis).items():
        order = problem.units[member] // length
        new = np.append(0, np.cumsum(np.append(True, np.diff(order) != 0) if length > 1 else np.ones(len(order), int)))
        start = problem.rest.get(member, 0)
        whole += new[start::units] - new[start]
    return whole


def _selected(problem: UnitProblem, analysis: Analysis, count: Count) -> dict[str, Amount]:
    """Return the amount of every axis that the budget names; of all axes for an amount of the whole network."""
    if count.whole is not None:
        return dict.fromkeys(problem.scores, count.whole)
    selectors = selector_of_axes(analysis.coupling, count.amounts)
    found = {}
    for axis in problem.scores:
        named = [selectors[member] for member in _members(problem, axis) if member in selectors]
        if named:
            found[axis] = count.amounts[named[-1]]
    return found


def _members(problem: UnitProblem, axis: str) -> Mapping[str, int]:
    return problem.groups.get(axis, {axis: 1})


def _units_of_step(problem: UnitProblem, axis: str) -> int:
    return sum(_members(problem, axis).values())


def _unit_means(problem: UnitProblem, axis: str) -> np.ndarray:
    """Return the score of every choice of an axis, best first; of tied axes the mean over the units of a step."""
    return np.asarray(problem.scores[axis], float) / _units_of_step(problem, axis)


def _units_above(problem: UnitProblem, selected: Mapping[str, Amount], criterion: str) -> dict[str, int]:
    """Return the number of choices above the threshold for every axis; all for axes that the budget does not name."""
    named = {axis: (_unit_means(problem, axis), amount) for axis, amount in selected.items()}
    check_threshold({a: (s, t) for a, (s, t) in named.items() if isinstance(t, Threshold)}, "units", criterion)
    counts = {axis: len(scores) for axis, scores in problem.scores.items()}
    for axis, (scores, amount) in named.items():
        if isinstance(amount, Threshold):
            counts[axis] = int(amount.keeps(scores).sum())
    return counts


def _kept_of_axis(problem: UnitProblem, axis: str, amount: Amount, amounts: np.ndarray) -> int:
    """Return the number of choices that an axis keeps by its own share or number; ``amounts`` counts parts."""
    value = number_of(amount)
    if isinstance(value, float):
        number: float = number_kept(value, int(amounts[-1]))
    else:
        # A number is that of the smallest axis of a group.
        number = value * _units_of_step(problem, axis) / max(1, min(_members(problem, axis).values()))
    return int(np.searchsorted(amounts, number, side="right")) - 1


def _divided(
    problem: UnitProblem,
    amounts: Mapping[str, np.ndarray],
    number: int,
    total: int,
    count: Count,
    allocator: str | None,
    kind: str,
) -> dict[str, int]:
    """Return the kept choices of every axis so that at most a number of parts stays in all, and exactly it if it can.

    Raises:
        BudgetError: each axis keeps its least number of parts, and that is more.
    """
    fixed = total - sum(int(parts[-1]) for parts in amounts.values())
    left = number - fixed
    least = problem.least
    needed = _amount(amounts, least)
    if needed > left:
        raise BudgetError(
            f"Budget {count} keeps {number} of {total} {kind}, and each layer keeps its least: {needed + fixed} in "
            f"all. Give {needed + fixed} or more."
        )
    if allocator == UNIFORM:
        least = _same_share(problem, amounts, left, least)
    elif allocator == GLOBAL:
        raised = {a: max(n, problem.snap(a, int(_LEAST_SHARE * len(problem.scores[a])))) for a, n in least.items()}
        least = raised if _amount(amounts, raised) <= left else least
    ranks = {axis: _unit_means(problem, axis) for axis in problem.scores}
    if allocator == GLOBAL:
        ranks = comparable_scores(ranks)
    elif allocator == UNIFORM:
        # The rest of the rounded shares goes to the axes that were rounded down most.
        ranks = {a: np.full(len(s), left / total * len(s) - least[a]) for a, s in ranks.items()}
    return _best(problem, amounts, left, least, ranks)


def _amount(amounts: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> int:
    return sum(int(amounts[axis][n]) for axis, n in counts.items())


def _same_share(
    problem: UnitProblem, amounts: Mapping[str, np.ndarray], left: int, least: Mapping[str, int]
) -> dict[str, int]:
    def widths(share: float) -> dict[str, int]:
        return {a: max(least[a], problem.snap(a, int(share * len(s) + 1e-9))) for a, s in problem.scores.items()}

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _amount(amounts, widths(middle)) <= left else (low, middle)
    return widths(low)


def _best(
    problem: UnitProblem,
    amounts: Mapping[str, np.ndarray],
    left: int,
    least: Mapping[str, int],
    ranks: Mapping[str, np.ndarray],
) -> dict[str, int]:
    """Add the best next parts to the least widths while they fit; equal scores in the order of the axes."""
    counts = dict(least)
    room = left - _amount(amounts, counts)
    order = {axis: number for number, axis in enumerate(counts)}
    queue: list[tuple[float, int, str, int]] = []

    def offer(axis: str) -> None:
        following = problem.above(axis, counts[axis])
        if following is not None:
            worth = float(ranks[axis][counts[axis] : following].mean())
            heapq.heappush(queue, (-worth, order[axis], axis, following))

    for axis in counts:
        offer(axis)
    while queue and room > 0:
        _, _, axis, following = heapq.heappop(queue)
        price = int(amounts[axis][following] - amounts[axis][counts[axis]])
        if price <= room:
            room -= price
            counts[axis] = following
            offer(axis)
    return counts


def _weights(analysis: Analysis, count: Count, chosen: Method, criterion: CriterionLike, allocator: str | None) -> Plan:
    """Mask single weights, or windows of them by their mean score."""
    names = list(maskable(analysis))
    if not names:
        raise BudgetError(f"Budget {count} has nothing to choose from: no weight of this model may be masked.")
    windows = weight_windows(analysis, chosen.window) if chosen.window is not None else None
    names = [name for name in names if not isinstance(windows, Mapping) or name in windows]
    scores = dict(weight_scores(analysis, analysis.user_model, names, criterion))
    name, kind, shapes = criterion_name(criterion), chosen.counts, None
    if windows is not None:
        dims = {n: dim for n, dim in contracted_dims(analysis.model).items() if n in scores}
        scores, shapes = window_means(scores, windows, input_dims=dims)
    amounts = _amounts(analysis, count, list(scores))
    masks = _chosen_weights(count, amounts, scores, kind, name, allocator)
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    check_something_goes(count, kind, total, kept < total)
    if shapes is not None:
        masks = {n: mask.cpu()[shapes[n]] for n, mask in masks.items()}
    title = f"mean {name} of a window" if shapes is not None else name
    plan = masked_plan(analysis, {n: mask for n, mask in masks.items() if not mask.all()}, title)
    decisions = [replace(d, reason=reason_of(title, count, amounts.get(d.node))) for d in plan.decisions]
    settings: dict[str, Any] = {"method": chosen.name} if shapes is not None else {}
    settings |= {**scored_by(chosen, name), "counted": counted(kind, kept, total)}
    return replace(plan, decisions=tuple(decisions), settings=settings)


def _amounts(analysis: Analysis, count: Count, names: list[str]) -> dict[str, Amount]:
    """Return the amount of every weight that the budget names; of all for an amount of the whole network."""
    if count.whole is not None:
        return dict.fromkeys(names, count.whole)
    selectors = selector_of_tensors(analysis.coupling, count.amounts, names)
    return {name: count.amounts[selector] for name, selector in selectors.items()}


def _chosen_weights(
    count: Count,
    amounts: Mapping[str, Amount],
    scores: Mapping[str, Tensor],
    kind: str,
    name: str,
    allocator: str | None,
) -> dict[str, Tensor]:
    """Return the masks of weights, or of windows, by their scores."""
    if count.whole is not None and not count.compares:
        total = sum(s.numel() for s in scores.values())
        number = number_kept(number_of(count.whole), total)
        if number < len(scores):
            raise BudgetError(
                f"Budget {count} keeps {number} of {total} {kind}, and each of {len(scores)} layers keeps its best. "
                f"Give {len(scores)} or more."
            )
        if allocator in (None, GLOBAL):
            return top_masks(scores, keep_count=number)
        arrays = {n: s.double().cpu().numpy() for n, s in scores.items()}
        return {n: torch.from_numpy(m) for n, m in fit_weights(arrays, number, str(allocator)).items()}
    if count.compares:
        arrays = {n: precise(scores[n]).cpu().numpy() for n in amounts}
        limits = {n: (arrays[n], t) for n, t in amounts.items() if isinstance(t, Threshold)}
        check_threshold(limits, kind, name)
        kept = {n: _or_best(torch.from_numpy(t.keeps(s)), scores[n]) for n, (s, t) in limits.items()}
    else:
        kept = {
            n: top_masks({n: scores[n]}, keep_count=max(1, number_kept(number_of(amount), scores[n].numel())))[n]
            for n, amount in amounts.items()
        }
    return {n: kept[n] if n in kept else torch.ones(s.shape, dtype=torch.bool) for n, s in scores.items()}


def _or_best(mask: Tensor, scores: Tensor) -> Tensor:
    """Return the mask of a layer, with its best part where nothing else is kept."""
    if mask.numel() and not mask.any():
        mask.view(-1)[int(scores.detach().reshape(-1).argmax())] = True
    return mask
