"""The dense program and the one that a plan leaves, for inputs of any shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.criteria.programs import Shapes, check_dtypes, recaptured
from prunus.errors import DataError
from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling, couple_again
from prunus.graph.ir import Graph, Ref
from prunus.graph.run import flat_inputs
from prunus.plans import Plan
from prunus.surgery.literals import rewrite
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.tokens import cut_inputs, kept_inputs


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two programs whose nodes have the same names: the dense one and what the plan leaves of it.

    ``constants`` are those of the small program; ``coupling`` is that of the dense one.
    """

    coupling: Coupling
    plan: Plan
    small: Graph
    constants: Mapping[str, Tensor]

    @property
    def dense(self) -> Graph:
        """The program of the original."""
        return self.coupling.graph

    def feeds(self, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Return the input tensors of the dense and of the small program."""
        keep = self.plan.axes
        dense = kept_inputs(self.coupling, keep, inputs)
        small = cut_inputs(self.coupling, keep, inputs)
        return flat_inputs(self.dense, *dense), flat_inputs(self.small, *small)

    def kept(self, value: Tensor, ref: Ref) -> Tensor:
        """Return the positions of a dense value that the small program has."""
        for dim, expr in enumerate(self.coupling.values.get(ref, ())):
            mask = self.coupling.mask(expr, self.plan.axes)
            if not mask.all():
                value = value.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(value.device))
        return value


class Programs:
    """Makes the pair for each shape of the inputs, once."""

    def __init__(self, model: nn.Module, coupling: Coupling, plan: Plan) -> None:
        self._model, self._plan = model, plan
        self.first = _pair(coupling, plan)
        graph = coupling.graph
        self._pairs: dict[Shapes, Pair] = {tuple(graph.node(n).shape for n in graph.inputs): self.first}

    def of(self, inputs: Any) -> Pair:
        """Return the pair for inputs of these shapes: literals such as view sizes belong to one batch shape.

        Raises:
            DataError: the model does not run on these inputs, or runs another program than the captured one.
        """
        leaves = [leaf for leaf in pytree.tree_leaves(split_inputs(inputs)) if isinstance(leaf, Tensor)]
        check_dtypes(self.first.dense, leaves)
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        if shapes not in self._pairs:
            graph = recaptured(self._model, inputs, shapes)
            first = self.first.coupling
            if [(n.name, n.op) for n in graph.nodes] != [(n.name, n.op) for n in first.graph.nodes]:
                raise DataError(
                    f"a calibration batch of shapes {list(shapes)} runs through another program than the captured one; "
                    "allowed is what runs the same ops. Give batches of the shapes of the example inputs."
                )
            local = couple_again(graph, first)
            if {n: a.size for n, a in local.axes.items()} != {n: a.size for n, a in first.axes.items()}:
                raise DataError(
                    f"a calibration batch of shapes {list(shapes)} has other axes than the captured example; give "
                    "batches of the shapes of the example inputs."
                )
            self._pairs[shapes] = _pair(local, self._plan)
        return self._pairs[shapes]


def _pair(coupling: Coupling, plan: Plan) -> Pair:
    small = rewrite(coupling, plan.axes, plan.drops)
    constants = slice_tensors(dict(coupling.graph.constants), coupling, plan)
    return Pair(coupling, plan, small, constants)
