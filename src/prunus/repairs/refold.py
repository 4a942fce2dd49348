"""Ridge refold: a least-squares fit of a layer's weight to the dense layer's outputs, on the small network's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from prunus.repairs.moments import Moments

GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidate ridges λ, in units of the mean variance of the inputs."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A layer's new weight and bias, with the chosen ridge and the errors.

    Attributes:
        matrix: (G, O, D) float64.
        bias: (G, O) float64; zero where the layer has none.
        ridge: the chosen λ in units of the mean variance; None where the weight is unchanged.
        before, after: E(t − Wx − b)² summed over outputs, by the variance of t, on samples that were not fitted.
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

    W′ = W + R (C + λI)⁻¹ with R = C_tx − W C, b′ = E[t] − W′E[x]: the correction is ridged, not the weight. ``check``
    selects λ; the old weight with only the bias corrected is among the candidates. Then all samples are fitted.
    Without a bias, second moments take the place of covariances. Under a mask, only kept weights change.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168 (the
        reconstruction; the ridge on the correction instead of the weight is ours).

    Args:
        matrix: the weight now, (G, O, D).
        bias: the bias now, (G, O).
        fit, check: moments; without ``check`` λ is the middle of the grid.
        shifts: the layer can shift its outputs: it has a bias, or a batch norm follows.
        mask: (G, O, D) bool, True for weights that may be non-zero.
        grid: candidate ridges; with none, only the bias is corrected.
    """
    whole = fit if check is None else fit + check
    judge = whole if check is None else check
    scale = float(judge.target_variance().sum()) + 1e-30
    before = float(judge.error(matrix, bias).sum()) / scale
    normal = fit.normal(matrix, shifts=shifts)

    def error_of(candidate: Tensor) -> float:
        return float(judge.error(candidate, _shifted(candidate, bias, fit, shifts)).sum()) / scale

    choices = grid if check is not None else grid[len(grid) // 2 :][:1]
    errors = _descent(choices, lambda r: error_of(matrix + normal.solution(r, mask)))
    ridge = min(errors, key=lambda r: errors[r], default=None)
    plain = error_of(matrix)
    if ridge is not None and errors[ridge] < min(before, plain):
        final = matrix + whole.normal(matrix, shifts=shifts).solution(ridge, mask)
        return Fit(final, _shifted(final, bias, whole, shifts), ridge, before, errors[ridge])
    if plain < before:
        return Fit(matrix, _shifted(matrix, bias, whole, shifts), None, before, plain)
    return Fit(matrix, bias, None, before, before)


def _descent(grid: tuple[float, ...], error: Callable[[float], float]) -> dict[float, float]:
    """Return the errors of the candidates on a descent from the middle of the grid.

    Each candidate costs a factorisation, so the others are not tried.
    """
    errors: dict[float, float] = {}
    position = len(grid) // 2
    while 0 <= position < len(grid):
        for i in (position, position - 1, position + 1):
            if 0 <= i < len(grid) and grid[i] not in errors:
                errors[grid[i]] = error(grid[i])
        best = min(range(max(position - 1, 0), min(position + 2, len(grid))), key=lambda i: errors[grid[i]])
        if best == position:
            break
        position = best
    return errors


def _shifted(matrix: Tensor, bias: Tensor, moments: Moments, shifts: bool) -> Tensor:
    if not shifts:
        return bias
    return moments.target - (matrix @ moments.mean.unsqueeze(2)).squeeze(2)
