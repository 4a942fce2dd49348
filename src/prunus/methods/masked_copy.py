"""A copy of the network with removed parameters at zero, so that its scores have the indices of the original."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prunus.graph.capture import unwrap
from prunus.graph.ir import TENSOR
from prunus.graph.layout import atoms_of
from prunus.methods.reduction import Reduction, tensors_of
from prunus.plans import Plan
from prunus.surgery.proving.verify import masked_tensors
from prunus.surgery.tensors import copy_with


def masked_copy(reduction: Reduction, keep: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy the network with every parameter of removed units and dropped branches at zero.

    Shapes do not change, so axes and units of the copy are those of the original. A dropped branch adds nothing if it
    ends in an op with f(0) = 0; layer norms still average over removed positions. Both only affect scores: the plan
    made from them is cut and proved like any other.

    Args:
        reduction: the dropped branches.
        keep: axis id → units that stay.

    Returns:
        The copy, and parameter name → mask (True = keep) of the parameters that are not kept whole.
    """
    analysis = reduction.analysis
    values = tensors_of(analysis) | dict(analysis.coupling.graph.constants)
    model = copy_with(unwrap(analysis.model), analysis.coupling.graph, values)
    masks = parameter_masks(reduction, reduction.as_plan(keep))
    zero_(model, masks)
    return model, masks


def parameter_masks(reduction: Reduction, plan: Plan) -> dict[str, Tensor]:
    """Return the mask of the kept weights of each parameter; parameters that are kept whole are left out."""
    analysis = reduction.analysis
    dropped = {name for branch in reduction.dropped for name in branch.tensors}
    ones = {
        name: torch.full_like(value, name not in dropped, dtype=torch.bool)
        for name, value in unwrap(analysis.model).named_parameters()
        if name in analysis.coupling.tensors
    }
    return {name: mask for name, mask in masked_tensors(ones, analysis.coupling, plan).items() if not mask.all()}


@torch.no_grad()
def zero_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of a model to zero."""
    for name, mask in masks.items():
        model.get_parameter(name).masked_fill_(~mask, 0)


def live_axes(reduction: Reduction) -> list[str]:
    """Return the removable axes that are still on some parameter, without those that are empty already."""
    coupling, analysis = reduction.analysis.coupling, reduction.analysis
    present = {node.tensor for node in reduction.graph.nodes if node.op == TENSOR}
    atoms = {
        atom
        for name in present
        if coupling.graph.tensors[name].kind == "parameter"
        for expr in coupling.tensors[name]
        for atom in atoms_of(expr)
    }
    live = {coupling.axis_of[atom] for atom in atoms if atom in coupling.axis_of} - reduction.keep.keys()
    return [axis for axis in analysis.free_axes() if axis in live]
