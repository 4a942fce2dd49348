"""One shot by Torch-Pruning: its criteria, within layers and over all, at equal MACs, statistics re-estimated."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import Case, Row, case_of, macs_of

CRITERIA = ("l2", "taylor", "fpgm", "lamp", "bn_scale", "hessian")
SCOPES = ("local", "global")
STEPS = 200
"""It prunes in so many steps until the MACs are met."""
_MOST = 0.98
_BATCH = 64
_CLASSES = 62


def cell(net: str, kept: float, seed: int, criterion: str, scope: str) -> Row:
    """Prune to a share of the MACs; gradients, where a criterion needs them, are given the true labels."""
    case = case_of(net, seed)
    started = time.process_time()
    model = _ready(case)
    try:
        _prune_(model, case, kept, criterion, scope)
        found = macs_of(model, case.example) / macs_of(case.model, case.example)
        _reestimate_(model, case)
        row = case.judged(model)
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
        return {"ok": False, "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return {**row, "ok": found <= kept, "macs": found, "cpu_seconds": time.process_time() - started}


def _ready(case: Case) -> nn.Module:
    """Return a copy whose attention takes its width from its own projection, as that tool's examples do it."""
    model = copy.deepcopy(case.model)
    for module in model.modules():
        if isinstance(getattr(module, "qkv", None), nn.Linear):
            module.__class__ = _Attention
    return model


class _Attention(nn.Module):
    """Attention over whatever widths were left to its projections."""

    heads: int
    qkv: nn.Linear
    proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        width = self.qkv.out_features // 3
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)
        gathered: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return gathered


def _prune_(model: nn.Module, case: Case, kept: float, criterion: str, scope: str) -> None:
    import torch_pruning as tp

    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == _CLASSES]
    heads = {m.qkv: m.heads for m in model.modules() if isinstance(m, _Attention)}
    example = case.example[0]
    if criterion in ("taylor", "hessian"):
        _give_gradients_(model, case, squared=criterion == "hessian")
    pruner = tp.pruner.BasePruner(
        model, example, importance=_importance(criterion), global_pruning=scope == "global", pruning_ratio=_MOST,
        iterative_steps=STEPS, ignored_layers=last, num_heads=heads,
    )  # fmt: skip
    whole, _ = tp.utils.count_ops_and_params(model, example)
    for _ in range(STEPS):
        pruner.step()
        now, _ = tp.utils.count_ops_and_params(model, example)
        # Its own count leaves some ops out; the exact one decides, where it is near.
        if now <= 1.15 * kept * whole and macs_of(model, case.example) <= kept * macs_of(case.model, case.example):
            return


def _importance(criterion: str) -> Any:
    import torch_pruning as tp

    kinds = {"l2": lambda: tp.importance.GroupMagnitudeImportance(p=2), "taylor": tp.importance.GroupTaylorImportance,
             "fpgm": tp.importance.FPGMImportance, "lamp": tp.importance.LAMPImportance,
             "bn_scale": tp.importance.BNScaleImportance, "hessian": tp.importance.GroupHessianImportance}  # fmt: skip
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
