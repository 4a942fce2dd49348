"""Made-up samples beside the real ones: the dense network answers anything, so anything near the data can be fitted."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.repair.lanes import Lane
from prunus.repair.walking import Route

COPIES = 2
"""Made-up lanes for each real one."""
_SHIFT = 16  # a picture moves by up to this part of its side


def with_blends(route: Route, copies: int = COPIES) -> Route:
    """Return the route with blended lanes added; held lanes stay as they are and judge on real samples alone.

    x̃ = a x + (1 − a) x′, a ~ U(½, 1), x′ another sample of the lane; pictures are moved by a few places as well. What
    is not a float (ids, masks) stays.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412, for blends of inputs; here the
        dense network's own answers take the place of blended labels.
    """
    generator = torch.Generator().manual_seed(route.seed)
    made = [
        Lane(_blended(lane, generator), lane.count, lane.role)
        for _ in range(copies)
        for lane in route.lanes
        if lane.role != "held" and _has_floats(lane)
    ]
    return replace(route, lanes=(*route.lanes, *made))


def _has_floats(lane: Lane) -> bool:
    return any(isinstance(x, Tensor) and x.is_floating_point() for x in pytree.tree_leaves(lane.inputs))


def _blended(lane: Lane, generator: torch.Generator) -> object:
    other = torch.randperm(lane.count, generator=generator)
    share = 0.5 + 0.5 * torch.rand(lane.count, generator=generator)

    def blend(x: Tensor) -> Tensor:
        if not x.is_floating_point() or not x.dim() or len(x) != lane.count:
            return x
        a = share.to(x).view(-1, *[1] * (x.dim() - 1))
        mixed = a * x + (1 - a) * x[other.to(x.device)]
        return _moved(mixed, generator) if x.dim() == 4 else mixed

    return pytree.tree_map_only(Tensor, blend, lane.inputs)


def _moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Move every picture (C, H, W) by a few places, round the edge."""
    reach = [max(1, side // _SHIFT) for side in pictures.shape[2:]]
    moved = []
    for picture in pictures:
        shifts = [int(torch.randint(-r, r + 1, (1,), generator=generator)) for r in reach]
        moved.append(picture.roll(shifts, (1, 2)))
    return torch.stack(moved)
