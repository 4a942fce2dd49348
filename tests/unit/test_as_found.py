"""What is left as it was found, after an error too."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from prunus.foundation.as_found import (
    collector_paused,
    gradients_enabled_for,
    gradients_put_aside,
    hooked,
    in_eval_mode,
    seeded,
    threads_set,
)


class Stop(Exception):
    pass


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones(2)
    return model


def state(model: nn.Module) -> Any:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        (torch.get_num_threads(), gc.isenabled(), torch.get_rng_state().tolist()),
    )


def fail_inside(model: nn.Sequential) -> None:
    hooks = (module.register_forward_hook(lambda *_: None) for module in model)
    with (
        in_eval_mode(model),
        gradients_put_aside(model),
        gradients_enabled_for(model.parameters()),
        hooked(hooks),
        threads_set(torch.get_num_threads() + 1) as threads,
        collector_paused(),
        seeded(3),
    ):
        assert not any(module.training for module in model.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert (torch.get_num_threads(), gc.isenabled()) == (threads, False)
        model(torch.rand(1, 2)).sum().backward()
        raise Stop


def test_everything_is_put_back_after_an_error() -> None:
    model = net()
    before = state(model)
    with pytest.raises(Stop):
        fail_inside(model)
    assert state(model) == before


def test_the_same_seed_draws_the_same() -> None:
    drawn = []
    for _ in range(2):
        with seeded(3):
            drawn.append(torch.rand(2).tolist())
    assert drawn[0] == drawn[1]


def test_hooks_that_were_registered_before_one_failed_are_removed() -> None:
    model = net()

    def registered() -> Iterator[Any]:
        yield model.register_forward_hook(lambda *_: None)
        raise Stop

    with pytest.raises(Stop), hooked(registered()):
        pass
    assert not model._forward_hooks
