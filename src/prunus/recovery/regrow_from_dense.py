"""Regrowth: weights and units that a wider plan keeps again start with the dense network's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.errors import OptionError, PlanError, SelectorError, nearest
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record


@torch.no_grad()
def reseed_(
    model: nn.Module, dense: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, int]:
    """Set weights that were masked before and are kept now to the dense network's values; return their number by name.

    w ← w_dense  where after ∧ ¬before. Weights kept in both keep their trained values; masked ones stay zero.

    Args:
        model: changed in place; its tensors have the shapes of the dense network's.
        dense: the pretrained network.
        before, after: parameter name → mask, True = keep; a name that is missing keeps everything.

    Raises:
        SelectorError: a mask for a name that one of the networks does not have.
        OptionError: a mask, or a tensor of the dense network, of another shape; a mask that is not boolean.
    """
    ours, theirs = dict(model.named_parameters()), dict(dense.named_parameters())
    grown: dict[str, Tensor] = {}
    for name in dict.fromkeys([*before, *after]):
        for known in (ours, theirs):
            if name not in known:
                raise SelectorError(
                    f"masks name {name!r}, which is no parameter.{nearest(name, known)} Check the names."
                )
        whole = torch.ones(ours[name].shape, dtype=torch.bool, device=ours[name].device)
        was, now = (masks.get(name, whole) for masks in (before, after))
        if not ours[name].shape == theirs[name].shape == was.shape == now.shape:
            raise OptionError(
                f"{name!r} has shape {tuple(ours[name].shape)}, in the dense network {tuple(theirs[name].shape)}, its "
                f"masks {tuple(was.shape)} and {tuple(now.shape)}; all must be equal. For units use regrow."
            )
        if not was.dtype == now.dtype == torch.bool:
            raise OptionError(
                f"the masks of {name!r} are {was.dtype} and {now.dtype}; allowed: torch.bool, True = keep."
            )
        grown[name] = now.to(whole.device) & ~was.to(whole.device)
    for name, new in grown.items():
        ours[name][new] = theirs[name].to(ours[name])[new]
    return {name: int(new.sum()) for name, new in grown.items() if new.any()}


def regrow(
    small: nn.Module, plan: Plan, wider: Plan, dense: nn.Module, coupling: Coupling, example_inputs: Any
) -> nn.Module:
    """Return the network of a wider plan: shared weights as trained, the others as in the dense network.

    Args:
        small: cut by ``plan``, trained since or not; untouched.
        plan: the plan of the small network.
        wider: a plan that keeps at least as much: units, branches and weights may have come back.
        dense, coupling, example_inputs: the pretrained network, its analysis and one call of it.

    Raises:
        PlanError: the wider plan drops something that the small network still has, or plan and network do not fit.
    """
    _check_weights(plan, wider)
    grown, _ = cut_with_record(dense, coupling, wider, example_inputs)
    values = named_tensors(small)
    with torch.no_grad():
        for name, tensor in named_tensors(grown).items():
            value = values.get(name)
            if value is None:
                continue  # the tensor came back with a branch
            index = [_positions(name, dim, plan, wider, value, tensor) for dim in range(tensor.ndim)]
            if tensor.ndim:
                kept = torch.meshgrid(*(i.to(tensor.device) for i in index), indexing="ij")
                tensor[kept] = torch.where(_masked(plan, name, value), tensor[kept], value.to(tensor))
            else:
                tensor.copy_(value)
    return grown


def _check_weights(plan: Plan, wider: Plan) -> None:
    """Refuse a wider plan that masks weights which the small network still has."""
    for name, mask in wider.masks.items():
        lost = ~mask & plan.masks.get(name, np.ones_like(mask))
        for dim, index in plan.keep.get(name, {}).items():
            lost = lost.take(index, axis=dim)
        if lost.any():
            raise PlanError(
                f"the wider plan masks {int(lost.sum())} weights of {name!r} that the small network still has; it must "
                "keep all that the first plan keeps."
            )


def _positions(name: str, dim: int, plan: Plan, wider: Plan, value: Tensor, tensor: Tensor) -> Tensor:
    """Return the indices of the small network's positions in a dim of the wider one."""
    old, new = plan.keep.get(name, {}).get(dim), wider.keep.get(name, {}).get(dim)
    if old is None and new is None:
        positions = np.arange(tensor.shape[dim])
    else:
        assert old is not None or new is not None
        full = old if old is not None else np.arange(value.shape[dim])
        positions = full if new is None else np.searchsorted(new, full)
        if new is not None and not np.array_equal(new[np.minimum(positions, len(new) - 1)], full):
            raise PlanError(
                f"the wider plan removes positions of dim {dim} of {name!r} that the small network still has; "
                "it must keep all that the first plan keeps."
            )
    if len(positions) != value.shape[dim]:
        raise PlanError(
            f"{name!r} has {value.shape[dim]} positions in dim {dim}; its plan keeps {len(positions)}. "
            "Give the plan that the small network was cut by."
        )
    return torch.from_numpy(positions)


def _masked(plan: Plan, name: str, value: Tensor) -> Tensor:
    """Return a mask of the positions that the plan zeroed in a small tensor; they take the dense network's values."""
    mask = plan.masks.get(name)
    if mask is None:
        return torch.zeros_like(value, dtype=torch.bool)
    zeroed = torch.from_numpy(~mask)
    for dim, index in plan.keep.get(name, {}).items():
        zeroed = zeroed.index_select(dim, torch.from_numpy(index))
    return zeroed.to(value.device)
