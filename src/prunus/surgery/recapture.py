"""Capture a model again at other sizes of its inputs: one sample more, other sequence lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PrunusError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.ir import INPUT, TENSOR, Graph
from prunus.surgery.symbolic_sizes import Growth, Variation


@dataclass(frozen=True, slots=True)
class _Group:
    """Dims of the inputs, as (leaf, dim), that grow together from one size to one of several others."""

    name: str
    places: tuple[tuple[int, int], ...]
    size: int
    others: tuple[int, ...]


def growth(model: nn.Module, graph: Graph, example_inputs: Any) -> Growth:
    """Capture ``model`` once more for every dim of its inputs that may vary: the batch, and dim 1 of sequences.

    Sequences are integers (B, T) and floats (B, T, C). Inputs of one length grow one by one where each can, else
    together with every dim of that size, such as masks. A dim stays static where the program at another size fails or
    does not line up op by op.

    Args:
        model: the original.
        graph: its program.
        example_inputs: what it was captured with.
    """
    leaves, spec = pytree.tree_flatten(split_inputs(example_inputs))
    inputs = _Inputs(model, graph, leaves, spec)
    others: list[Variation] = []
    static: list[str] = []
    for alone, together in [*_batch(leaves), *_lengths(leaves)]:
        found = inputs.at_other_sizes(alone, together)
        others += [x for x in found if isinstance(x, Variation)]
        static += [x for x in found if isinstance(x, str)]
    return Growth(graph, tuple(others), tuple(static))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A model, its program and the flat inputs it was captured with."""

    model: nn.Module
    graph: Graph
    leaves: Sequence[Any]
    spec: Any

    def at_other_sizes(self, alone: Sequence[_Group], together: _Group | None) -> list[Variation | str]:
        """Return the program with each group grown; with all of them grown at once where one cannot grow alone."""
        found: list[Variation | str] = []
        for group in alone:
            found.append(self.at_another_size(group))
            if together is not None and isinstance(found[-1], str):
                joint = self.at_another_size(together)
                if isinstance(joint, Variation):
                    return [joint]
                together = None
        return found

    def at_another_size(self, group: _Group) -> Variation | str:
        """Return the program at the first other size at which the model runs, or why there is none."""
        for size in group.others:
            try:
                other = self._capture(group, size)
            except PrunusError:
                continue
            parted = _misaligned(self.graph, other)
            return f"{group.name} is static: at {size}, {parted}." if parted else Variation(group.name, other)
        sizes = ", ".join(map(str, group.others))
        return f"{group.name} is static: the model fails on other sizes ({sizes})."

    def _capture(self, group: _Group, size: int) -> Graph:
        leaves = list(self.leaves)
        for i, dim in group.places:
            index = torch.arange(size, device=leaves[i].device) % group.size
            leaves[i] = leaves[i].index_select(dim, index)
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return capture(self.model, args or kwargs, method="record" if "fake" in self.graph.how else "run")


_Choice = tuple[list[_Group], "_Group | None"]


def _batch(leaves: Sequence[Any]) -> Iterator[_Choice]:
    size = batch_size(leaves)
    if size:
        places = tuple(
            (i, 0) for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.dim() and x.shape[0] == size
        )
        yield [_Group(f"dim 0 of the inputs (size {size})", places, size, (size + 1,))], None


def batch_size(leaves: Sequence[Any]) -> int:
    """Return the number of samples in the flat inputs of a call; 0 where there is no tensor."""
    return next((x.shape[0] for x in leaves if isinstance(x, torch.Tensor) and x.dim()), 0)


def _lengths(leaves: Sequence[Any]) -> Iterator[_Choice]:
    """Yield for each sequence length what may grow: each sequence alone, or else everything that shares it."""
    tensors = {i: x for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)}
    sequences = {i: x.shape[1] for i, x in tensors.items() if x.dim() == (3 if _is_float(x) else 2) and x.shape[1] > 1}
    for size in dict.fromkeys(sequences.values()):
        # Far from a multiple, so that a rounded share of the length shows; nearer where a table ends before that.
        sizes = (2 * size + 3, size + 1, size - 1)
        alone = [((i, 1),) for i, own in sequences.items() if own == size]
        shared = tuple(
            (i, d)
            for i, x in tensors.items()
            for d in range(x.dim())
            if x.shape[d] == size and _may_be_a_length(x, d, batch_size(leaves))
        )
        joint = None if [shared] == alone else _Group(f"the sequence length (size {size})", shared, size, sizes)
        yield (
            [
                _Group(f"dim 1 of input {p[0][0]} (size {size})", p, size, sizes if joint is None else sizes[:1])
                for p in alone
            ],
            joint,
        )


def input_lengths(leaves: Sequence[Any]) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Yield each length of the sequences among flat inputs, with the (leaf, dim)s that share it."""
    for alone, together in _lengths(leaves):
        places = together.places if together is not None else tuple(p for g in alone for p in g.places)
        yield alone[0].size, places


def _is_float(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _may_be_a_length(x: torch.Tensor, dim: int, batch: int) -> bool:
    """Dim 0 is the batch, except in a mask (T, T); the last dim of features (B, T, C) is no length."""
    if dim == 0:
        return x.dim() == 2 and x.shape[0] == x.shape[1] != batch
    return not (x.dim() == 3 and _is_float(x) and dim == 2)


def _misaligned(a: Graph, b: Graph) -> str:
    """Say where two programs are not the same ops in the same calls; empty where they are."""
    one, two = ([n for n in g.nodes if n.op not in (INPUT, TENSOR)] for g in (a, b))
    for x, y in zip(one, two, strict=False):
        if (x.name, x.op) != (y.name, y.op):
            return f"{y.op} takes the place of {x.op} ({a.where(x)})"
        if [m and len(m.shape) for m in x.outputs] != [m and len(m.shape) for m in y.outputs]:
            return f"{x.op} has other dims ({a.where(x)})"
    if len(one) != len(two):
        return f"there are {len(two)} ops, not {len(one)}"
    same = [(n.name, n.tensor) for n in a.nodes] == [(n.name, n.tensor) for n in b.nodes]
    return (
        "" if same and [c.path for c in a.calls] == [c.path for c in b.calls] else "other modules or tensors are used"
    )


__all__ = ["Growth", "Variation", "growth"]
