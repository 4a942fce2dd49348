"""Ridge refold: the weight that brings a layer closest to the dense one, on what the small network feeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from prunus.repairs.moments import Moments

GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges to choose from, in units of the mean variance of the inputs."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A layer's new weight and bias, and how it was found.

    Attributes:
        matrix: (G, O, D) float64.
        bias: (G, O) float64; zero where the layer has none.
        ridge: the chosen λ in units of the mean variance; None where the weight stayed as it was.
        before, after: E(t − Wx − b)² summed over outputs, by the variance of t, on samples that were not fitted to.
    """

    matrix: Tensor
    bias: Tensor
    ridge: float | None
    before: float
    after: float


def refold(
    matrix: Tensor,
    bias: Tensor,
    fit: Moments,
    check: Moments | None,
    *,
    shifts: bool,
    mask: Tensor | None = None,
    grid: tuple[float, ...] = GRID,
) -> Fit:
    """Return the weight and bias that reconstruct the targets best.

    W′ = W + R (C + λI)⁻¹ with R = C_tx − W C, b′ = E[t] − W′E[x]: the correction is ridged, not the weight. λ is chosen
    on ``check``; the weight as it is, with the bias alone corrected, is among the choices. Then all samples are fitted.
    Without a bias, second moments take the place of covariances. Under a mask, only kept weights move.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168 (the
        reconstruction; that the correction is ridged and not the weight is ours).

    Args:
        matrix: the weight now, (G, O, D).
        bias: the bias now, (G, O).
        fit, check: moments; without ``check`` the middle of the grid is taken.
        shifts: the layer can shift its outputs: it has a bias, or a batch norm follows.
        mask: (G, O, D) bool, which weights may be other than zero.
        grid: ridges to choose from; with none, the bias alone is corrected.
    """
    whole = fit if check is None else fit + check
    judge = whole if check is None else check
    scale = float(judge.target_variance().sum()) + 1e-30
    before = float(judge.error(matrix, bias).sum()) / scale
    normal = fit.normal(matrix, shifts=shifts)

    def tried(candidate: Tensor) -> float:
        return float(judge.error(candidate, _shifted(candidate, bias, fit, shifts)).sum()) / scale

    choices = grid if check is not None else grid[len(grid) // 2 :][:1]
    found = _descent(choices, lambda r: tried(matrix + normal.solution(r, mask)))
    ridge = min(found, key=lambda r: found[r], default=None)
    plain = tried(matrix)
    if ridge is not None and found[ridge] < min(before, plain):
        final = matrix + whole.normal(matrix, shifts=shifts).solution(ridge, mask)
        return Fit(final, _shifted(final, bias, whole, shifts), ridge, before, found[ridge])
    if plain < before:
        return Fit(matrix, _shifted(matrix, bias, whole, shifts), None, before, plain)
    return Fit(matrix, bias, None, before, before)


def _descent(grid: tuple[float, ...], error: Callable[[float], float]) -> dict[float, float]:
    """Return the errors of the choices met going downhill from the middle of a grid; each is a factorisation."""
    found: dict[float, float] = {}
    place = len(grid) // 2
    while 0 <= place < len(grid):
        for i in (place, place - 1, place + 1):
            if 0 <= i < len(grid) and grid[i] not in found:
                found[grid[i]] = error(grid[i])
        best = min(range(max(place - 1, 0), min(place + 2, len(grid))), key=lambda i: found[grid[i]])
        if best == place:
            break
        place = best
    return found


def _shifted(matrix: Tensor, bias: Tensor, moments: Moments, shifts: bool) -> Tensor:
    if not shifts:
        return bias
    return moments.target - (matrix @ moments.mean.unsqueeze(2)).squeeze(2)
