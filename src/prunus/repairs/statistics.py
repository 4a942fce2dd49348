"""Repair of norms: running statistics are measured again, scale and shift are fitted to the dense network's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunus.repairs.layerwise_run import SiteProblem
from prunus.repairs.sites import Norm

NormFit = Literal["match", "fit"]


def repair_norm(problem: SiteProblem, norm: Norm, epsilon: float, mode: NormFit) -> Mapping[str, Tensor]:
    """Return the new tensors of a norm.

    Let x̂ be the normalised input of a channel and t the dense norm's output. ``match`` gives the output the mean and
    the variance of t, γ′ = ±σ(t)/σ(x̂); ``fit`` minimises the squared distance, γ′ = cov(t, x̂)/var(x̂). Both set
    β′ = E[t] − γ′E[x̂]. Running statistics become those of the small network, so later training and evaluation use
    the same ones.

    Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, for statistics measured again.
    """
    moments = problem.all
    mean, target = moments.mean[:, 0], moments.target[:, 0]
    variance, target_variance = moments.covariance()[:, 0, 0].clamp_min(0), moments.target_variance()[:, 0]
    shared = moments.cross_covariance()[:, 0, 0]
    if not norm.bias and not norm.mean:  # it cannot shift: second moments take the place of variances
        variance, target_variance, shared = moments.second[:, 0, 0], moments.target_second[:, 0], moments.cross[:, 0, 0]
    tensors: dict[str, Tensor] = {}
    spread = torch.ones_like(mean)
    if norm.mean:
        tensors = {norm.mean: mean, norm.variance: variance}
        spread = (variance + epsilon).rsqrt()
    alive = variance > 1e-12
    safe = torch.where(alive, variance, torch.ones_like(variance))
    if norm.weight:
        old = problem.tensors[norm.weight].to(mean)
        slope = shared / safe if mode == "fit" else torch.where(old < 0, -1.0, 1.0) * (target_variance / safe).sqrt()
        scale = torch.where(alive, slope / spread, old)
        tensors[norm.weight] = scale
    else:
        scale = torch.ones_like(mean)
    if norm.bias:
        centre = torch.zeros_like(mean) if norm.mean else mean
        tensors[norm.bias] = target - scale * centre
    return tensors
