"""Torch-Pruning on the same networks, at equal MACs, with the same training afterwards."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.training import reestimate_statistics_

from .recovery import recover_
from .starting import Parent, parent_of

Row = dict[str, Any]
CRITERIA = ("l2", "taylor")
SCOPES = ("local", "global")
STEPS = 200
"""It prunes in so many steps until the MACs are met."""
_MOST = 0.98
_NEAR = 1.15
"""Its own count leaves some ops out; from so near on the exact one decides."""


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
    recover_(model, parent, parent.short(), "finetune")
    return {**parent.judged(model), "ok": True, "cut": cut, "macs": macs, "steps": parent.short().steps,
            "cpu_seconds": time.process_time() - started}  # fmt: skip


def _pruned(parent: Parent, kept: float, criterion: str, scope: str) -> tuple[nn.Module, float]:
    """Return the pruned network and the share of the MACs that it has."""
    import torch_pruning as tp

    model, classes = copy.deepcopy(parent.model), len(parent.data.classes)
    for module in model.modules():
        if isinstance(getattr(module, "qkv", None), nn.Linear):
            module.__class__ = _Attention
    if criterion == "taylor":
        _give_gradients_(model, parent)
    importance = tp.importance.GroupTaylorImportance() if criterion == "taylor" else _l2()
    pruner = tp.pruner.BasePruner(
        model, parent.example, importance=importance, global_pruning=scope == "global", pruning_ratio=_MOST,
        iterative_steps=STEPS, num_heads={m.qkv: m.heads for m in model.modules() if isinstance(m, _Attention)},
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
    )  # fmt: skip
    whole, _ = tp.utils.count_ops_and_params(model, parent.example)
    for _ in range(STEPS):
        pruner.step()
        now, _ = tp.utils.count_ops_and_params(model, parent.example)
        if now <= _NEAR * kept * whole and parent.macs(model) <= kept:
            break
    model.zero_grad()
    return model, parent.macs(model)


def _l2() -> Any:
    import torch_pruning as tp

    return tp.importance.GroupMagnitudeImportance(p=2)


class _Attention(nn.Module):
    """Attention over whatever widths were left to its projections, as that tool's examples write it."""

    heads: int
    qkv: nn.Linear
    out: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        width = self.qkv.out_features // 3
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        gathered = functional.scaled_dot_product_attention(*parts.unbind(0))
        mixed: Tensor = self.out(gathered.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


def _give_gradients_(model: nn.Module, parent: Parent) -> None:
    """Leave the gradient of the loss over the calibration split, with its labels, where the tool looks for it."""
    model.zero_grad()
    count = len(parent.data.calibration)
    for inputs, targets in parent.data.calibration.batches(64):
        loss = functional.cross_entropy(model(inputs), targets, reduction="sum") / count
        torch.autograd.backward(loss)
