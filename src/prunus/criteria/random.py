"""Score a weight at random: the baseline that every criterion must beat."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.unit_criterion import UnitEvidence, unit_rule
from prunus.criteria.weight_statistics import Evidence


@CRITERIA.register("random")
def random(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by a uniform number: s ~ U[0, 1).

    Each tensor draws from a generator seeded with ``evidence.seed`` and its own name: the scores depend neither on
    the other tensors nor on the device or the global random state.

    Source: own; a strong baseline: Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks", arXiv:1801.10447.
    """
    return {
        name: torch.rand(weight.shape, generator=named_generator(name, evidence.seed)).to(weight.device)
        for name, weight in evidence.weights.items()
    }


@unit_rule("random")
def unit_random(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by a uniform number, s_u ~ U[0, 1), drawn from the seed and the axis id alone.

    Source: own; a strong baseline: Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks", arXiv:1801.10447.
    """
    return {
        name: torch.rand(axis.size, generator=named_generator(name, evidence.seed), dtype=torch.float64)
        for name, axis in evidence.coupling.axes.items()
    }


def named_generator(name: str, seed: int) -> torch.Generator:
    """Return a CPU generator seeded with the name and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
