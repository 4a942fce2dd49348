"""Ridge refold: the weight that brings a layer closest to the dense one, on what the small network feeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.repair.moments import Moments

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
    normal = _Normal.of(matrix, fit, shifts, mask)

    def tried(candidate: Tensor) -> float:
        return float(judge.error(candidate, _shifted(candidate, bias, fit, shifts)).sum()) / scale

    found = _descent(grid if check is not None else grid[len(grid) // 2 :][:1], lambda r: tried(normal.solution(r)))
    ridge = min(found, key=lambda r: found[r], default=None)
    plain = tried(matrix)
    if ridge is not None and found[ridge] < min(before, plain):
        final = _Normal.of(matrix, whole, shifts, mask).solution(ridge)
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


@dataclass(frozen=True, slots=True)
class _Normal:
    """The normal equations of a correction: Δ (gram + λI) = rest."""

    matrix: Tensor
    gram: Tensor
    rest: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, matrix: Tensor, moments: Moments, shifts: bool, mask: Tensor | None) -> _Normal:
        gram = moments.covariance() if shifts else moments.second
        cross = moments.cross_covariance() if shifts else moments.cross
        return cls(matrix, gram, cross - matrix @ gram, mask)

    def solution(self, ridge: float) -> Tensor:
        """Return the corrected weight for a ridge in units of the mean variance."""
        level = self.gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)  # (G,)
        eye = torch.eye(self.gram.shape[1], dtype=self.gram.dtype, device=self.gram.device)
        damped = self.gram + (ridge * level)[:, None, None] * eye
        moved = solved(damped, self.rest) if self.mask is None else solved_on(damped, self.rest, self.mask)
        return self.matrix + moved


def solved(gram: Tensor, rest: Tensor) -> Tensor:
    """Return rest · gram⁻¹ for symmetric gram above zero; rounding may ask for more on the diagonal.

    Shapes: gram (G, D, D), rest (G, O, D) → (G, O, D).
    """
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    extra = 0.0
    level = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    while True:
        factor, info = torch.linalg.cholesky_ex(gram + extra * level * eye)
        if not bool(info.any()):
            found: Tensor = torch.cholesky_solve(rest.transpose(1, 2), factor).transpose(1, 2)
            return found
        extra = max(10 * extra, 1e-10)


def solved_on(gram: Tensor, rest: Tensor, mask: Tensor, *, most: int = 200, tolerance: float = 1e-10) -> Tensor:
    """Return the rows Δ, zero outside the mask, with (Δ gram − rest) zero inside it: conjugate gradients.

    All rows at once, each on its own support; the diagonal is the preconditioner.

    Shapes: gram (G, D, D), rest (G, O, D), mask (G, O, D) → (G, O, D).
    """
    kept = mask.to(gram.dtype)
    inverse = 1 / gram.diagonal(dim1=1, dim2=2).unsqueeze(1)
    delta = torch.zeros_like(rest)
    residual = rest * kept
    limit = tolerance**2 * residual.square().sum(2, keepdim=True)
    turned = residual * inverse
    way = turned
    energy = (residual * turned).sum(2, keepdim=True)
    for _ in range(most):
        if bool((residual.square().sum(2, keepdim=True) <= limit).all()):
            break
        pushed = (way @ gram) * kept
        step = energy / (way * pushed).sum(2, keepdim=True).clamp_min(1e-300)
        delta = delta + step * way
        residual = residual - step * pushed
        turned = residual * inverse
        fresh = (residual * turned).sum(2, keepdim=True)
        way = turned + (fresh / energy.clamp_min(1e-300)) * way
        energy = fresh
    return delta
