"""Copy a module that has been run, with the tensors and objects that its forward left in it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def copied(model: nn.Module, replaced: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a module; objects whose ``id`` is in ``replaced`` are replaced by the given ones.

    Attributes with an autograd history (the weight of a `torch.nn.utils.prune` module after a forward) are detached,
    because torch refuses to copy them otherwise.
    """
    memo = dict(replaced or {})
    for module in model.modules():
        for kept in module.__dict__.values():
            if isinstance(kept, torch.Tensor):
                if not kept.is_leaf:
                    memo.setdefault(id(kept), kept.detach().clone())
            elif not kept and type(kept) in (OrderedDict, dict, set):
                # Every module has a dozen empty ones, for hooks and names; `deepcopy` needs longer for one than for a
                # tensor.
                memo.setdefault(id(kept), type(kept)())
    made = deep_copy(model, memo)
    _attach_again_(model, made)
    return made


_PLAIN = (type(None), bool, int, float, str, torch.Tensor, nn.Module)
_OF_TORCH = frozenset(vars(nn.Module()))


def deep_copy(model: nn.Module, memo: Mapping[int, Any] | None = None) -> nn.Module:
    """Deep-copy a model; attributes that cannot be copied (a lock, a generator, a file) are shared with the copy.

    Args:
        model: any module.
        memo: the memo of `copy.deepcopy`.
    """
    known = dict(memo or {})
    try:
        return copy.deepcopy(model, dict(known))
    except TypeError:
        pass
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _OF_TORCH or isinstance(value, _PLAIN) or id(value) in known:
                continue
            try:
                copy.deepcopy(value, dict(known))
            except TypeError:
                known[id(value)] = value
    return copy.deepcopy(model, known)


def _attach_again_(model: nn.Module, made: nn.Module) -> None:
    """Restore attributes that a class drops from its copies, such as the trainer that a module is attached to."""
    for old, new in zip(model.modules(), made.modules(), strict=False):
        owner = getattr(type(old).__getstate__, "__module__", None) or "torch"  # object's has none
        if not owner.startswith("torch") and type(old) is type(new):
            lost = {k: v for k, v in vars(old).items() if v is not None and vars(new).get(k) is None}
            vars(new).update(lost)
