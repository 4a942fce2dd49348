"""Axes that lose units together become one choice: how many steps all of them keep."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.bounds import Bound
from prunus.errors import OptionError
from prunus.graph.axis import Tie
from prunus.graph.coupling import Coupling, Keep


def with_ties(problem: UnitProblem) -> UnitProblem:
    """Return a problem in which the ties of its network hold for every allocation.

    A group is chosen for as a whole, under the name of its first axis: its step t takes the next best units of every
    axis, s_t = Σ_a Σ_{u in step t of a} s_u, and likewise the damage. Groups of which an axis is held, or has lost
    units by itself, stay as they are. An axis that goes in steps by itself keeps a multiple, or everything.

    Raises:
        OptionError: the bounds of the axes of a group leave no count.
    """
    groups: dict[str, Mapping[str, int]] = {}
    rest: dict[str, int] = {}
    frozen: set[str] = set()
    steps: dict[str, int] = {}
    for tie in problem.cost.coupling.ties:
        members = dict(sorted(tie.units.items(), key=lambda item: item[1]))
        if len(members) == 1:
            steps |= {a: n for a, n in members.items() if a in problem.scores}
        elif _even(problem, tie):
            groups[next(iter(members))] = members
            rest |= tie.rest
        else:
            frozen |= members.keys()
    unread, needed = unread_axes(
        problem.cost.coupling, [a for a in problem.scores if not problem.bounds.get(a, Bound()).frozen]
    )
    frozen |= needed
    groups = {a: members for a, members in groups.items() if not frozen & members.keys()}
    frozen |= {a for tie in problem.cost.coupling.ties if frozen & tie.units.keys() for a in tie.units}
    if not groups and not frozen and not steps and not unread:
        return problem
    problem = replace(problem, rest={a: n for a, n in rest.items() if a not in frozen})
    followers = {a for members in groups.values() for a in members} - groups.keys()
    free = [a for a in problem.scores if a not in followers and a not in frozen]
    limited = [a for a in free if a in groups or a in steps]
    none = dict.fromkeys(unread & set(free), 0)
    return replace(
        problem,
        scores={a: _scores(problem, a, groups.get(a)) for a in free},
        floor={a: _floor(problem, groups.get(a, {a: 1})) for a in free} | none,
        damage=_damage(problem, free, groups),
        units={a: index for a, index in problem.units.items() if a not in frozen},
        fixed={**problem.fixed, **{a: len(problem.scores[a]) for a in frozen if a in problem.scores}},
        present={**problem.present, **{a: _all(problem, a) for a in frozen if a in problem.scores}},
        groups=groups,
        allowed={a: _allowed(problem, groups.get(a, {a: 1}), steps.get(a, 1)) for a in limited}
        | {a: np.array([0]) for a in none},
    )


def unread_axes(coupling: Coupling, removable: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the axes that are removed whole because nothing reads them, and those that must stay whole beside others.

    Args:
        coupling: the coupling; without kept forwards there are none.
        removable: the axes all of whose units may be removed.
    """
    emptied = {} if coupling.forward is None else coupling.forward.emptied
    unread = emptied.keys() & set(removable)
    return unread, {b for a, needed in emptied.items() if a not in unread for b in needed}


def _even(problem: UnitProblem, tie: Tie) -> bool:
    """Return whether every axis of a group is up for choice and has the same number of steps, one or more."""
    if not tie.units.keys() <= problem.scores.keys():
        return False
    counts = {divmod(len(problem.scores[a]) - tie.rest.get(a, 0), n) for a, n in tie.units.items()}
    return len(counts) == 1 and next(iter(counts))[0] > 0 and next(iter(counts))[1] == 0


def _all(problem: UnitProblem, axis: str) -> np.ndarray:
    return problem.present.get(axis, np.ones(problem.cost.coupling.axis(axis).size, bool))


def _floor(problem: UnitProblem, members: Mapping[str, int]) -> int:
    """Return the least number of steps that leaves every axis of a group its least number of units."""
    least = max(-(-(problem.floor[m] - problem.rest.get(m, 0)) // n) for m, n in members.items())
    return least if len(members) == 1 else max(1, least)


def _scores(problem: UnitProblem, axis: str, members: Mapping[str, int] | None) -> np.ndarray:
    if members is None:
        return problem.scores[axis]
    parts = (np.asarray(problem.scores[a], float)[problem.rest.get(a, 0) :].reshape(-1, n) for a, n in members.items())
    return np.asarray(sum(part.sum(axis=1) for part in parts))


def _damage(problem: UnitProblem, free: list[str], groups: Mapping[str, Mapping[str, int]]) -> dict[str, np.ndarray]:
    damage = {}
    for a in free:
        members = groups.get(a, {a: 1})
        if members.keys() & problem.damage.keys():
            damage[a] = np.asarray(sum(problem.at_steps(m, n, problem.curve(m)) for m, n in members.items()))
    return damage


def _allowed(problem: UnitProblem, members: Mapping[str, int], step: int) -> np.ndarray:
    """Return the numbers of steps that every axis of a group may keep."""
    first, units = next(iter(members.items()))
    total = (len(problem.scores[first]) - problem.rest.get(first, 0)) // units
    steps = np.arange(1, total + 1)
    for a, n in members.items():
        steps = steps[np.isin(problem.rest.get(a, 0) + steps * n, problem.choices(a))]
    if step > 1:
        steps = steps[(steps % step == 0) | (steps == total)]
    if not len(steps):
        bounds = {a: problem.bounds.get(a, Bound()) for a in members}
        widths = ", ".join(f"{a!r} ({n} for a step)" for a, n in members.items())
        raise OptionError(
            f"The forward keeps {widths} in proportion, and their bounds leave no count: {bounds}. Loosen one."
        )
    return np.asarray(steps)


def in_proportion(
    coupling: Coupling, keep: Keep, scores: Mapping[str, np.ndarray], *, none_lost: bool = False
) -> dict[str, np.ndarray]:
    """Return kept units that hold the ties of a network, for choices that were made axis by axis.

    Every axis of a group keeps as many steps as the axis that kept fewest; the best units stay. With ``none_lost`` it
    keeps as many as the axis that needs most, so that every kept unit stays and some removed ones come back.

    Args:
        coupling: the coupling, with its ties.
        keep: axis id → units that stay (bool).
        scores: axis id → one score a unit, higher stays; without scores kept units stay, the lower index first.
        none_lost: whether every unit of ``keep`` stays.
    """
    masks = {a: np.asarray(m, bool).copy() for a, m in keep.items()}
    for tie in coupling.ties:
        present = {a: masks.get(a, np.ones(coupling.axes[a].size, bool)) for a in tie.units}
        if all(m.all() for m in present.values()):
            continue
        needed = [Fraction(int(m.sum()) - tie.rest.get(a, 0), tie.units[a]) for a, m in present.items()]
        steps = max(1, math.ceil(max(needed)) if none_lost else math.floor(min(needed)))
        for a, mask in present.items():
            rank = np.lexsort((-np.asarray(scores.get(a, np.zeros(len(mask))), float), ~mask))
            masks[a] = np.zeros(len(mask), bool)
            masks[a][rank[: tie.rest.get(a, 0) + steps * tie.units[a]]] = True
    return masks
