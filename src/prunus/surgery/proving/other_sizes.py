"""The sizes of a proof: three batch sizes, and smaller images or shorter sequences in place of the example."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PrunusError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.surgery.rewriting.recapture import batch_size, input_lengths

_SIDES, _STEP = (48, 64), 32
"""Images are cropped to one of these sides, or to half their side in whole steps; strides of 32 are common."""
_LENGTH = 16
"""Sequences are cropped to this length."""
_MOST = 3
"""The largest batch of a proof, unless the call itself is run."""


@dataclass(frozen=True, slots=True)
class Size:
    """Inputs of another size.

    Attributes:
        name: the size of images or sequences in words; empty if they are as in the example.
        inputs: a call with the largest batch.
        batches: batch sizes of the proof, the largest first; empty for the example inputs themselves.
    """

    name: str
    inputs: Any
    batches: tuple[int, ...] = ()

    def described(self, batch: int) -> str:
        """Return a name for a call with this batch size; empty for the example inputs."""
        suffix = f" of {self.name}" if self.name else ""
        return f"batch {batch}{suffix}" if self.batches else ""

    def of_batch(self, batch: int) -> Size:
        """Return the first ``batch`` samples."""
        return Size(self.name, first_samples(self.inputs, batch), (batch,))


def proof_sizes(example_inputs: Any, compared: Collection[int], *, whole: bool) -> Iterator[list[Size]]:
    """Yield lists of sizes for a proof: the call itself and other batch sizes, three batch sizes in all.

    The proof tries the sizes of a list in order, until the model runs at one. Smaller images and shorter sequences come
    first: they prove another size too, and cost less.

    Args:
        example_inputs: the call.
        compared: the batch sizes that were run so far; read again for every list.
        whole: run the call as it is. If False, a smaller one may replace it.
    """
    leaves, spec = pytree.tree_flatten(split_inputs(example_inputs))
    own, itself = batch_size(leaves), Size("", example_inputs)
    every = tuple(range(_MOST, 0, -1)) if own else ()
    others = tuple(n for n in every if n != own)[:: 1 if own in every else 2]

    def sizes(variants: list[tuple[str, list[Any]]], batches: tuple[int, ...]) -> list[Size]:
        resized = []
        for name, changed in variants if batches else []:
            args, kwargs = pytree.tree_unflatten(_batch(changed, batches[0]), spec)
            resized.append(Size(name, kwargs if kwargs and not args else args, batches))
        return resized

    whole_size, smaller = [("", list(leaves))], [*_smaller_images(leaves), *_shorter(leaves)]
    yield sizes(smaller, others if whole else every)
    if whole and compared:
        yield [itself]
    elif not compared:
        yield [*sizes(whole_size, every if own in every or not whole else ()), itself]
    yield [*sizes(whole_size, others), *sizes([*smaller, *whole_size], others[1:])]


def first_samples(inputs: Any, batch: int) -> Any:
    """Return the first samples of a call."""
    leaves, spec = pytree.tree_flatten(inputs)
    return pytree.tree_unflatten(_batch(leaves, batch), spec)


def _smaller_images(leaves: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    images = {
        i: x for i, x in _tensors(leaves) if x.dim() == 4 and x.is_floating_point() and min(x.shape[2:]) > _SIDES[-1]
    }
    least = min((min(x.shape[2:]) for x in images.values()), default=0)
    variants = []
    for side in dict.fromkeys((*_SIDES, max(_SIDES[-1], least // 2 // _STEP * _STEP))) if images else ():
        changed = [x[..., :side, :side].contiguous() if i in images else x for i, x in enumerate(leaves)]
        variants.append((f"{side}×{side}", changed))
    return variants


def _shorter(leaves: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Return the inputs with all sequences cropped to 16, then all halved, then each length halved alone."""
    lengths = list(input_lengths(leaves))
    halves = {length: max(2, length // 2 + 1) for length, _ in lengths}
    rules = [
        dict.fromkeys(halves, _LENGTH),
        halves,
        *({k: n} for k, n in halves.items() if len(halves) > 1),
    ]
    variants: dict[str, list[Any]] = {}
    for rule in rules:
        changed, names = list(leaves), []
        for length, places in lengths:
            if rule.get(length, length) < length:
                changed = _resized(changed, places, length, rule[length])
                names.append(str(rule[length]))
        if names:
            variants.setdefault(f"length {' and '.join(names)}", changed)
    return list(variants.items())


def _batch(leaves: Sequence[Any], size: int) -> list[Any]:
    own = batch_size(leaves)
    return _resized(leaves, [(i, 0) for i, x in _tensors(leaves) if x.dim() and x.shape[0] == own], own, size)


def _tensors(leaves: Sequence[Any]) -> list[tuple[int, torch.Tensor]]:
    return [(i, x) for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]


def _resized(leaves: Sequence[Any], places: Sequence[tuple[int, int]], old: int, new: int) -> list[Any]:
    changed = list(leaves)
    for i, dim in places if old != new else ():
        index = torch.arange(new, device=changed[i].device) % old
        changed[i] = changed[i].index_select(dim, index)
    return changed


def analysed(model: nn.Module, coupling: Coupling, plan: Plan, inputs: Any) -> Coupling | None:
    """Return the analysis at another size; None if the model does not run there or has other axes."""
    try:
        graph = capture(model, inputs, method="record" if "fake" in coupling.graph.how else "run")
    except PrunusError:
        return None
    other = couple(graph, **coupling.options)
    alike = all(a in other.axes and other.axes[a].size == coupling.axes[a].size for a in plan.axes)
    joins = all(graph.find(d.join) is not None for d in plan.drops)
    axis_of = {other.axes[a].atom: a for a in other.axes if a in plan.axes}
    return dataclasses.replace(other, axis_of=axis_of) if alike and joins else None
