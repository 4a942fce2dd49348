"""A plain chain of five convolutions and two linear layers, trained on the digits, that loses whole layers."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from prunus.training import TrainingOptions

from .cases import BATCH, STEPS, Row

WIDTH, LAYERS = 16, 7
TRAINING = TrainingOptions(240, 3e-3, 64, weight_decay=0.05, schedule="one_cycle")
RECOVERY = replace(TRAINING, steps=STEPS, lr=1e-3, weight_decay=0.0)


def chain(layers: int, seed: int) -> Row:
    """Keep some of the seven layers, prove the cut, train, and score."""
    from prunus.outcome import realise, recovered
    from prunus.pipeline import plan_for

    started = time.process_time()
    data, analysis = _trained(seed)
    plan = plan_for(analysis, {"modules": layers}, method="chain-depth")
    raw = realise(analysis, plan, repair=None)
    dense, cut = _accuracy(analysis.user_model, data), _accuracy(raw.model, data)
    small = recovered(raw, RECOVERY)
    return {
        "ok": True,
        "dense": dense,
        "cut": cut,
        "accuracy": _accuracy(small.model, data),
        "layers": _layers(small.model),
        "of": _layers(analysis.user_model),
        "proved": raw.check is not None and raw.check.ok,
        "error": None if raw.check is None else raw.check.error,
        "by": [decision.reason for decision in plan.decisions],
        "kept": plan.after.params / plan.before.params,
        "cpu_seconds": time.process_time() - started,
    }


@functools.lru_cache(maxsize=1)
def _trained(seed: int) -> tuple[Any, Any]:
    from prunus.analysis import analyse
    from prunus.experiments.workloads import WORKLOADS
    from prunus.training import finetune_

    work = WORKLOADS.get("digits")
    data, model = work.load(), network(seed)
    finetune_(model, data.train, TRAINING, seed=seed)
    return data, analyse(model.eval(), work.example_inputs(), data=data, seed=seed)


def network(seed: int) -> nn.Module:
    """Return the chain with new weights: convolutions at 8 × 8, the third halves the side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, width = list[nn.Module](), 1
        for i in range(5):
            layers += [nn.Conv2d(width, WIDTH, 3, 2 if i == 2 else 1, 1), nn.ReLU()]
            width = WIDTH
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH * 16, 32), nn.ReLU(), nn.Linear(32, 10))


def _layers(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())


def _accuracy(model: nn.Module, data: Any) -> float:
    from prunus.measurement.quality import evaluate

    found: float = evaluate(model.eval(), data.test.batches(BATCH), data.classes).accuracy
    return found
