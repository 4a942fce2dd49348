"""Cut a second model of the same shape, such as an average over training, exactly as the first was cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunus.errors import PlanError, UsageError
from prunus.graph.capture import unwrap
from prunus.graph.recorder import Recorder, named_tensors
from prunus.plans import Plan
from prunus.surgery.copy_module import copied
from prunus.surgery.slice_like import kept_indices, masked, picked


def carry_like(other: nn.Module, small: nn.Module, plan: Plan, model: nn.Module) -> nn.Module:
    """Return ``other`` with the structure of the cut model and its own values, masked and sliced by the plan.

    W′ = (mask ⊙ W_other)[kept indices]. The values are not verified: the proof of ``small`` covers the structure.
    dtype, device, ``requires_grad`` and train/eval modes are those of ``other``. Wrappers that hold the model as
    ``.module`` (`torch.optim.swa_utils.AveragedModel`) are returned around the cut one, with their counters; parallel
    and compile wrappers are removed.

    Args:
        other: a copy of the original with values of its own (EMA, SWA, a teacher); untouched.
        small: the cut model; untouched.
        plan: the plan of the cut.
        model: the original.

    Raises:
        UsageError: ``other`` lacks a tensor of the model, or has it in another shape.
        PlanError: plan, model and cut model do not belong together.

    Example:
        ``average = carry_like(average, result.model, result.plan, model)``
    """
    model, small, other = unwrap(model), unwrap(small), unwrap(other)
    core, wrappers = _core(other, model)
    twin = copied(small, _values(core, small, plan, model))
    modes = {path: module.training for path, module in core.named_modules()}
    for path, module in twin.named_modules():
        module.training = modes.get(path, module.training)
    return twin if core is other else copied(other, {id(core): twin, **{id(w): twin for w in wrappers}})


def _core(other: nn.Module, model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """Return the module inside ``other`` that has the model's tensors, and the parallel wrappers right around it."""
    required = dict(model.named_parameters())
    core, wrappers = other, []
    while missing := [name for name in required if name not in named_tensors(core)]:
        inner = getattr(core, "module", None)
        if not isinstance(inner, nn.Module):
            raise UsageError(
                f"The {type(other).__name__} has no tensor {missing[0]!r}, which the {type(model).__name__} has; "
                "give a second model of the same class, or a wrapper that holds one as .module."
            )
        core = unwrap(inner)
        wrappers += [inner] if core is not inner else []
    own = named_tensors(core)
    for name, tensor in required.items():
        if own[name].shape != tensor.shape:
            raise UsageError(
                f"{name!r} has shape {tuple(own[name].shape)} in the {type(other).__name__}, {tuple(tensor.shape)} in "
                "the model that was pruned; give a copy from before the cut."
            )
    return core, wrappers


def _values(core: nn.Module, small: nn.Module, plan: Plan, model: nn.Module) -> dict[int, Any]:
    """Return ``id`` of each tensor of the cut model → the tensor that replaces it."""
    own, aliases = named_tensors(core), Recorder(model).aliases
    values: dict[int, Any] = {}
    for name, tensor in named_tensors(small).items():
        if id(tensor) in values:
            continue
        source = own.get(name)
        if source is None and f"{name}_orig" in own and f"{name}_mask" in own:
            source = _like(own[f"{name}_orig"], own[f"{name}_orig"].detach() * own[f"{name}_mask"])
        if source is None:
            if isinstance(tensor, nn.Parameter):
                raise PlanError(
                    f"The cut model has a parameter {name!r} that the model does not have; give the right pair."
                )
            continue  # a constant of a rewritten forward: it has the same value for every model
        canonical = aliases.get(name, name)
        value = masked(source.detach(), plan, canonical)
        for dim, index in kept_indices(plan, canonical, source, tensor).items():
            value = picked(value, dim, index)
        values[id(tensor)] = _like(source, value.clone())
    return values


def _like(source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(value, source.requires_grad) if isinstance(source, nn.Parameter) else value
