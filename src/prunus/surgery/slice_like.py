"""Cut a tensor that belongs to a parameter, such as its momentum or average, as the plan cut that parameter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from prunus.errors import PlanError
from prunus.plans import Plan


def kept_indices(plan: Plan, name: str, old: torch.Tensor, new: torch.Tensor) -> Mapping[int, np.ndarray]:
    """Return dim → kept indices of a tensor, after checking that they cut ``old`` to the shape of ``new``.

    Raises:
        PlanError: they cut it to another shape.
    """
    keep = plan.keep.get(name, {})
    outside = any(d >= old.dim() or (len(i) and i.max() >= old.shape[d]) for d, i in keep.items())
    expected = tuple(len(keep[d]) if d in keep else n for d, n in enumerate(old.shape))
    if outside or tuple(new.shape) != expected:
        raise PlanError(
            f"{name!r} has shape {tuple(new.shape)} in the cut model; the plan cuts {tuple(old.shape)} to {expected}. "
            "Give the model, the plan and the cut model that belong together."
        )
    return keep


def masked(value: torch.Tensor, plan: Plan, name: str) -> torch.Tensor:
    """Return a tensor of the original shape with the plan's masked weights at zero."""
    mask = plan.masks.get(name)
    if mask is None:
        return value
    return value * torch.from_numpy(np.ascontiguousarray(mask)).to(value.device, value.dtype)


def picked(value: torch.Tensor, dim: int, index: np.ndarray) -> torch.Tensor:
    """Return a tensor with only the kept positions of one dim."""
    return value.index_select(dim, torch.from_numpy(np.asarray(index, np.int64)).to(value.device))
