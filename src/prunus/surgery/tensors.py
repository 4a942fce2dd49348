"""Slice the tensors of a model, and copy a model around new tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.layout import Expr
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.surgery.copy_module import copied
from prunus.surgery.merging import with_merges
from prunus.surgery.token_ids import renumbered


def cut_tensors(model: nn.Module, coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Return every tensor of the cut model by its canonical name: merged, masked, sliced, detached copies."""
    named = named_tensors(model)
    values = {n: named[n].detach() for n, i in coupling.graph.tensors.items() if i.kind != "constant"}
    return slice_tensors(with_merges(values | dict(coupling.graph.constants), plan), coupling, plan)


def slice_tensors(values: Mapping[str, torch.Tensor], coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Return tensors by name, masked and sliced."""
    out: dict[str, torch.Tensor] = {}
    known: dict[Expr, np.ndarray | None] = {}
    for name, value in values.items():
        sliced = value
        mask = plan.masks.get(name)
        if mask is not None:
            sliced = sliced * torch.from_numpy(np.ascontiguousarray(mask)).to(value.device, value.dtype)
        for dim, expr in enumerate(coupling.tensors[name]):
            if expr not in known:
                kept = coupling.mask(expr, plan.axes)
                known[expr] = None if kept.all() else np.flatnonzero(kept)
            index = known[expr]
            if index is not None:
                sliced = sliced.index_select(dim, torch.from_numpy(index).to(value.device))
        out[name] = renumbered(coupling, plan.axes, name, sliced) if name in coupling.ids else sliced
    return out


def sliced_masks(plan: Plan) -> dict[str, torch.Tensor]:
    """Return the weight masks of a plan in the shapes of the cut model: name → bool tensor, True = kept."""
    out = {}
    for name, mask in plan.masks.items():
        value = torch.from_numpy(mask.copy())
        for dim, index in plan.keep.get(name, {}).items():
            value = value.index_select(dim, torch.from_numpy(index))
        out[name] = value
    return out


def copy_with(model: nn.Module, graph: Graph, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """Deep-copy a model and replace its tensors; ties, flags and references inside modules follow.

    Sliced tensors are used as they are; tensors that still share the model's memory are copied.
    """
    replaced: dict[int, Any] = {}
    made: dict[str, torch.Tensor] = {}
    tied = set(graph.aliases.values())
    for name, tensor in named_tensors(model).items():
        canonical = graph.aliases.get(name, name)
        value = values[canonical]
        own = value.data_ptr() == tensor.data_ptr()
        if canonical in tied or not own:
            # Two parameters may share memory without being one object; in the copy they are one.
            if canonical not in made:
                made[canonical] = _like(tensor, value.clone() if own else value)
            replaced[id(tensor)] = made[canonical]
    return copied(model, replaced)


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value
