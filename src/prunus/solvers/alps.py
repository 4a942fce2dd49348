"""ALPS: find a mask by alternating directions with a growing penalty, then its weights by conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.solvers.patterns import Pattern, Unstructured
from prunus.solvers.problem import DAMPING, Pruned, check_count, checked, damped

ROUNDS = 300
GRADIENT_STEPS = 10
_FIRST_PENALTY = 0.1
_EVERY = 3
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""(share, factor): the penalty grows by the factor if the mask changed by more than this share of the kept weights."""


def alps(
    weight: Tensor,
    moment: Tensor,
    count: int,
    pattern: Pattern | None = None,
    *,
    damping: float = DAMPING,
    rounds: int = ROUNDS,
    steps: int = GRADIENT_STEPS,
) -> Pruned:
    """Prune a layer by ADMM on the split W = D with D on the pattern, then refit D on its support.

    W ← (H + ρI)⁻¹(HŴ − V + ρD);  D ← P(W + V/ρ);  V ← V + ρ(W − D); ρ grows while the mask changes, and the
    loop ends when it no longer does. Columns are scaled to a unit diagonal of H first.
    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", arXiv:2406.07831.

    Args:
        weight: weights of the layer.
        moment: E[xxᵀ] of its inputs.
        count: number of weights that stay; `NofM` ignores it.
        pattern: `Unstructured` unless given.
        damping: ridge, as a share of the mean of the diagonal of H.
        rounds: most rounds of ADMM.
        steps: steps of preconditioned conjugate gradients on the support.

    Shapes: weight (O, I), moment (I, I).

    Raises:
        DataError, OptionError: as `prunus.solvers.sparsegpt`.
    """
    w, h = checked(weight, moment)
    check_count(count, w.numel())
    chosen = pattern or Unstructured()
    h = damped(h, damping)
    scale = h.diagonal().sqrt()
    h, w = h / scale[:, None] / scale, w * scale
    mask = _mask(w, h, count, chosen, rounds)
    weights = on_support(w, h, mask, steps)
    return Pruned((weights / scale).to(weight.dtype), mask)


def _mask(w: Tensor, h: Tensor, count: int, pattern: Pattern, rounds: int) -> Tensor:
    values, vectors = torch.linalg.eigh(h)
    target, kept = w @ h, w
    dual, penalty = torch.zeros_like(w), _FIRST_PENALTY
    mask = before = pattern.mask(w.square(), count)
    for round_ in range(1, rounds + 1):
        right = target - dual + penalty * kept
        free = (right @ vectors / (values + penalty)) @ vectors.T
        shifted = free + dual / penalty
        mask = pattern.mask(shifted.square(), count)
        kept = torch.where(mask, shifted, torch.zeros_like(shifted))
        dual = dual + penalty * (free - kept)
        if round_ % _EVERY == 0:
            changed = int((mask != before).sum())
            if not changed:
                break
            size = max(1, int(mask.sum()))
            penalty *= next(factor for share, factor in _GROWTH if changed >= share * size)
            before = mask
    return mask


def on_support(weight: Tensor, moment: Tensor, mask: Tensor, steps: int = GRADIENT_STEPS) -> Tensor:
    """Approach the best weights on a mask by projected, diagonally preconditioned conjugate gradients.

    It starts from the weight with zeros off its support, and no step raises the error. It converges to
    `prunus.solvers.refit`.
    Source: Meng et al., arXiv:2406.07831, algorithm 2, with one step length a row.

    Shapes: weight, mask (O, I), moment (I, I) → (O, I).
    """
    inside, none = mask.to(weight.dtype), weight.new_zeros(())
    approximation = weight * inside
    residual = (weight - approximation) @ moment * inside
    diagonal = moment.diagonal()
    ahead = residual / diagonal
    direction, energy = ahead, (residual * ahead).sum(1, keepdim=True)
    # A row whose residual is rounding error has converged; a step length along its direction would be meaningless.
    least = torch.finfo(weight.dtype).eps ** 2 * energy
    for _ in range(steps):
        curved = direction @ moment * inside
        curvature = (direction * curved).sum(1, keepdim=True)
        length = torch.where((energy > least) & (curvature > 0), energy / curvature, none)
        approximation = approximation + length * direction
        residual = residual - length * curved
        ahead = residual / diagonal
        now = (residual * ahead).sum(1, keepdim=True)
        direction = ahead + torch.where(energy > least, now / energy, none) * direction
        energy = now
    return approximation
