"""Made-up samples beside the real ones: the dense network answers anything, so anything near the data can be fitted."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.repairs.samples import Lane
from prunus.repairs.walking import Route

COPIES = 2
"""Made-up lanes for each real one."""
_SHIFT = 16  # a picture moves by up to this part of its side


def with_blends(route: Route, copies: int = COPIES) -> Route:
    """Return the route with blended lanes added; held lanes stay as they are and judge on real samples alone."""
    generator = torch.Generator().manual_seed(route.seed)
    made = [
        blended(lane, generator)
        for _ in range(copies)
        for lane in route.lanes
        if lane.role != "held" and _has_floats(lane)
    ]
    return replace(route, lanes=(*route.lanes, *made))


def _has_floats(lane: Lane) -> bool:
    return any(isinstance(x, Tensor) and x.is_floating_point() for x in pytree.tree_leaves(lane.inputs))


def blended(lane: Lane, generator: torch.Generator) -> Lane:
    """Return a lane of as many samples, each blended with another one.

    Floats: x̃ = a x + (1 − a) x′, a ~ U(½, 1); pictures (N, C, H, W) are moved by a few places as well. Whole numbers in
    rows (N, T, …), such as ids and the mask beside them: one stretch of T, of up to half of it and the same for all of
    them, is that of x′. What has no samples on dim 0, and masks of −∞, stay.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al., "CutMix:
        Regularization Strategy to Train Strong Classifiers with Localizable Features", arXiv:1905.04899, for stretches;
        here the dense network's own answers take the place of blended labels.
    """
    other = torch.randperm(lane.count, generator=generator)
    share = 0.5 + 0.5 * torch.rand(lane.count, generator=generator)
    length, start = torch.rand(2, lane.count, generator=generator)

    def blend(x: Tensor) -> Tensor:
        if not x.dim() or len(x) != lane.count or x.is_complex():
            return x
        if x.is_floating_point():
            if bool(x.isinf().any()):
                return x
            a = share.to(x).view(-1, *[1] * (x.dim() - 1))
            mixed = a * x + (1 - a) * x[other.to(x.device)]
            return _moved(mixed, generator) if x.dim() == 4 else mixed
        return _exchanged(x, other, length, start) if x.dim() > 1 else x

    return Lane(pytree.tree_map_only(Tensor, blend, lane.inputs), lane.count, lane.role)


def _exchanged(x: Tensor, other: Tensor, length: Tensor, start: Tensor) -> Tensor:
    """Take one stretch of dim 1 from the other sample; length and start are shares, the same for all tensors."""
    places = x.shape[1]
    reach = (length * (places // 2 + 1)).floor()
    first = (start * (places - reach + 1)).floor()
    at = torch.arange(places)
    inside = (at >= first[:, None]) & (at < (first + reach)[:, None])
    return torch.where(inside.to(x.device).view(*inside.shape, *[1] * (x.dim() - 2)), x[other.to(x.device)], x)


def _moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Move every picture (C, H, W) by a few places, round the edge."""
    reach = [max(1, side // _SHIFT) for side in pictures.shape[2:]]
    moved = []
    for picture in pictures:
        shifts = [int(torch.randint(-r, r + 1, (1,), generator=generator)) for r in reach]
        moved.append(picture.roll(shifts, (1, 2)))
    return torch.stack(moved)
