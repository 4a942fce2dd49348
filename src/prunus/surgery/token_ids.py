"""Ids, inputs that are positions of a cut dim: replace removed ids by kept ones, and renumber for the cut model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling, Keep

_Call = tuple[tuple[Any, ...], dict[str, Any]]
_Change = Callable[[str, torch.Tensor], torch.Tensor]


def renumbered(coupling: Coupling, keep: Keep, source: str, value: torch.Tensor) -> torch.Tensor:
    """Return a tensor of positions, renumbered for the cut model; negative ones count from the end, as before.

    Args:
        coupling: the analysis.
        keep: the kept units.
        source: the input or constant, a name in ``coupling.ids``.
        value: kept positions.
    """
    mask = coupling.mask(coupling.ids[source], keep)
    if mask.all():
        return value
    rank = torch.from_numpy(np.cumsum(mask) - 1).to(value.device)
    places = value.long()
    new = torch.where(places < 0, rank[places] - int(mask.sum()), rank[places])
    return new.to(value.dtype)


def cut_indices(coupling: Coupling, keep: Keep, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a constant index for the cut model: without removed positions, and renumbered."""
    for dim, expr in enumerate(coupling.tensors[name]):
        index = np.flatnonzero(coupling.mask(expr, keep))
        value = value.index_select(dim, torch.from_numpy(index).to(value.device))
    return renumbered(coupling, keep, name, value)


def kept_inputs(coupling: Coupling, keep: Keep, example_inputs: Any) -> _Call:
    """Return a call of the original in which every removed id is replaced by a kept one."""

    def replace(source: str, value: torch.Tensor) -> torch.Tensor:
        mask = coupling.mask(coupling.ids[source], keep)
        kept = torch.from_numpy(np.flatnonzero(mask)).to(value.device)
        stays = torch.from_numpy(mask).to(value.device)[value.long()]
        return torch.where(stays, value.long(), kept[value.long() % len(kept)]).to(value.dtype)

    return _mapped(coupling, keep, split_inputs(example_inputs), replace)


def cut_inputs(coupling: Coupling, keep: Keep, example_inputs: Any) -> _Call:
    """Return the call of `kept_inputs` with ids renumbered for the cut model."""
    call = kept_inputs(coupling, keep, example_inputs)
    return _mapped(coupling, keep, call, lambda source, value: renumbered(coupling, keep, source, value))


def _mapped(coupling: Coupling, keep: Keep, call: _Call, change: _Change) -> _Call:
    leaves, spec = pytree.tree_flatten(call)
    names = iter(coupling.graph.inputs)
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, torch.Tensor):
            continue
        name = next(names, "")
        if name in coupling.ids and not coupling.mask(coupling.ids[name], keep).all():
            leaves[i] = change(name, leaf)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return args, kwargs
