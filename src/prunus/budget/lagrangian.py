"""Lagrangian allocation: each axis takes the width with the least damage plus λ times the price."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.integer_repair import refill
from prunus.budget.width_grid import best_weights, considered, even_division, mix

_SWEEPS = 4
_STEPS = 26
_ROUNDS = 4

Answer = Callable[[float], dict[str, int]]


def lagrangian(problem: UnitProblem, /) -> dict[str, int]:
    """Minimise Σ_a d_a(n_a) + λ · price(n), with the smallest λ whose solution fits, then repair the counts.

    The price multiplies neighbouring widths, so the axes are optimised in turn until none changes: a local minimum of
    the sum, the global one where no two axes share a weight. Damage curves are those of the problem, measured or sums
    of scores.
    Source: Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 36, 1988.
    """
    return best_of_mixes(problem, lambda fields: _turns(problem, fields))


def best_of_mixes(problem: UnitProblem, solver: Callable[[np.ndarray], Answer]) -> dict[str, int]:
    """Solve for one mix of the limits after another and return the solution of least damage that fits.

    Args:
        problem: the problem with its limits.
        solver: weights of the price `FIELDS` → (λ → counts); a larger λ gives a lower price.
    """
    n = max(1, len(problem.limits))
    weights = np.full(n, 1 / n)
    best = refill(problem, start(problem))
    for _ in range(_ROUNDS if n > 1 else 1):
        fields, budget = mix(problem, weights)
        counts = refill(problem, cheapest_that_fits(problem, solver(fields / max(1, budget))))
        best = min(best, counts, key=problem.predicted)
        amounts = problem.polynomial.prices(np.array([[counts[a] for a in problem.scores]], np.int64))[0]
        weights = best_weights(problem, amounts, weights)
    return best


def start(problem: UnitProblem) -> dict[str, int]:
    """Return the uniform widths, raised to `considered` where these fit."""
    even = even_division(problem)
    raised = {a: max(n, even[a]) for a, n in considered(problem).items()}
    return raised if problem.fits(raised) else even


def cheapest_that_fits(problem: UnitProblem, answer: Answer) -> dict[str, int]:
    """Return the solution of the smallest λ that fits, by bisection of its logarithm; the least widths where none does.

    The price need not be monotone in λ, so the best solution that fits during the bisection is returned.
    """
    free = answer(0.0)
    if problem.fits(free):
        return free
    scale = max(1e-12, sum(float(np.ptp(problem.curve(a))) for a in problem.scores))
    low, high = np.log(scale * 1e-9), np.log(scale * 1e9)
    best = problem.least
    for _ in range(_STEPS):
        middle = (low + high) / 2
        counts = answer(float(np.exp(middle)))
        if problem.fits(counts):
            high = middle
            best = min(best, counts, key=problem.predicted)
        else:
            low = middle
    return best


def _turns(problem: UnitProblem, fields: np.ndarray) -> Answer:
    """Return λ → counts: from the uniform widths on, each axis is optimised for the widths of the others."""
    axes, least, begin = problem.polynomial.axes, considered(problem), start(problem)
    slices = problem.polynomial.slices(fields)
    allowed = [problem.choices(a)[problem.choices(a) >= least[a]].astype(float) for a in axes]
    # The widest comes first: of equal sums the wider one has no more damage.
    allowed = [n[::-1].copy() for n in allowed]
    damage = [problem.curve(a)[n.astype(int)] for a, n in zip(axes, allowed, strict=True)]
    first = np.array([*(max(begin[a], n[-1]) for a, n in zip(axes, allowed, strict=True)), 1.0])

    def answer(price: float) -> dict[str, int]:
        widths = first.copy()
        for _ in range(_SWEEPS):
            before = widths.copy()
            for i, n in enumerate(allowed):
                if len(n) > 1:
                    widths[i] = n[np.argmin(damage[i] + price * slices[i].cost(widths, n))]
            if np.array_equal(before, widths):
                break
        return {a: int(w) for a, w in zip(axes, widths, strict=False)}

    return answer
