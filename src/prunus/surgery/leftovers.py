"""Copy a module that has been run: what a forward left behind must not keep it from being copied."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def copied(model: nn.Module, replaced: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a module; objects whose ``id`` is in ``replaced`` are exchanged for the given ones.

    Attributes that carry a history (the weight of a `torch.nn.utils.prune` module after a forward) are detached:
    torch refuses to copy them as they are.
    """
    memo = dict(replaced or {})
    for module in model.modules():
        for kept in module.__dict__.values():
            if isinstance(kept, torch.Tensor):
                if not kept.is_leaf:
                    memo.setdefault(id(kept), kept.detach().clone())
            elif not kept and type(kept) in (OrderedDict, dict, set):
                # Every module holds a dozen, for hooks and names; `deepcopy` takes one apart slower than a tensor.
                memo.setdefault(id(kept), type(kept)())
    return copy.deepcopy(model, memo)
