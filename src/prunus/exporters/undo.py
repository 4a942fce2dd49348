"""Map a cut model back to the shapes of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.errors import OptionError, PlanError, UsageError, shown
from prunus.exporters.dead_branch import silence_
from prunus.exporters.pack import fleeting_names
from prunus.foundation.arguments import door
from prunus.graph.capture import unwrap
from prunus.graph.recorder import Recorder, named_tensors
from prunus.plans import Plan
from prunus.surgery.bridging import bridged, unbridged
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.merging import with_merges, without_merges

FILLS = ("original", "zero")


@door()
def undo(
    small: Any,
    plan: Plan | None = None,
    model: nn.Module | None = None,
    *,
    fill: str = "original",
    example_inputs: Any = None,
) -> nn.Module:
    """Return a copy of ``model`` in which everything the plan kept has the values of the cut model.

    W′[kept] = small;  W′[removed] = W[removed] or 0. Masked weights count as removed while they are zero.
    Where removed inputs had passed their share on (merges), the original's inputs take it back.

    Args:
        small: the cut model, trained since or not, or its state dict; or an outcome, which knows the other two.
        plan: by which it was cut.
        model: the original; untouched.
        fill: what removed positions hold: ``original`` values (undo of an untrained cut is then the original itself),
            or ``zero`` (the masked original: its outputs are those of the cut model, except where a norm averages over
            a removed axis). A bypassed branch then comes back dead: its last layers are zero, so that it adds nothing
            until it has learned something; what lies before them has the original values.
        example_inputs: one call of the original; needed to find those layers.

    Raises:
        PlanError: plan, model and cut model do not belong together; the first tensor that differs is named. Or a
            branch adds something even with all its parameters at zero.
        OptionError: unknown ``fill``.
        UsageError: ``zero`` for a plan that bypasses branches, without ``example_inputs``.
    """
    if plan is None and model is None and callable(getattr(small, "undo", None)):
        original: nn.Module = small.undo(fill=fill)
        return original
    if plan is None:
        raise UsageError("undo got no plan; give an outcome, or small, plan and the original.")
    if fill not in FILLS:
        raise OptionError(f"fill is {fill!r}; allowed: {', '.join(FILLS)}.")
    if model is None:
        raise UsageError("undo got no original; give the model that was pruned.")
    if fill == "zero" and plan.drops and example_inputs is None:
        raise UsageError(
            f"The plan bypasses {plan.drops[0].label!r}; to put it back without effect, undo(fill='zero') needs one "
            "call of the original: give example_inputs=..., or use fill='original'."
        )
    if not isinstance(small, nn.Module | Mapping):
        raise UsageError(f"undo got {shown(small)} as the cut model; give the network, its state dict, or an outcome.")
    if plan.bridges:
        return _over_bridges(small, plan, unwrap(model), fill)
    model = unwrap(model)
    values = named_tensors(unwrap(small)) if isinstance(small, nn.Module) else dict(small)
    aliases, fleeting = Recorder(model).aliases, fleeting_names(model)
    _check_plan(plan, model)
    memo: dict[int, Any] = {}
    originals = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    shared = {n: v for n, v in with_merges(originals, plan).items() if v is not originals[n] and fill == "original"}
    for name, tensor in named_tensors(model).items():
        if id(tensor) in memo:
            continue
        value = values.get(name)
        canonical = aliases.get(name, name)
        if value is None and _may_be_absent(plan, name in fleeting):
            if fill == "zero" and name not in fleeting:
                memo[id(tensor)] = _like(tensor, torch.zeros_like(tensor))
            continue
        if value is None:
            raise PlanError(f"The cut model has no tensor {name!r}; give the model that this plan made.")
        start = shared.get(canonical, tensor.detach())
        whole = _widened(name, start, value.detach(), plan.keep.get(canonical, {}), fill)
        if canonical in shared:  # the inputs come back, so those that stayed give their shares back
            whole = without_merges({canonical: whole}, originals, plan)[canonical]
        memo[id(tensor)] = _like(tensor, _unmasked(whole, tensor.detach(), plan.masks.get(canonical), fill))
    whole_model = deep_copy(model, memo)
    if fill == "zero" and plan.drops:
        silence_(whole_model, plan, model, example_inputs)
    return whole_model


def _over_bridges(small: Any, plan: Plan, model: nn.Module, fill: str) -> nn.Module:
    """Put the modules that bridges replaced back, with the original's values."""
    if fill == "zero":
        raise UsageError(
            f"The plan bridges {plan.bridges[0].path!r}: with zeros in place of the removed layers the original "
            "computes something else. Use fill='original'."
        )
    whole = undo(small, replace(plan, bridges=()), bridged(model, plan.bridges))
    return unbridged(whole, model, plan.bridges)


def _check_plan(plan: Plan, model: nn.Module) -> None:
    known = named_tensors(model)
    for name in (*plan.keep, *plan.masks):
        # Constants met while capturing are cut too, and belong to no module.
        if name not in known and not name.startswith("_constant"):
            raise PlanError(f"The plan cuts {name!r}, which this {type(model).__name__} does not have.")


def _may_be_absent(plan: Plan, fleeting: bool) -> bool:
    """Return whether a cut may leave a tensor out: a branch is gone, or no state dict holds it."""
    emptied = any(not mask.any() for mask in plan.axes.values())
    return fleeting or emptied or bool(plan.drops)


def _widened(
    name: str, original: torch.Tensor, value: torch.Tensor, keep: Mapping[int, np.ndarray], fill: str
) -> torch.Tensor:
    """Put ``value`` at the kept positions. Shapes: original (N, …), value (kept of N, …) → (N, …)."""
    outside = any(d >= original.dim() or (len(i) and i.max() >= original.shape[d]) for d, i in keep.items())
    expected = tuple(len(keep[d]) if d in keep else n for d, n in enumerate(original.shape))
    if outside or tuple(value.shape) != expected:
        raise PlanError(
            f"{name!r} has shape {tuple(value.shape)} in the cut model; the plan cuts {tuple(original.shape)} to "
            f"{expected}. Give the model, the plan and the cut model that belong together."
        )
    value = value.to(original.device, original.dtype)
    if not keep:
        return value.clone()
    whole = original.clone() if fill == "original" else torch.zeros_like(original)
    index = [torch.from_numpy(keep[d]) if d in keep else torch.arange(n) for d, n in enumerate(original.shape)]
    whole[torch.meshgrid(*(i.to(original.device) for i in index), indexing="ij")] = value
    return whole


def _unmasked(whole: torch.Tensor, original: torch.Tensor, mask: np.ndarray | None, fill: str) -> torch.Tensor:
    if mask is None or fill == "zero":
        return whole
    removed = torch.from_numpy(~mask).to(whole.device)
    return torch.where(removed & (whole == 0), original, whole)


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
