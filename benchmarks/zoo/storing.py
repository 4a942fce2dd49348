"""Save a cut model, load it into a fresh instance with other weights, and compare bit by bit."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.exporters.checkpoint import save
from prunus.exporters.restore import load
from prunus.graph.capture import preserved, split_inputs
from prunus.graph.open_outputs import opened_leaves
from prunus.plans import Plan
from prunus.surgery.record import Surgery

from .catalog import Entry


@dataclass(frozen=True, slots=True)
class Cut:
    """What `save` takes."""

    model: nn.Module
    plan: Plan
    surgery: Surgery


def stored_and_loaded(entry: Entry, small: nn.Module, plan: Plan, surgery: Surgery, inputs: Any) -> dict[str, Any]:
    """Return ``reload``: ``equal``, or what differs."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save(Cut(small, plan, surgery), Path(folder) / "cut")
        torch.manual_seed(1234)
        again = load(Path(folder) / "cut", entry.build()[0])
    return {"reload": _difference(small, again, inputs), "reload_s": round(time.perf_counter() - start, 3)}


def _difference(small: nn.Module, again: nn.Module, inputs: Any) -> str:
    one, two = small.state_dict(), again.state_dict()
    if list(one) != list(two):
        return f"state dict names: {sorted(set(one) ^ set(two))[:3]}"
    for name, value in one.items():
        if value.dtype != two[name].dtype or not torch.equal(value, two[name]):
            return f"state dict differs at {name}"
    outputs = [_outputs(model, inputs) for model in (small, again)]
    if len(outputs[0]) != len(outputs[1]):
        return "number of outputs"
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*outputs, strict=True))
    return "equal" if same else "outputs differ"


def _outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    args, kwargs = split_inputs(inputs)
    with preserved(model), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        found = model(*args, **kwargs)
        return [x for x in opened_leaves(found) if isinstance(x, torch.Tensor)]
