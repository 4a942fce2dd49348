"""OSSCAR: exchange units that were chosen greedily one for one as long as the error falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.solvers.consumers import Consumer
from prunus.solvers.problem import DAMPING
from prunus.solvers.swaps import Exchange

SWAPS = 64
CANDIDATES = 16
_LEAST = 1e-9
"""Least relative fall of the error for an exchange; smaller ones are rounding."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """The result of the search.

    Attributes:
        kept: (units,), bool.
        errors: errors at the start and after each exchange; they never rise.
    """

    kept: Tensor
    errors: tuple[float, ...]


def exchange_units(
    consumers: Sequence[Consumer],
    kept: Tensor,
    *,
    damping: float = DAMPING,
    swaps: int = SWAPS,
    candidates: int = CANDIDATES,
) -> Swapped:
    """Exchange units one for one, from any start; after group OBS this is OSSCAR.

    min over |S| = count of Σ_consumers tr((W−Ŵ)H(W−Ŵ)ᵀ) with Ŵ the best weights on S. An exchange restores one
    unit and removes another, the pair that lowers the error most; both costs are exact, from low-rank updates.
    Source: Meng et al., "OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial
    Optimization", arXiv:2403.12983.

    Args:
        consumers: all readers of the axis.
        kept: the units that stay at the start.
        damping: λ, as a share of the mean of the diagonal of each H.
        swaps: most exchanges.
        candidates: number of removed units that are tried: those whose return alone lowers the error most.

    Shapes: kept (units,), bool.

    Raises:
        OptionError: a number out of range.
        DataError: a consumer's moment is not positive semidefinite.
    """
    if swaps < 0 or candidates < 1:
        raise OptionError(f"swaps is {swaps}, candidates {candidates}; allowed is at least 0 and at least 1.")
    stays = kept.detach().cpu().clone()
    states = [Exchange(c, stays, damping) for c in consumers]
    errors = [sum(s.error for s in states)]
    while len(errors) <= swaps and 0 < int(stays.sum()) < len(stays):
        fall, back, out = _best_pair(states, stays, candidates)
        if fall <= _LEAST * errors[-1]:
            break
        for state in states:
            state.exchange(back, out)
        stays[back], stays[out] = True, False
        errors.append(errors[-1] - fall)
    return Swapped(stays, tuple(errors))


def _best_pair(states: Sequence[Exchange], stays: Tensor, candidates: int) -> tuple[float, int, int]:
    """Return the largest fall of the error by one exchange, the unit that returns and the unit that is removed."""
    gains = _sum([s.gains() for s in states], stays)
    gains[stays] = -torch.inf
    best = (0.0, 0, 0)
    for back in torch.argsort(gains, descending=True, stable=True)[:candidates].tolist():
        if not bool(stays[back]) and float(gains[back]) > best[0]:
            losses = _sum([s.losses_with(back) for s in states], stays)
            losses[~stays] = torch.inf
            out = int(losses.argmin())
            best = max(best, (float(gains[back] - losses[out]), back, out))
    return best


def _sum(parts: list[Tensor], stays: Tensor) -> Tensor:
    return sum((p.double().cpu() for p in parts), torch.zeros(len(stays), dtype=torch.float64))
