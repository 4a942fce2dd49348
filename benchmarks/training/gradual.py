"""What is left of the quality when a network is pruned while it trains, against pruning it afterwards."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from prunus.training import TrainingOptions

Row = dict[str, Any]
AFTER = 0.25
"""Of the steps that trained the network: what pruning a trained one may train on top."""
GRADUAL = {
    "gradual": ("fresh", "magnitude", 1.0),
    "gradual-trained": ("trained", "magnitude", AFTER),
    "gradual-again": ("trained", "lamp", 1.0),
}
"""Method → (the weights it starts from, how weights are scored, steps as a share of the dense network's)."""
METHODS = (*GRADUAL, "one-shot")


def measure(workload: str, method: str, kept: float, seed: int) -> Row:
    """Prune the weights of a workload's network, and score it on the test split beside the dense one.

    "gradual": a fresh network is pruned while it trains, with the training of the dense one, step by step as long.
    "gradual-trained": the dense network is pruned step by step in a quarter as many steps on top.
    "gradual-again": likewise, by LAMP, which weighs layers of different scale alike, in as many steps again.
    "one-shot": the dense network loses the smallest weights at one blow, and is trained a quarter as many steps on top.
    """
    from prunus.experiments.workloads import WORKLOADS, trained
    from prunus.masks import absolute_masks, prunable_weights
    from prunus.measurement.quality import evaluate
    from prunus.pruner import Pruner
    from prunus.pruner.loop import train_pruning_
    from prunus.training import finetune_

    work = WORKLOADS.get(workload)
    parent, data = trained(workload, seed), work.load()
    dense = evaluate(parent, data.test.batches(256), data.classes).accuracy
    started = time.perf_counter()
    if method == "one-shot":
        model, options = parent, _after(work.training, AFTER)
        masks = absolute_masks(prunable_weights(model), kept=kept)
        finetune_(model, data.train, options, masks=masks, seed=seed)
    else:
        start, criterion, share = GRADUAL[method]
        model, options = (
            (work.build(seed), work.training) if start == "fresh" else (parent, _after(work.training, share))
        )
        pruner = Pruner(model, {"kept": kept, "criterion": criterion}, example_inputs=work.example_inputs())
        train_pruning_(model, data.train, options, pruner=pruner, seed=seed)
    seconds = time.perf_counter() - started
    weights = prunable_weights(model)
    left = sum(int(w.count_nonzero()) for w in weights.values()) / sum(w.numel() for w in weights.values())
    model.eval()
    pruned = evaluate(model, data.test.batches(256), data.classes).accuracy
    return {
        "workload": workload,
        "method": method,
        "kept": left,
        "steps": options.steps,
        "dense": dense,
        "accuracy": pruned,
        "lost": dense - pruned,
        "seconds": seconds,
        "seed": seed,
    }


def _after(training: TrainingOptions, share: float) -> TrainingOptions:
    return replace(training, steps=round(share * training.steps), schedule="cosine")
