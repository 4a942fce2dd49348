"""Evolutionary search on the true loss around an allocation, where additive damages are only an approximation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from prunus.budget.allocation import Allocation, Point, TrueLoss
from prunus.budget.allocator import UnitProblem
from prunus.errors import OptionError

_SWITCHES = 3
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class Search:
    """Options of the search.

    Attributes:
        evaluations: most evaluations of the true loss, those of the start and of the dense network included.
        offspring: candidates a generation; the best of them replaces the parent if it is better.
        levels: number of steps between the least and the largest width of an axis; a switch moves by one step.
        seed: seed of the mutations.
    """

    evaluations: int = 200
    offspring: int = 8
    levels: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("evaluations", "offspring", "levels"):
            value = getattr(self, name)
            if value < (3 if name == "evaluations" else 1):
                raise OptionError(f"{name} is {value!r}; allowed: at least {3 if name == 'evaluations' else 1}.")


def refine(problem: UnitProblem, begin: Allocation, loss: TrueLoss, search: Search | None = None) -> Allocation:
    """Search around an allocation by switching levels between axes: some axes get wider, others narrower.

    Of every generation the candidate with the least true loss stays if it beats its parent, so the loss never rises;
    each candidate holds every limit. Equal seeds give equal results.
    Source: Sieberling et al., "EvoPress", arXiv:2410.14649 (level-switch mutation).

    Args:
        problem: problem that the allocation solves.
        begin: start of the search.
        loss: kept counts → true loss; called once for equal counts.
        search: options of the search.

    Returns:
        The best allocation found, with its true damage, and so the ratio R; ``allocator`` names both steps.
    """
    options = search or Search()
    rng = np.random.default_rng(options.seed)
    known: dict[tuple[int, ...], float] = {}

    def evaluated(counts: Mapping[str, int]) -> float:
        key = tuple(counts[a] for a in problem.scores)
        if key not in known:
            known[key] = float(loss(counts))
        return known[key]

    whole = evaluated({a: len(s) for a, s in problem.scores.items()})
    parent, best = dict(begin.counts), evaluated(begin.counts)
    while len(known) < options.evaluations:
        children = _generation(problem, parent, options, rng, known)[: options.evaluations - len(known)]
        if not children:
            break
        losses = [evaluated(counts) for counts in children]
        first = int(np.argmin(losses))
        if losses[first] < best:
            parent, best = children[first], losses[first]
    point = Point(problem.limits[0].of(problem.price(parent)), problem.predicted(parent))
    return replace(
        begin,
        allocator=f"{begin.allocator}+evolution",
        counts=parent,
        damage=point.damage,
        price=problem.price(parent),
        frontier=(point,),
        true_damage=best - whole,
    )


def _generation(
    problem: UnitProblem,
    parent: Mapping[str, int],
    options: Search,
    rng: np.random.Generator,
    known: Mapping[tuple[int, ...], float],
) -> list[dict[str, int]]:
    """Return new candidates that fit; fewer than asked for, or none, where the attempts find no more."""
    children: dict[tuple[int, ...], dict[str, int]] = {}
    for _ in range(_ATTEMPTS):
        if len(children) >= options.offspring:
            break
        child = _switched(problem, parent, options.levels, rng)
        key = tuple(child[a] for a in problem.scores)
        if key not in known:
            children.setdefault(key, child)
    return list(children.values())


def _switched(problem: UnitProblem, parent: Mapping[str, int], levels: int, rng: np.random.Generator) -> dict[str, int]:
    """Raise a few axes by a level each, lower others until every limit holds, then spend the rest of the budget."""
    child, axes = dict(parent), list(problem.scores)
    raised: set[str] = set()
    for _ in range(int(rng.integers(1, _SWITCHES + 1))):
        a = axes[int(rng.integers(len(axes)))]
        higher = problem.above(a, child[a], _stride(problem, a, levels))
        if higher is not None:
            child[a] = higher
            raised.add(a)
    return _fitted(problem, child, [a for a in axes if a not in raised], levels, rng) or dict(parent)


def _fitted(
    problem: UnitProblem, child: dict[str, int], axes: list[str], levels: int, rng: np.random.Generator
) -> dict[str, int] | None:
    least = problem.least
    while not problem.fits(child):
        room = [a for a in axes if child[a] > least[a]]
        if not room:
            return None
        a = room[int(rng.integers(len(room)))]
        child[a] = problem.snap(a, child[a] - _stride(problem, a, levels))
    for i in rng.permutation(len(axes)):
        a = axes[int(i)]
        higher = problem.above(a, child[a])
        if higher is not None and problem.fits(child | {a: higher}):
            child[a] = higher
    return child


def _stride(problem: UnitProblem, axis: str, levels: int) -> int:
    return max(1, (problem.most[axis] - problem.least[axis]) // levels)
