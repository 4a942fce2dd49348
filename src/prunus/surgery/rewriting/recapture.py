"""Capture a model again: at other sizes of its inputs (one sample more, other sequence lengths), and in training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import PrunusError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.ir import INPUT, TENSOR, Graph
from prunus.surgery.rewriting.symbolic_sizes import Growth, Variation
from prunus.surgery.rewriting.training_program import Training, may_switch, training_of


@dataclass(slots=True)
class FurtherCaptures:
    """Captures of the original that rewritten forwards need; each is made on demand, and once.

    Args:
        model: the original.
        graph: its program.
        example_inputs: the inputs of the first capture.
    """

    model: nn.Module
    graph: Graph
    example_inputs: Any
    _growth: Growth | None = field(default=None, repr=False)
    _training: Training | None = field(default=None, repr=False)

    def growth(self) -> Growth:
        """Return the program at other sizes of its inputs."""
        if self._growth is None:
            self._growth = growth(self.model, self.graph, self.example_inputs)
        return self._growth

    def training(self, paths: Collection[str]) -> Training:
        """Return the differences in training; none if no forward of these modules may switch."""
        if self._training is None:
            modules = dict(self.model.named_modules(remove_duplicate=False))
            if not any(may_switch(modules[path]) for path in paths if path in modules):
                return Training()
            self._training = training_of(self.model, self.graph, self.example_inputs)
        return self._training


@dataclass(frozen=True, slots=True)
class _Group:
    """Dims of the inputs, as (leaf, dim), that change together from ``size`` to one of ``others``."""

    name: str
    places: tuple[tuple[int, int], ...]
    size: int
    others: tuple[int, ...]


def growth(model: nn.Module, graph: Graph, example_inputs: Any) -> Growth:
    """Capture ``model`` once more for every dim of its inputs that may vary: the batch, and dim 1 of sequences.

    Sequences are integers (B, T) and floats (B, T, C). Inputs of one length grow one by one if each can; otherwise they
    grow together with every dim of that size, such as masks. A dim stays static if the model fails at another size, or
    if the program there is not the same op by op.

    Args:
        model: the original.
        graph: its program.
        example_inputs: the inputs of the first capture.
    """
    leaves, spec = pytree.tree_flatten(split_inputs(example_inputs))
    inputs = _Inputs(model, graph, leaves, spec)
    others: list[Variation] = []
    static: list[str] = []
    for alone, together in [*_batch(leaves), *_lengths(leaves)]:
        results = inputs.at_other_sizes(alone, together)
        others += [x for x in results if isinstance(x, Variation)]
        static += [x for x in results if isinstance(x, str)]
    return Growth(graph, tuple(others), tuple(static))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A model, its program and the flat inputs of its capture."""

    model: nn.Module
    graph: Graph
    leaves: Sequence[Any]
    spec: Any

    def at_other_sizes(self, alone: Sequence[_Group], together: _Group | None) -> list[Variation | str]:
        """Return the program with each group grown; with all grown at once if one cannot grow alone."""
        results: list[Variation | str] = []
        for group in alone:
            results.append(self.at_another_size(group))
            if together is not None and isinstance(results[-1], str):
                joint = self.at_another_size(together)
                if isinstance(joint, Variation):
                    return [joint]
                together = None
        return results

    def at_another_size(self, group: _Group) -> Variation | str:
        """Return the program at the first other size that the model accepts, or the reason why there is none."""
        for size in group.others:
            try:
                other = self._capture(group, size)
            except PrunusError:
                continue
            difference = _misaligned(self.graph, other)
            return f"{group.name} is static: at {size}, {difference}." if difference else Variation(group.name, other)
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
    """Return the number of samples in the flat inputs of a call; 0 if there is no tensor."""
    return next((x.shape[0] for x in leaves if isinstance(x, torch.Tensor) and x.dim()), 0)


def _lengths(leaves: Sequence[Any]) -> Iterator[_Choice]:
    """Yield for each sequence length the groups of single sequences, and the group of all dims that share it."""
    tensors = {i: x for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)}
    sequences = {i: x.shape[1] for i, x in tensors.items() if x.dim() == (3 if _is_float(x) else 2) and x.shape[1] > 1}
    for size in dict.fromkeys(sequences.values()):
        # The first size is far from a multiple, so that a rounded share of the length shows; the others suit models
        # whose tables end before that.
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
    """Yield each sequence length among flat inputs, with the (leaf, dim)s that have it."""
    for alone, together in _lengths(leaves):
        places = together.places if together is not None else tuple(p for g in alone for p in g.places)
        yield alone[0].size, places


def _is_float(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _may_be_a_length(x: torch.Tensor, dim: int, batch: int) -> bool:
    """Return False for the batch, dim 0 except in a mask (T, T), and for the features of (B, T, C)."""
    if dim == 0:
        return x.dim() == 2 and x.shape[0] == x.shape[1] != batch
    return not (x.dim() == 3 and _is_float(x) and dim == 2)


def _misaligned(a: Graph, b: Graph) -> str:
    """Describe the first place at which two programs differ in ops or calls; return "" if there is none."""
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
