"""A language model of 70 billion parameters, captured, coupled, priced and planned without a single weight."""

from __future__ import annotations

import time
from typing import Any

from zoo.memory import GIGABYTE, Baseline, peak_bytes

NAME = "llama-70b"
# The shape of Llama 3 70B.
_CONFIG = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def plan_language_model(_: str) -> dict[str, Any]:
    """Plan half of the parameters away, with random scores: there are no values on the meta device."""
    import numpy as np
    import torch

    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import transformers

    from prunus.analysis.score import make_plan
    from prunus.budget import Limit, fit_units
    from prunus.cost.price import cost_model
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    baseline = Baseline.now()
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_CONFIG)).eval()
        tokens = torch.zeros(1, 128, dtype=torch.long)
    marks = [time.perf_counter()]
    coupling = couple(capture(model, {"input_ids": tokens, "use_cache": False}))
    marks.append(time.perf_counter())
    cost = cost_model(coupling)
    before = cost.price()
    marks.append(time.perf_counter())
    generator = np.random.default_rng(0)
    scores = {axis.id: generator.random(axis.size) for axis in coupling.axes.values()}
    plan = make_plan(coupling, fit_units(cost, scores, Limit("params", before.params // 2)), cost=cost)
    marks.append(time.perf_counter())
    assert plan.after is not None
    return {
        "ok": plan.after.params <= before.params // 2,
        "seconds": marks[-1] - marks[0],
        "capture_and_couple": marks[1] - marks[0],
        "price": marks[2] - marks[1],
        "plan": marks[3] - marks[2],
        "params": before.params,
        "kept_params": plan.after.params / before.params,
        "axes": len(coupling.axes),
        "coverage": coupling.coverage(),
        "peak_gigabytes": max(0, peak_bytes() - baseline.held) / GIGABYTE,
    }
