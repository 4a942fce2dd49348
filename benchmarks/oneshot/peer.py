"""One shot by Torch-Pruning: its criteria, within layers and over all, at equal MACs, statistics re-estimated."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
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


def cells(net: str, seed: int, criterion: str, scope: str, shares: Sequence[float]) -> Row:
    """Prune to each share of the MACs in one go, largest first; gradients, where needed, are given the true labels."""
    case = case_of(net, seed)
    started, found = time.process_time(), dict[str, Row]()
    model = _ready(case)
    try:
        for kept, macs in _pruned_(model, case, shares, criterion, scope):
            scored = copy.deepcopy(model)
            _reestimate_(scored, case)
            found[f"{kept:g}"] = {**case.judged(scored), "ok": macs <= kept, "macs": macs,
                                  "cpu_seconds": time.process_time() - started}  # fmt: skip
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        return {"shares": {f"{kept:g}": found.get(f"{kept:g}", {"ok": False, "reason": reason}) for kept in shares}}
    missed = {"ok": False, "reason": f"never met the budget in {STEPS} steps"}
    return {"shares": {f"{kept:g}": found.get(f"{kept:g}", missed) for kept in shares}}


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


def _pruned_(
    model: nn.Module, case: Case, shares: Sequence[float], criterion: str, scope: str
) -> Iterator[tuple[float, float]]:
    """Yield (wanted, met) shares of the MACs, the model being pruned to each when it is yielded."""
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
    whole, dense = tp.utils.count_ops_and_params(model, example)[0], macs_of(case.model, case.example)
    left = sorted(shares, reverse=True)
    for _ in range(STEPS):
        pruner.step()
        # Its own count leaves some ops out; the exact one decides, where it is near.
        if tp.utils.count_ops_and_params(model, example)[0] > 1.15 * left[0] * whole:
            continue
        met = macs_of(model, case.example) / dense
        while left and met <= left[0]:
            yield left.pop(0), met
        if not left:
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
