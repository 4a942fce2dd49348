"""Blended samples beside the real ones: the dense network gives their targets, so they need no labels."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.repairs.layerwise_run import RunContext
from prunus.repairs.samples import SampleGroup

COPIES = 2
"""Blended groups for each real one."""
_SHIFT = 16  # a picture is shifted by up to one part in so many of its side


def with_blends(context: RunContext, copies: int = COPIES) -> RunContext:
    """Add blended sample groups to a context; groups in the role ``held`` get none, so real samples alone judge."""
    generator = torch.Generator().manual_seed(context.seed)
    made = [
        blended(group, generator)
        for _ in range(copies)
        for group in context.sample_groups
        if group.role != "held" and _has_floats(group)
    ]
    return replace(context, sample_groups=(*context.sample_groups, *made))


def _has_floats(group: SampleGroup) -> bool:
    return any(isinstance(x, Tensor) and x.is_floating_point() for x in pytree.tree_leaves(group.inputs))


def blended(group: SampleGroup, generator: torch.Generator) -> SampleGroup:
    """Return a sample group of the same size with each sample blended with another one.

    Floats: x̃ = a x + (1 − a) x′, a ~ U(½, 1); pictures (N, C, H, W) are also shifted by a few pixels. Integers in
    rows (N, T, …), such as token ids and their mask: one stretch of T, up to half of it and the same in all tensors,
    is taken from x′. Tensors without samples on dim 0, and masks of −∞, stay as they are.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al., "CutMix:
        Regularization Strategy to Train Strong Classifiers with Localizable Features", arXiv:1905.04899, for stretches;
        here the dense network's outputs take the place of blended labels.
    """
    other = torch.randperm(group.count, generator=generator)
    share = 0.5 + 0.5 * torch.rand(group.count, generator=generator)
    length, start = torch.rand(2, group.count, generator=generator)

    def blend(x: Tensor) -> Tensor:
        if not x.dim() or len(x) != group.count or x.is_complex():
            return x
        if x.is_floating_point():
            if bool(x.isinf().any()):
                return x
            a = share.to(x).view(-1, *[1] * (x.dim() - 1))
            mixed = a * x + (1 - a) * x[other.to(x.device)]
            return _shifted(mixed, generator) if x.dim() == 4 else mixed
        return _exchanged(x, other, length, start) if x.dim() > 1 else x

    return SampleGroup(pytree.tree_map_only(Tensor, blend, group.inputs), group.count, group.role)


def _exchanged(x: Tensor, other: Tensor, length: Tensor, start: Tensor) -> Tensor:
    """Replace a stretch of dim 1 by that of the other sample; length and start are shares, equal for all tensors."""
    places = x.shape[1]
    reach = (length * (places // 2 + 1)).floor()
    first = (start * (places - reach + 1)).floor()
    at = torch.arange(places)
    inside = (at >= first[:, None]) & (at < (first + reach)[:, None])
    return torch.where(inside.to(x.device).view(*inside.shape, *[1] * (x.dim() - 2)), x[other.to(x.device)], x)


def _shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every picture (C, H, W) by a few pixels; pixels that leave at one edge enter at the other."""
    reach = [max(1, side // _SHIFT) for side in pictures.shape[2:]]
    shifted = []
    for picture in pictures:
        shifts = [int(torch.randint(-r, r + 1, (1,), generator=generator)) for r in reach]
        shifted.append(picture.roll(shifts, (1, 2)))
    return torch.stack(shifted)
