"""Merges of a plan in the original's tensors: removed inputs of a layer pass their share to those that stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunus.errors import PlanError, nearest
from prunus.plans import Plan
from prunus.substitutes import Merge


def with_merges(values: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Return the tensors of the original after the merges of a plan; removed parts keep their values.

    W′ = W + S and b′ = b + R·m − S·m, with R the removed part of W and S = R·T on its kept part (see `Merge`). An
    input that an edit of the plan has brought back passes nothing on.

    Args:
        values: tensors of the original by canonical name; the argument is untouched.
        plan: the plan.

    Raises:
        PlanError: a merge of a tensor or of inputs that the model does not have.
    """
    return _added(values, values, plan, 1)


def without_merges(values: Mapping[str, Tensor], original: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Return tensors of the original's shapes without the shares that merges gave them: the inverse of `with_merges`.

    Args:
        values: tensors by canonical name; the argument is untouched.
        original: the original's own tensors, from which the shares were computed.
        plan: the plan.
    """
    return _added(values, original, plan, -1)


def _added(values: Mapping[str, Tensor], original: Mapping[str, Tensor], plan: Plan, sign: int) -> dict[str, Tensor]:
    out = dict(values)
    for merge in plan.merges:
        weight, bias = _shares(merge, original, plan)
        for name, share in ((merge.tensor, weight), (merge.bias, bias)):
            if name in out and share is not None:
                out[name] = (out[name].double() + sign * share.to(out[name].device)).to(out[name].dtype)
    return out


def _shares(merge: Merge, values: Mapping[str, Tensor], plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Return S in the shape of the weight, and R·m − S·m in the shape of the bias."""
    weight = _weight(merge, values).detach()
    kept = kept_weights(plan, merge.tensor, merge.dim, weight)
    places = positions_of(merge.inputs).to(weight.device)
    count = len(places)
    removed = (weight.double() * ~kept).movedim(merge.dim, -1)
    by_input = removed[..., places]  # (…, inputs, positions of one input)
    table = torch.zeros(count, count, dtype=torch.float64, device=weight.device)
    table[torch.from_numpy(merge.removed).long(), torch.from_numpy(merge.kept).long()] = (
        torch.from_numpy(merge.share).double().to(weight.device)
    )
    taken = torch.zeros_like(removed)
    taken[..., places] = torch.einsum("...up,us->...sp", by_input, table)
    taken *= kept.movedim(merge.dim, -1)
    if not merge.bias:
        return taken.movedim(-1, merge.dim), None
    mean = torch.from_numpy(merge.mean).double().to(weight.device)
    lost = torch.einsum("...up,u->...", by_input - taken[..., places], mean)
    return taken.movedim(-1, merge.dim), lost.reshape(len(lost), -1).sum(1)


def _weight(merge: Merge, values: Mapping[str, Tensor]) -> Tensor:
    for name in filter(None, (merge.tensor, merge.bias)):
        if name not in values:
            raise PlanError(
                f"The plan merges inputs of {name!r}, which this model does not have.{nearest(name, values)}"
            )
    weight = values[merge.tensor]
    outputs = weight.shape[1 - merge.dim] if weight.dim() >= 2 else 0
    fits = weight.dim() >= 2 and weight.shape[merge.dim] == len(merge.inputs)
    if not fits or (merge.bias and tuple(values[merge.bias].shape) != (outputs,)):
        raise PlanError(
            f"The plan merges {len(merge.inputs)} inputs of {merge.tensor!r}, which has shape {tuple(weight.shape)}. "
            "Plan again for this model."
        )
    return weight


def kept_weights(plan: Plan, tensor: str, dim: int, weight: Tensor) -> Tensor:
    """Return the mask of the weights of a layer whose input stays, by its units and its weight mask."""
    kept = torch.ones_like(weight, dtype=torch.bool)
    index = plan.keep.get(tensor, {}).get(dim)
    if index is not None:
        line = torch.zeros(weight.shape[dim], dtype=torch.bool, device=weight.device)
        line[torch.from_numpy(np.asarray(index)).to(weight.device)] = True
        kept &= line.reshape([-1 if d == dim else 1 for d in range(weight.dim())])
    mask = plan.masks.get(tensor)
    return kept if mask is None else kept & torch.from_numpy(np.ascontiguousarray(mask)).to(weight.device)


def positions_of(inputs: np.ndarray) -> Tensor:
    """Return the positions of every input. Shapes: (positions,) with the input's number → (inputs, positions a one)."""
    order = np.argsort(inputs, kind="stable")[int((inputs < 0).sum()) :]
    return torch.from_numpy(order.reshape(int(inputs.max()) + 1, -1))
