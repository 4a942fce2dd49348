"""Torch-Pruning on the same networks, at equal MACs, with the same training afterwards."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from prunus.training import reestimate_statistics_
from torch_pruning_run import STEPS, prunable, pruned_to_

from .recovery import recover_
from .starting import Parent, parent_of

Row = dict[str, Any]
CRITERIA = ("l2", "taylor")
SCOPES = ("local", "global")


def measure(net: str, kept: float, criterion: str, scope: str, seed: int) -> Row:
    """Prune by one configuration, and fine-tune for as many steps, at the same rate, on the same samples."""
    parent, started = parent_of(net, seed), time.process_time()
    try:
        model, macs = _pruned(parent, kept, criterion, scope)
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        return {"ok": False, "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    if macs > kept:
        return {"ok": False, "reason": f"kept {macs:.1%} of the MACs after {STEPS} steps"}
    # A net with the dense one's norm statistics would spend its first steps on them alone.
    reestimate_statistics_(model, parent.data.calibration.batches(64), max_batches=100)
    cut = parent.judged(model)["accuracy"]
    recover_(parent, model, parent.short(), "finetune")
    return {
        **parent.judged(model),
        "ok": True,
        "cut": cut,
        "macs": macs,
        "steps": parent.short().steps,
        "cpu_seconds": time.process_time() - started,
    }


def _pruned(parent: Parent, kept: float, criterion: str, scope: str) -> tuple[nn.Module, float]:
    """Return the pruned network and the share of the MACs that it has."""
    import torch_pruning as tp

    model = prunable(parent.model)
    if criterion == "taylor":
        _give_gradients_(model, parent)
    importance = tp.importance.GroupTaylorImportance() if criterion == "taylor" else _l2()
    for _ in pruned_to_(model, parent.example, len(parent.data.classes), (kept,), importance, scope, parent.macs):
        break
    model.zero_grad()
    return model, parent.macs(model)


def _l2() -> Any:
    import torch_pruning as tp

    return tp.importance.GroupMagnitudeImportance(p=2)


def _give_gradients_(model: nn.Module, parent: Parent) -> None:
    """Leave the gradient of the loss over the calibration split, with its labels, where the tool looks for it."""
    model.zero_grad()
    count = len(parent.data.calibration)
    for inputs, targets in parent.data.calibration.batches(64):
        loss = functional.cross_entropy(model(inputs), targets, reduction="sum") / count
        torch.autograd.backward(loss)
