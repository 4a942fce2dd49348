"""Compare a fresh model with the one that a checkpoint was cut from; the first tensor that differs is named."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from prunus.errors import PlanError
from prunus.exporters.header import Header
from prunus.graph.recorder import Recorder, named_tensors
from prunus.plans import UNPRICED, Plan


def check_fit(header: Header, stored: Mapping[str, torch.Tensor], fresh: nn.Module, plan: Plan) -> None:
    """Compare every tensor of a fresh model with the stored one and with what the plan says about it.

    Args:
        header: of the checkpoint.
        stored: its tensors.
        fresh: the model to load into.
        plan: by which the stored model was cut.

    Raises:
        PlanError: a tensor that one side lacks, or of other sizes.
    """
    start = f"The checkpoint of {header.model} does not fit this {type(fresh).__name__}"
    aliases = Recorder(fresh).aliases
    named = {n: t for n, t in named_tensors(fresh).items() if not is_below(n, header.removed)}
    for name, tensor in named.items():
        value = stored.get(header.aliases.get(name, name))
        if value is None:
            raise PlanError(f"{start}: {name!r} is not in it. Give an instance of the class that was pruned.")
        canonical = aliases.get(name, name)
        keep, mask = plan.keep.get(canonical, {}), plan.masks.get(canonical)
        expected = tuple(len(keep[d]) if d in keep else n for d, n in enumerate(tensor.shape))
        outside = any(d >= tensor.dim() or (len(i) and np.max(i) >= tensor.shape[d]) for d, i in keep.items())
        if expected != tuple(value.shape) or outside or (mask is not None and mask.shape != tuple(tensor.shape)):
            raise PlanError(
                f"{start}: {name!r} has shape {tuple(tensor.shape)} here, which the plan cuts to {expected}; stored is "
                f"{tuple(value.shape)}. Give an instance with the original sizes."
            )
    known = {*named, *header.constants.values(), *empty_slots(fresh)}
    extra = [n for n in (*stored, *header.aliases) if n not in known]
    if extra:
        raise PlanError(f"{start}: it holds {extra[0]!r}, which this model does not have.")
    check_count(header, fresh, plan)


def empty_slots(model: nn.Module) -> tuple[str, ...]:
    """Return the names of buffers that a model has and that hold nothing yet: its first call fills them."""
    return tuple(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name, buffer in module._buffers.items()
        if buffer is None
    )


def is_below(name: str, paths: tuple[str, ...]) -> bool:
    """Return whether a tensor or module lies in one of these modules."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def check_count(header: Header, fresh: nn.Module, plan: Plan) -> None:
    """Catch a model that is wider than the original only where the plan cuts: its tensors all could be cut alike.

    Raises:
        PlanError: another number of parameters than that of the model that was pruned.
    """
    start = f"The checkpoint of {header.model} does not fit this {type(fresh).__name__}"
    parameters = [i for i in Recorder(fresh).tensors.values() if i.kind == "parameter"]
    count = sum(math.prod(i.shape) for i in parameters)
    if plan.before == UNPRICED or plan.before.params == count:
        return
    shapes = {i.name: i.shape for i in parameters}
    name = next((n for n in shapes if n in plan.keep and _is_other_size(plan, n, shapes[n])), None)
    where = f"{name!r} has shape {shapes[name]} here; " if name else ""
    raise PlanError(
        f"{start}: {where}it has {count:,} parameters, the model that was pruned {plan.before.params:,}. "
        "Give an instance with the original sizes."
    )


def _is_other_size(plan: Plan, name: str, shape: tuple[int, ...]) -> bool:
    for dim, index in plan.keep[name].items():
        sizes = {len(m) for m in plan.axes.values() if np.array_equal(np.flatnonzero(m), index)}
        if sizes and shape[dim] not in sizes:
            return True
    return False
