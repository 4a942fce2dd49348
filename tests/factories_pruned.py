"""Cut networks with everything `prunus.save` wants, without criteria or budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from factories_cuts import random_share
from prunus.analysis.score import make_plan
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Drop, Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.record import Surgery


@dataclass(frozen=True, slots=True)
class Cut:
    """What `prunus.save` takes, and the way there."""

    model: nn.Module
    plan: Plan
    surgery: Surgery
    original: nn.Module
    inputs: Any
    coupling: Coupling


def cut_at_random(
    model: nn.Module,
    inputs: Any,
    *,
    seed: int = 0,
    mode: str = "hybrid",
    masked: float = 0.0,
    drops: Sequence[Drop] = (),
) -> Cut:
    """Keep random units, mask a share of every weight, cut."""
    coupling = couple(capture(model, inputs))
    generator = np.random.default_rng(seed)
    names = [n for n, p in model.named_parameters() if p.dim() > 1] if masked else []
    masks = {n: generator.random(tuple(model.get_parameter(n).shape)) >= masked for n in names}
    plan = make_plan(coupling, random_share(coupling, seed, 0.3, 0.9), drops, masks=masks)
    small, surgery = cut_with_record(model, coupling, plan, inputs, mode=mode)
    return Cut(small, plan, surgery, model, inputs, coupling)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have the same state dict: names, order, dtypes, bits."""
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(same_bits(x, y) for x, y in zip(one.values(), two.values(), strict=True))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors agree to the bit: NaN equals itself, −0.0 is not 0.0."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bytes(a.contiguous().reshape(-1).view(torch.uint8).numpy()) == bytes(
        b.contiguous().reshape(-1).view(torch.uint8).numpy()
    )
