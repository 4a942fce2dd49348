"""Targets drawn from the network's own predictions: a loss that needs no labels."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunus.data.batches import logits_of

_CERTAIN = 1e-14


def drawn_loss(outputs: Any, inputs: list[Tensor], targets: Any, seed: int) -> tuple[Tensor, int]:
    """Return a random loss whose squared gradients have the mean of those of −log p(y|x) with y ~ p(y|x).

    For each prediction a label c is drawn from q, and L = ± √(p_c / q_c) · −log p_c, so that E_q[(∂L)²] is
    E_p[(∂ log p)²] for any q. Here q_c ∝ p_c ‖e_c − p‖², the second factor being the squared gradient in the logits:
    labels drawn from p itself carry little information where the network is confident. The sign is random, so that the
    predictions of one sample do not mix. L is the mean over samples of the sum over a sample's predictions.

    Classes lie on the last dim of (B, C) and (B, T, C) and on dim 1 of images (B, C, H, W); rows (B·T, C) of a model
    that lays all predictions below each other count as T predictions of each of B samples. Where the targets are
    floating-point numbers, or the output has one column, it is a regression: y = f(x) + ε with ε ~ N(0, 1), and the
    loss is ⟨ε, f(x)⟩, whose gradient is that of −log p up to its sign.

    Every sample draws from a generator of its own, seeded with the seed and the bytes of its inputs: the order of the
    data and the sizes of batches change nothing.

    Source: Martens, "New insights and perspectives on the natural gradient method", arXiv:1412.1193 (labels of the
    model's own); the weighting is our own.

    Returns:
        The loss, and how many predictions a sample has.

    Raises:
        ModelError: the outputs hold no floating-point tensor.
    """
    logits = logits_of(outputs)
    logits = logits.reshape(len(logits), -1) if logits.dim() < 2 else logits
    samples = len(inputs[0]) if inputs and inputs[0].dim() else len(logits)
    if logits.dim() == 2 and samples and len(logits) > samples and len(logits) % samples == 0:
        logits = logits.reshape(samples, -1, logits.shape[1])
    floating = isinstance(targets, Tensor) and targets.is_floating_point()
    generators = [_generator(inputs, i, seed) for i in range(len(logits))]
    if floating or logits[0].numel() == 1:
        noise = torch.stack([torch.randn(logits.shape[1:], generator=g) for g in generators]).to(logits)
        return (noise * logits).sum() / len(logits), logits[0].numel()
    lines = logits.movedim(1, -1) if logits.dim() > 3 else logits
    lines = lines.reshape(len(lines), -1, lines.shape[-1])  # (B, T, C)
    labels, weights = _drawn(lines.detach().double().softmax(-1).cpu(), generators)
    losses = F.cross_entropy(lines.flatten(0, 1), labels.flatten().to(lines.device), reduction="none")
    return (losses * weights.flatten().to(losses)).sum() / len(lines), lines.shape[1]


def _drawn(chances: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Return labels and their signed weights ±√(p/q). Shapes: chances (B, T, C) → (B, T), (B, T)."""
    places = chances.shape[1]
    draws = torch.stack([torch.rand(places, 2, generator=g, dtype=torch.float64) for g in generators])
    norms = 1 - 2 * chances + chances.square().sum(-1, keepdim=True)  # ‖e_c − p‖²
    sums = (chances * norms).cumsum(-1)
    total = sums[..., -1:]
    # Rounding may leave the last sum below the total; a fully certain prediction carries no information.
    labels = torch.searchsorted(sums, draws[..., :1] * total, right=True).clamp(max=chances.shape[-1] - 1)
    weights = torch.where(total > _CERTAIN, total / norms.gather(-1, labels).clamp(min=_CERTAIN), 0.0)
    signs = torch.where(draws[..., 1] < 0.5, -1.0, 1.0)
    return labels.squeeze(-1), signs * weights.squeeze(-1).sqrt()


def _generator(inputs: list[Tensor], index: int, seed: int) -> torch.Generator:
    digest = hashlib.sha256(str(seed).encode())
    for tensor in inputs:
        # An input without samples on dim 0 is shared by all samples.
        sample = tensor[index] if tensor.dim() and len(tensor) > index else tensor
        digest.update(sample.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "little"))
