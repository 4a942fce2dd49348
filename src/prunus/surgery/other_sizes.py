"""The same model at other sizes of its inputs: what a proof is repeated on, where a forward takes any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PrunusError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.surgery.dynamic import batch_size, input_lengths

_STEP, _SMALLEST = 32, 64
"""Images go down in whole steps: strides of 32 are common."""


@dataclass(frozen=True, slots=True)
class Resized:
    """A model's analysis and inputs at another size; ``name`` says which."""

    name: str
    coupling: Coupling
    inputs: Any


def other_sizes(model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any) -> Iterator[Iterator[Resized]]:
    """Yield, for two other batch sizes and another length, the sizes to try, the first that runs being enough.

    A batch comes with smaller images first: it proves another size too, and costs less.

    Args:
        model: the original.
        coupling: its analysis.
        plan: whose axes have to be there.
        example_inputs: what it was captured with.
    """
    leaves, spec = pytree.tree_flatten(split_inputs(example_inputs))

    def analysed(choices: Iterable[tuple[str, list[Any]]]) -> Iterator[Resized]:
        for name, changed in choices:
            args, kwargs = pytree.tree_unflatten(changed, spec)
            inputs = kwargs if kwargs and not args else args
            found = _analysed(model, coupling, plan, inputs)
            if found is not None:
                yield Resized(name, found, inputs)

    small = _smaller_images(leaves)
    for size in _batches(batch_size(leaves)):
        choices = [(f"batch {size}", _batch(leaves, size))]
        if small is not None:
            choices.insert(0, (f"batch {size} of {small[1]}", _batch(small[0], size)))
        yield analysed(choices)
    for size, places in input_lengths(leaves):
        shorter = max(2, size // 2 + 1)
        if shorter != size:
            yield analysed([(f"length {shorter}", _resized(leaves, places, size, shorter))])


def _batches(own: int) -> list[int]:
    return [n for n in (1, 3, 2) if n != own][:2] if own else []


def _batch(leaves: Sequence[Any], size: int) -> list[Any]:
    own = batch_size(leaves)
    return _resized(leaves, [(i, 0) for i, x in _tensors(leaves) if x.dim() and x.shape[0] == own], own, size)


def _smaller_images(leaves: Sequence[Any]) -> tuple[list[Any], int] | None:
    """Return the inputs with images of half the side, in whole steps, and that side; None without large images."""
    changed, side = list(leaves), 0
    for i, x in _tensors(leaves):
        if x.dim() == 4 and x.is_floating_point() and min(x.shape[2:]) > _SMALLEST:
            sides = [max(_SMALLEST, n // 2 // _STEP * _STEP) for n in x.shape[2:]]
            changed[i], side = x[..., : sides[0], : sides[1]], sides[0]
    return (changed, side) if side else None


def _tensors(leaves: Sequence[Any]) -> list[tuple[int, torch.Tensor]]:
    return [(i, x) for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]


def _resized(leaves: Sequence[Any], places: Sequence[tuple[int, int]], old: int, new: int) -> list[Any]:
    changed = list(leaves)
    for i, dim in places:
        index = torch.arange(new, device=changed[i].device) % old
        changed[i] = changed[i].index_select(dim, index)
    return changed


def _analysed(model: nn.Module, coupling: Coupling, plan: Plan, inputs: Any) -> Coupling | None:
    """Return the analysis at another size; None where the model does not run or falls into other axes there."""
    try:
        graph = capture(model, inputs, method="record" if "fake" in coupling.graph.how else "run")
    except PrunusError:
        return None
    found = couple(graph, **coupling.options)
    alike = all(a in found.axes and found.axes[a].size == coupling.axes[a].size for a in plan.axes)
    joins = all(graph.find(d.join) is not None for d in plan.drops)
    held = {a: found.axes[a].atom for a in found.axes if a in plan.axes}
    return dataclasses.replace(found, axis_of={atom: a for a, atom in held.items()}) if alike and joins else None
