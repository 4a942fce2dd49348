"""Norms of the small network: running statistics measured anew, scale and shift brought back to the dense network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunus.repairs.sites import Norm
from prunus.repairs.walking import Stop

Way = Literal["match", "fit"]


def repair_norm(stop: Stop, norm: Norm, epsilon: float, way: Way) -> Mapping[str, Tensor]:
    """Return the new tensors of a norm.

    With x̂ the normalised input of a channel and t what the dense norm answers there: ``match`` gives the output the
    mean and the variance of t, γ′ = ±σ(t)/σ(x̂); ``fit`` the least squared distance, γ′ = cov(t, x̂)/var(x̂). Both
    β′ = E[t] − γ′E[x̂]. Running statistics become those of the small network, so that training goes on from where
    evaluation stands.

    Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, for statistics measured anew.
    """
    moments = stop.all
    mean, target = moments.mean[:, 0], moments.target[:, 0]
    variance, wanted = moments.covariance()[:, 0, 0].clamp_min(0), moments.target_variance()[:, 0]
    shared = moments.cross_covariance()[:, 0, 0]
    if not norm.bias and not norm.mean:  # it cannot shift: powers take the place of variances
        variance, wanted, shared = moments.second[:, 0, 0], moments.target_second[:, 0], moments.cross[:, 0, 0]
    found: dict[str, Tensor] = {}
    spread = torch.ones_like(mean)
    if norm.mean:
        found = {norm.mean: mean, norm.variance: variance}
        spread = (variance + epsilon).rsqrt()
    alive = variance > 1e-12
    safe = torch.where(alive, variance, torch.ones_like(variance))
    if norm.weight:
        old = stop.tensors[norm.weight].to(mean)
        slope = shared / safe if way == "fit" else torch.where(old < 0, -1.0, 1.0) * (wanted / safe).sqrt()
        scale = torch.where(alive, slope / spread, old)
        found[norm.weight] = scale
    else:
        scale = torch.ones_like(mean)
    if norm.bias:
        centre = torch.zeros_like(mean) if norm.mean else mean
        found[norm.bias] = target - scale * centre
    return found
