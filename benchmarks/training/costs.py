"""What the pruner costs a running training: its hooks in every step, and a structural cut of a ResNet-50."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import nn

Row = dict[str, Any]
EVERY = 3
"""Steps between two changes of the masks while they are timed."""


def resnet50() -> nn.Module:
    """Return an untrained ResNet-50 of 1,000 classes."""
    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet50(weights=None)
    return model


def overhead(method: str, batch: int, side: int, steps: int) -> Row:
    """Return the processor time of the five hooks as a share of the rest of a step, on a ResNet-50 with SGD.

    ``every_step`` is what each step pays; ``update`` is one change of the masks, of which a training has about twenty,
    with what the step before it pays more; ``share`` is the first alone, ``share_of_1000`` both in 1,000 steps.
    """
    from prunus.pruner import Pruner

    model, inputs, targets = resnet50(), torch.randn(batch, 3, side, side), torch.randint(0, 1000, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    pruner = Pruner(model, {"kept": 0.5, "method": method, "every": EVERY, "end_step": steps})
    pruner.train_begin(optimizer, steps)
    rest, hooks, before, updates = (list[float]() for _ in range(4))
    for step in range(steps):
        clock = [time.thread_time()]
        pruner.step_begin()
        clock.append(time.thread_time())
        loss = nn.functional.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        clock.append(time.thread_time())
        pruner.before_optimizer_step(loss)
        clock.append(time.thread_time())
        optimizer.step()
        clock.append(time.thread_time())
        pruner.after_optimizer_step()
        clock.append(time.thread_time())
        optimizer.zero_grad()
        spent = [b - a for a, b in itertools.pairwise(clock)]
        if step > EVERY:
            rest.append(spent[1] + spent[3])
            (before if (step + 1) % EVERY == 0 else hooks).append(spent[2] + spent[4])
        if step >= EVERY and step % EVERY == 0:
            updates.append(spent[0])
    pruner.train_end()
    plain, each, prepared, change = (statistics.median(values) for values in (rest, hooks, before, updates))
    change += max(0.0, prepared - each)
    return {
        "method": method,
        "batch": batch,
        "side": side,
        "step": plain,
        "every_step": each,
        "update": change,
        "share": each / plain,
        "share_of_1000": (each + change * 20 / 1000) / plain,
    }


def cut(proved: bool) -> Row:
    """Return the seconds of one cut to half the parameters, with SGD's momentum and an average carried along."""
    from torch.optim.swa_utils import AveragedModel

    from prunus.pruner import Pruner

    model, inputs, targets = resnet50(), torch.randn(2, 3, 64, 64), torch.randint(0, 1000, (2,))
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    options = {"kept": 0.5, "method": "units", "criterion": "magnitude", "end_step": 1, "every": 1}
    pruner = Pruner(model, options, example_inputs=inputs[:1], averages=[average], prove=proved)
    before = sum(p.numel() for p in model.parameters())
    pruner.train_begin(optimizer, 3)
    for _ in range(2):
        pruner.step_begin()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs), targets))
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    began, processor = time.perf_counter(), time.process_time()
    pruner.cut_()
    spent = time.perf_counter() - began, time.process_time() - processor
    after = sum(p.numel() for p in model.parameters())
    torch.autograd.backward(nn.functional.cross_entropy(model(inputs), targets))
    optimizer.step()
    return {"proved": proved, "seconds": spent[0], "cpu_seconds": spent[1], "before": before, "after": after}
