"""What is left of the quality when a network is pruned while it trains, against pruning it afterwards."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

Row = dict[str, Any]
METHODS = ("gradual", "gradual-trained", "one-shot")
AFTER = 0.25
"""Of the steps that trained the network: what pruning a trained one may train on top."""


def measure(workload: str, method: str, kept: float, seed: int) -> Row:
    """Prune the weights of a workload's network, and score it on the test split beside the dense one.

    "gradual": a fresh network is pruned while it trains, with the training of the dense one, step by step as long.
    "gradual-trained": the dense network is pruned step by step in a quarter as many steps on top.
    "one-shot": the dense network loses the smallest weights at one blow, and is trained as many steps on top.
    """
    from prunus.masks import absolute_masks, prunable_weights
    from prunus.measurement.quality import evaluate
    from prunus.pruner import Pruner
    from prunus.pruner.loop import train_pruning_
    from prunus.training import finetune_
    from prunus.workloads import WORKLOADS, trained

    work = WORKLOADS.get(workload)
    parent, data = trained(workload, seed), work.load()
    dense = evaluate(parent, data.test.batches(256), data.classes).accuracy
    started = time.perf_counter()
    shorter = replace(work.training, steps=round(AFTER * work.training.steps), schedule="cosine")
    if method == "one-shot":
        model, options = parent, shorter
        masks = absolute_masks(prunable_weights(model), kept=kept)
        finetune_(model, data.train, options, masks=masks, seed=seed)
    else:
        model, options = (work.build(seed), work.training) if method == "gradual" else (parent, shorter)
        pruner = Pruner(model, {"kept": kept, "method": "gradual"}, example_inputs=work.example_inputs())
        train_pruning_(model, data.train, options, pruner=pruner, seed=seed)
    seconds = time.perf_counter() - started
    weights = prunable_weights(model)
    left = sum(int(w.count_nonzero()) for w in weights.values()) / sum(w.numel() for w in weights.values())
    model.eval()
    pruned = evaluate(model, data.test.batches(256), data.classes).accuracy
    return {"workload": workload, "method": method, "kept": left, "steps": options.steps, "dense": dense,
            "accuracy": pruned, "lost": dense - pruned, "seconds": seconds, "seed": seed}  # fmt: skip
