"""Windows of positions: the weights with which layers read a map or a sequence position by position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.errors import BudgetError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, Node, Ref, refs_in
from prunus.graph.rules.context import base_name
from prunus.masks.window import InputPositions
from prunus.masks.window_option import Positions

_FLATTENS = ("flatten", "view", "reshape", "_unsafe_view")


def position_windows(analysis: Analysis, window: Positions, names: Iterable[str]) -> dict[str, InputPositions]:
    """Return name → windows of positions, for the weights that belong to positions; others are left out.

    A linear layer behind a flatten has inputs of its own for each position of the map (N, C, *P) or the sequence
    (N, T, D): a window is all its weights on a rectangle of positions. A parameter (1, T, D), such as a position
    embedding, has a row for each position. Convolutions and the layers of a sequence share their weights between
    positions, so no mask can express a window of them there.

    Args:
        analysis: the network.
        window: the sides.
        names: names of the maskable weights.

    Raises:
        BudgetError: no weight belongs to positions.
    """
    wanted, graph = set(names), analysis.coupling.graph
    found: dict[str, InputPositions] = {}
    for node in graph.nodes:
        name = _linear_weight(graph, node)
        place = _read_positions(analysis.coupling, node) if name in wanted else None
        if name is not None and place is not None:
            found[name] = InputPositions(window.rows, window.columns, place)
    for name in wanted - found.keys():
        shape = graph.tensors[name].shape
        if len(shape) == 3 and shape[0] == 1 and not name.rpartition(".")[2].startswith("weight"):
            found[name] = InputPositions(window.rows, window.columns, _grid((shape[1],)))
    if not found:
        raise BudgetError(
            f"windows of {window.rows}×{window.columns} positions find no weight that belongs to positions: the "
            "network has no linear layer behind a flatten and no position embedding. Use tiles, kernels or units."
        )
    return {name: found[name] for name in names if name in found}


def _linear_weight(graph: Graph, node: Node) -> str | None:
    """Return the name of the weight of a linear node, else None."""
    if base_name(node.op) != "linear":
        return None
    refs = list(refs_in(node.args.get("weight")))
    return graph.node(refs[0].node).tensor or None if refs else None


def _read_positions(coupling: Coupling, node: Node) -> Tensor | None:
    """Return the position of every input of a linear node that reads a flattened map; None where it reads none.

    Shapes: → (I, 2), int64.
    """
    graph, (value, *_) = coupling.graph, list(refs_in(node.args.get("input")))
    while len(graph.meta(value).shape) == 2:
        source = graph.node(value.node)
        refs = list(refs_in(source.args))
        if not refs:
            return None
        before = graph.meta(refs[0]).shape
        if base_name(source.op) in _FLATTENS and len(before) > 2:
            whole = before[0] == graph.meta(value).shape[0] and math.prod(before[1:]) == graph.meta(value).shape[1]
            return _places(coupling, refs[0]) if whole else None
        if before != graph.meta(value).shape:
            return None
        value = refs[0]
    return None


def _places(coupling: Coupling, value: Ref) -> Tensor | None:
    """Return the position of every element of a sample of a value. Shapes: → (elements, 2), int64."""
    shape = coupling.graph.meta(value).shape
    channel = _channel_dim(coupling, value)
    sides = [size for dim, size in enumerate(shape) if dim not in (0, channel)]
    if math.prod(sides) == 1:
        return None
    grid = _grid(tuple(sides)).reshape(*sides, 2).unsqueeze(channel - 1)
    return grid.expand(*shape[1:], 2).reshape(-1, 2)


def _channel_dim(coupling: Coupling, value: Ref) -> int:
    """Return the dim of the units: the one on which parameters lie; else that of images, or the last of a sequence."""
    exprs = coupling.values[value]
    known: Mapping[object, bool] = {expr: True for dims in coupling.tensors.values() for expr in dims}
    dims = [dim for dim in range(1, len(exprs)) if exprs[dim] in known]
    return dims[0] if dims else 1 if len(exprs) > 3 else len(exprs) - 1


def _grid(sides: tuple[int, ...]) -> Tensor:
    """Return row and column of every position; leading dims count as rows. Shapes: → (positions, 2), int64."""
    columns = sides[-1]
    number = torch.arange(math.prod(sides))
    return torch.stack([number // columns, number % columns], 1)
