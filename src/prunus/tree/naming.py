"""Readable, stable names for branches, taken from the modules whose parameters they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunus.graph.ir import Graph


def branch_names(graph: Graph, branches: Sequence[Sequence[str]], fallbacks: Sequence[str]) -> list[str]:
    """Name each branch by the innermost module around all its tensors.

    Where two branches share that module, the child with most parameters is added (``layer0.mlp`` beside
    ``layer0.attention``), and a number where the names are still equal.

    Args:
        graph: the graph, for the sizes of the tensors.
        branches: the tensor names of each branch.
        fallbacks: a name for each branch whose tensors have no module in common.
    """
    sizes = {name: _numel(info.shape) for name, info in graph.tensors.items()}
    short = [_common(tensors) or fallback for tensors, fallback in zip(branches, fallbacks, strict=True)]
    clashing = {name for name in short if short.count(name) > 1}
    names: list[str] = []
    for name, tensors in zip(short, branches, strict=True):
        longer = _heaviest(name, tensors, sizes) if name in clashing else name
        number, label = 1, longer
        while label in names:
            number += 1
            label = f"{longer}#{number}"
        names.append(label)
    return names


def _common(tensors: Sequence[str]) -> str:
    paths = [name.split(".")[:-1] for name in tensors]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _heaviest(base: str, tensors: Sequence[str], sizes: Mapping[str, int]) -> str:
    weights: dict[str, int] = {}
    for name in tensors:
        path = name.removeprefix(f"{base}.").split(".")
        if name.startswith(f"{base}.") and len(path) > 1:
            weights[path[0]] = weights.get(path[0], 0) + sizes[name]
    return f"{base}.{max(weights, key=lambda child: weights[child])}" if weights else base


def _numel(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
