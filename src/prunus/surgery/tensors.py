"""Slice the tensors of a model, and copy a model around new tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan


def cut_tensors(model: nn.Module, coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Return every tensor of the cut model by its canonical name: masked, sliced, detached copies."""
    named = named_tensors(model)
    values = {n: named[n].detach() for n, i in coupling.graph.tensors.items() if i.kind != "constant"}
    return slice_tensors(values | dict(coupling.graph.constants), coupling, plan)


def slice_tensors(values: Mapping[str, torch.Tensor], coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Mask and slice a set of tensors."""
    out: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        sliced = value
        mask = plan.masks.get(name)
        if mask is not None:
            sliced = sliced * torch.from_numpy(np.ascontiguousarray(mask)).to(value.device, value.dtype)
        for dim, expr in enumerate(coupling.tensors[name]):
            kept = coupling.mask(expr, plan.axes)
            if not kept.all():
                sliced = sliced.index_select(dim, torch.from_numpy(np.flatnonzero(kept)).to(value.device))
        out[name] = sliced
    return out


def copy_with(model: nn.Module, graph: Graph, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """Deep-copy a model while replacing its tensors; ties, flags and references inside modules follow."""
    memo: dict[int, Any] = {}
    made: dict[str, torch.Tensor] = {}
    tied = set(graph.aliases.values())
    for name, tensor in named_tensors(model).items():
        canonical = graph.aliases.get(name, name)
        value = values[canonical]
        if canonical in tied or value.data_ptr() != tensor.data_ptr():
            # Two parameters may share memory without being one object: they become one.
            memo[id(tensor)] = made[canonical] = made.get(canonical, _like(tensor, value))
    for module in model.modules():
        for kept in module.__dict__.values():
            # What a forward left behind: torch refuses to copy tensors that carry a history.
            if isinstance(kept, torch.Tensor) and not kept.is_leaf:
                memo.setdefault(id(kept), kept.detach().clone())
    return copy.deepcopy(model, memo)


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    return value.clone()
