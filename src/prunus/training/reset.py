"""New random weights for a network, as at its construction."""

from __future__ import annotations

import torch
from torch import nn

from prunus.foundation.as_found import seeded


def reset_weights_(model: nn.Module, seed: int = 0) -> None:
    """Initialise every module again, in place.

    Modules with ``reset_parameters`` use it; parameters of other modules are drawn from a normal distribution with
    their present mean and deviation. The caller's random state is left as it was.
    """
    with seeded(seed), torch.no_grad():
        done: set[int] = set()
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                done.update(id(p) for p in module.parameters(recurse=False))
        for parameter in model.parameters():
            if id(parameter) not in done and parameter.numel() > 1:
                parameter.normal_(float(parameter.mean()), float(parameter.std()))
