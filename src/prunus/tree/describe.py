"""A table of the network's modules, before and after a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunus.graph.coupling import Coupling, Keep
from prunus.graph.ir import Graph
from prunus.graph.rules.context import base_name
from prunus.plans import Plan
from prunus.tree.removal import Readers, cut_edges

_UNITS_LAST = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding", "embedding_bag")


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module with parameters of its own, before and after.

    Attributes:
        name, kind: its path and the name of its class.
        units_before, units_after: number of output channels, neurons or features; 0 after where the module is dropped.
        params_before: number of scalars in its own parameters.
        nonzero_after: number of those that are neither removed nor masked.
        dropped: whether the plan removes the module whole.
    """

    name: str
    kind: str
    units_before: int
    units_after: int
    params_before: int
    nonzero_after: int
    dropped: bool


def structure_rows(coupling: Coupling, plan: Plan | None = None) -> tuple[ModuleRow, ...]:
    """Describe every module that has parameters of its own, in the order of the network.

    Units are counted on the output dim of the module's largest parameter. A tensor that several modules share is
    shown with the module after which it is named.

    Args:
        coupling: the analysed model.
        plan: the plan to show; None shows the model unpruned.
    """
    keep: Keep = plan.axes if plan is not None else {}
    masks: Mapping[str, np.ndarray] = plan.masks if plan is not None else {}
    readers = Readers.of(coupling.graph)
    edges = cut_edges(coupling, keep, plan.drops if plan is not None else ())
    removed = frozenset(readers.tensors(readers.gone(edges)))
    kinds = _kinds(coupling.graph)
    units_last = _units_last(coupling.graph)
    return tuple(
        _row(coupling, path, kinds.get(path, ""), names, keep, masks, removed, units_last)
        for path, names in _modules(coupling.graph).items()
    )


def _modules(graph: Graph) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for name, info in graph.tensors.items():
        if info.kind == "parameter":
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    return modules


def _kinds(graph: Graph) -> dict[str, str]:
    return {path: kind.rpartition(".")[2] for path, kind in graph.modules.items()}


def _units_last(graph: Graph) -> frozenset[str]:
    """Return the weights whose second dim is the output: transposed convolutions and embeddings."""
    return frozenset(
        graph.node(node.args["weight"].node).tensor for node in graph.nodes if base_name(node.op) in _UNITS_LAST
    )


def _row(
    coupling: Coupling,
    path: str,
    kind: str,
    names: Sequence[str],
    keep: Keep,
    masks: Mapping[str, np.ndarray],
    removed: frozenset[str],
    units_last: frozenset[str],
) -> ModuleRow:
    shapes = {name: coupling.graph.tensors[name].shape for name in names}
    main = max(names, key=lambda name: int(np.prod(shapes[name])))
    dim = 1 if main in units_last else 0
    if shapes[main][:1] == (1,):  # a token or a position table: features come last
        dim = len(shapes[main]) - 1
    scalar = not shapes[main]
    nonzero = sum(_nonzero(coupling, name, keep, masks) for name in names if name not in removed)
    units = 1 if scalar else coupling.kept(coupling.tensors[main][dim], keep)
    dropped = nonzero == 0 and (main in removed or units == 0)
    return ModuleRow(
        name=path or "(root)",
        kind=kind,
        units_before=1 if scalar else shapes[main][dim],
        units_after=0 if dropped else units,
        params_before=sum(int(np.prod(shape)) for shape in shapes.values()),
        nonzero_after=nonzero,
        dropped=dropped,
    )


def _nonzero(coupling: Coupling, name: str, keep: Keep, masks: Mapping[str, np.ndarray]) -> int:
    stays = [coupling.mask(expr, keep) for expr in coupling.tensors[name]]
    if name not in masks:
        return int(np.prod([np.count_nonzero(mask) for mask in stays]))
    return int(np.count_nonzero(masks[name][np.ix_(*stays)])) if stays else int(np.count_nonzero(masks[name]))
