"""Variants of the example call: another batch, another length, another image size, with masks, with labels."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.outcome.calls.pair import NotTaken, Pair
from prunus.surgery.rewriting.recapture import batch_size, input_lengths

Call = tuple[tuple[Any, ...], dict[str, Any]]
_STEP = 32

MASKS = ("attention_mask", "padding_mask", "key_padding_mask", "src_key_padding_mask")
"""Argument names of a mask of shape (batch, length)."""


def with_batch(pair: Pair, size: int) -> Call:
    """Return the call with another number of samples.

    Raises:
        NotTaken: no input has a batch dim.
    """
    leaves, spec = pair.example()
    own = batch_size(leaves)
    if not own:
        raise NotTaken("no input has a batch")
    places = [(i, 0) for i, x in _tensors(leaves) if x.dim() and x.shape[0] == own]
    return _call(_resized(leaves, places, own, size), spec)


def other_batches(pair: Pair) -> list[int]:
    """Return two batch sizes other than that of the example call; 1 and 3 where possible."""
    own = batch_size(pair.example()[0])
    return [n for n in (1, 3, 2) if n != own][:2]


def with_length(pair: Pair, longer: bool) -> Call:
    """Return the call with another length of its first sequence.

    Raises:
        NotTaken: no input looks like a sequence.
    """
    leaves, spec = pair.example()
    for size, places in input_lengths(leaves):
        new = size + 3 if longer else max(2, size // 2 + 1)
        if new != size:
            return _call(_resized(leaves, places, size, new), spec)
    raise NotTaken("no input looks like a sequence")


def with_image_size(pair: Pair) -> Call:
    """Return the call with images of about half the side, in steps of 32 for large ones.

    Raises:
        NotTaken: no input looks like an image.
    """
    leaves, spec = pair.example()
    changed = list(leaves)
    for i, x in _tensors(leaves):
        if x.dim() in (4, 5) and x.is_floating_point():
            changed[i] = x[..., : _half(x.shape[-2]), : _half(x.shape[-1])]
    if all(a is b for a, b in zip(changed, leaves, strict=True)):
        raise NotTaken("no input looks like an image")
    return _call(changed, spec)


def _half(side: int) -> int:
    half = (side + 1) // 2
    return half if side <= 2 * _STEP else max(2, half // _STEP) * _STEP


def with_mask(model: nn.Module, pair: Pair, dtype: torch.dtype) -> Call:
    """Return the call with a padded mask: the last sample ends two positions before the others.

    Raises:
        NotTaken: the forward takes no such mask.
    """
    name = next((n for n in MASKS if n in forward_names(model)), None)
    if name is None:
        raise NotTaken("its forward takes no padded mask")
    tensors = [x for _, x in _tensors(pair.example()[0])]
    like = next((x for x in tensors if x.dim() == 2 and not x.is_floating_point()), None)
    like = next((x for x in tensors if x.dim() == 3), None) if like is None else like
    if like is None or like.shape[1] < 3:
        raise NotTaken("no input looks like a sequence")
    kept = torch.ones(like.shape[:2], device=like.device)
    kept[-1, -2:] = 0
    if name != "attention_mask":
        kept = 1 - kept  # torch's own convention: True marks padding
    return pair.args, {**pair.kwargs, name: pair.wide(kept.to(dtype))}


def labels_for(outputs: Any) -> Iterator[torch.Tensor]:
    """Yield labels that may fit a network with these outputs, the likeliest first.

    Raises:
        NotTaken: it returns no logits.
    """
    logits = outputs.get("logits") if hasattr(outputs, "get") else None
    if not isinstance(logits, torch.Tensor) or logits.dim() < 2:
        raise NotTaken("it returns no logits")
    batch, classes, device = logits.shape[0], logits.shape[-1], logits.device
    if logits.dim() == 3:
        tokens = torch.arange(batch * logits.shape[1], device=device).reshape(batch, -1) % classes
        tokens[0, 0] = -100
        yield tokens
    yield torch.arange(batch, device=device) % classes
    yield torch.linspace(0.0, 1.0, batch * classes, device=device).reshape(batch, classes)
    yield torch.linspace(0.0, 1.0, batch, device=device)
    if logits.dim() == 4:
        yield (
            torch.arange(batch * logits.shape[2] * classes, device=device).reshape(batch, -1, classes) % logits.shape[1]
        )


def forward_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the arguments of a forward."""
    try:
        return frozenset(inspect.signature(type(model).forward).parameters)
    except (TypeError, ValueError):
        return frozenset()


def export_call(model: nn.Module, pair: Pair) -> tuple[Call, dict[str, Any]]:
    """Return a call of two samples or more for `torch.export`, and its dynamic dims: batch and lengths."""
    call: Call = (pair.args, pair.kwargs)
    if batch_size(pair.example()[0]) == 1:
        call = with_batch(pair, 2)
    leaves, spec = pytree.tree_flatten(call)
    own = batch_size(leaves)
    places = [place for _, shared in input_lengths(leaves) for place in shared]
    shapes: list[Any] = []
    for i, x in enumerate(leaves):
        free = {d for j, d in places if j == i}
        if isinstance(x, torch.Tensor) and x.dim() and x.shape[0] == own:
            free |= {0}
        shapes.append(dict.fromkeys(sorted(free), torch.export.Dim.AUTO) if isinstance(x, torch.Tensor) else None)
    args, kwargs = pytree.tree_unflatten(shapes, spec)
    return call, dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _tensors(leaves: Sequence[Any]) -> list[tuple[int, torch.Tensor]]:
    return [(i, x) for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]


def _resized(leaves: Sequence[Any], places: Sequence[tuple[int, int]], old: int, new: int) -> list[Any]:
    changed = list(leaves)
    for i, dim in places:
        changed[i] = changed[i].index_select(dim, torch.arange(new, device=changed[i].device) % old)
    return changed


def _call(leaves: list[Any], spec: Any) -> Call:
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return args, kwargs
