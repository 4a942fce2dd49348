"""One shot by Torch-Pruning: its criteria, within layers and over all, at equal MACs, statistics re-estimated."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from torch_pruning_run import STEPS, prunable, pruned_to_

from .networks import Case, Row, case_of, macs_of

CRITERIA = ("l2", "taylor", "fpgm", "lamp", "bn-scale", "hessian")
SCOPES = ("local", "global")
_BATCH = 64
_CLASSES = 62


def cells(net: str, seed: int, criterion: str, scope: str, shares: Sequence[float]) -> Row:
    """Prune to each share of the MACs in one go, largest first; gradients, where needed, are given the true labels."""
    case = case_of(net, seed)
    started, found = time.process_time(), dict[str, Row]()
    model, dense = prunable(case.model), macs_of(case.model, case.example)
    try:
        if criterion in ("taylor", "hessian"):
            _give_gradients_(model, case, squared=criterion == "hessian")
        for kept, macs in pruned_to_(
            model,
            case.example[0],
            _CLASSES,
            shares,
            _importance(criterion),
            scope,
            lambda m: macs_of(m, case.example) / dense,
        ):
            scored = copy.deepcopy(model)
            _reestimate_(scored, case)
            found[f"{kept:g}"] = {
                **case.judged(scored),
                "ok": macs <= kept,
                "macs": macs,
                "cpu_seconds": time.process_time() - started,
            }
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        return {"shares": {f"{kept:g}": found.get(f"{kept:g}", {"ok": False, "reason": reason}) for kept in shares}}
    missed = {"ok": False, "reason": f"never met the budget in {STEPS} steps"}
    return {"shares": {f"{kept:g}": found.get(f"{kept:g}", missed) for kept in shares}}


def _importance(criterion: str) -> Any:
    import torch_pruning as tp

    kinds = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance,
        "fpgm": tp.importance.FPGMImportance,
        "lamp": tp.importance.LAMPImportance,
        "bn-scale": tp.importance.BNScaleImportance,
        "hessian": tp.importance.GroupHessianImportance,
    }
    return kinds[criterion]()


def _give_gradients_(model: nn.Module, case: Case, *, squared: bool) -> None:
    """Put E[g] or, for the Hessian, E[g²] over single samples where the tool looks for it."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for inputs, targets in case.data.calibration.batches(1 if squared else _BATCH):
        model.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad.square() if squared else parameter.grad * len(targets)
        count += len(targets)
    for name, parameter in model.named_parameters():
        parameter.grad = sums[name] / max(1, count)


def _reestimate_(model: nn.Module, case: Case) -> None:
    from prunus.training import reestimate_statistics_

    model.zero_grad()
    images = case.images()
    batches = [(images[i : i + _BATCH], None) for i in range(0, len(images), _BATCH)]
    reestimate_statistics_(model, batches * math.ceil(100 / len(batches)))  # type: ignore[arg-type]
