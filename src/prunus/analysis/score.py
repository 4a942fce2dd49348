"""The step from scores and choices to a `Plan`, which every method shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from prunus.cost.price import CostModel, cost_model
from prunus.criteria import CriterionLike, criterion_name
from prunus.data.batches import logits_of
from prunus.errors import ModelError, PlanError
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors
from prunus.plans import Decision, Drop, Mend, Plan, fingerprint
from prunus.surgery.keeping.cut_keeping import mends_of
from prunus.surgery.rewriting.rewrite_graph import rewrite


def make_plan(
    coupling: Coupling,
    keep: Mapping[str, np.ndarray],
    drops: Sequence[Drop] = (),
    masks: Mapping[str, np.ndarray] | None = None,
    decisions: Sequence[Decision] = (),
    settings: Mapping[str, Any] | None = None,
    cost: CostModel | None = None,
) -> Plan:
    """Build a plan record from decisions: axes that stay whole are left out, the exact price is filled in.

    Raises:
        PlanError: a tensor that is needed would be empty.
    """
    touched = {a: np.asarray(m, bool) for a, m in keep.items() if not np.all(m)}
    whole = cost if cost is not None else cost_model(coupling)
    edited = rewrite(coupling, touched, drops)
    reduced = cost_model(coupling, edited) if drops or any(not m.any() for m in touched.values()) else whole
    return Plan(
        fingerprint=fingerprint(coupling.graph),
        axes=touched,
        keep=coupling.tensor_masks(touched),
        drops=tuple(drops),
        masks={k: np.asarray(m, bool) for k, m in (masks or {}).items()},
        decisions=tuple(decisions),
        before=whole.price(),
        after=reduced.price(touched),
        settings=dict(settings or {}),
        mended=_mended(coupling, touched),
    )


def _mended(coupling: Coupling, keep: Mapping[str, np.ndarray]) -> tuple[Mend, ...]:
    if coupling.forward is None:
        return ()
    try:
        return mends_of(coupling.forward, coupling, keep)
    except PlanError:  # a plan that is never cut, such as one made to run the masked network
        return ()


def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of a classifier's logits."""
    return nn.functional.cross_entropy(logits_of(outputs), targets)


def unit_decisions(keep: Mapping[str, np.ndarray], criterion: CriterionLike) -> list[Decision]:
    """Describe kept masks for people."""
    return [
        Decision(a, "unit", int((~m).sum()), len(m), f"lowest {criterion_name(criterion)} of the axis")
        for a, m in keep.items()
        if not m.all()
    ]


def check_weights(model: nn.Module) -> None:
    """Refuse models without values, or with NaN or infinite ones; the error names the tensor.

    Buffers may be infinite: attention masks hold −∞.

    Raises:
        ModelError: no module, or a tensor that is lazy, on the meta device, NaN or infinite.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"The model is a {type(model).__name__}; a torch.nn.Module is needed.")
    for name, tensor in named_tensors(model).items():
        if is_lazy(tensor):
            raise ModelError(f"Tensor {name!r} is lazy and has no shape yet; run one forward pass first.")
        if tensor.device.type == "meta":
            raise ModelError(f"Tensor {name!r} is on the meta device and has no values; load the weights first.")
        if not tensor.is_floating_point():
            continue
        values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
        if math.isfinite(float(values.sum())):
            continue  # no term is NaN or infinite, and a sum costs a tenth of looking at each
        if bool((~torch.isfinite(values) if isinstance(tensor, nn.Parameter) else torch.isnan(values)).any()):
            raise ModelError(f"Tensor {name!r} holds NaN or infinite values; load a sound checkpoint.")
