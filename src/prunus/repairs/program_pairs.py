"""Pairs of programs, the dense one and the cut one, for inputs of any shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import flat_inputs
from prunus.graph.ir import Graph, Ref
from prunus.graph.program_by_shape import ProgramsByShape, axis_sizes, ops_of
from prunus.plans import Plan
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.token_ids import cut_inputs, kept_inputs


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two programs whose nodes have the same names: the dense one and the one that the plan leaves.

    ``constants`` belong to the small program, ``coupling`` to the dense one.
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
    """A store of program pairs: one for each set of input shapes, made once."""

    def __init__(self, model: nn.Module, coupling: Coupling, plan: Plan) -> None:
        self._pairs = ProgramsByShape(
            model, coupling, {"ops": ops_of, "axes": axis_sizes}, made=lambda local: _pair(local, plan)
        )
        self.first = self._pairs.first

    def of(self, inputs: Any) -> Pair:
        """Return the pair for inputs of these shapes.

        Raises:
            DataError: the model does not run on these inputs, or runs another program than the captured one.
        """
        return self._pairs.of(inputs)


def _pair(coupling: Coupling, plan: Plan) -> Pair:
    small = rewrite(coupling, plan.axes, plan.drops)
    constants = slice_tensors(dict(coupling.graph.constants), coupling, plan)
    return Pair(coupling, plan, small, constants)
