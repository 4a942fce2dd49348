"""Calls that train: one backward, one optimizer step; without dropout, whose random numbers depend on shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from prunus.outcome.calls.comparing import Learned, named_tensors
from prunus.outcome.calls.pair import NotTaken, Run

_RATE = 1e-3


def backward(run: Run, prepare: Callable[[nn.Module], None] | None = None) -> Run:
    """Return a call in training mode with one backward; its results are the outputs, the gradients and the buffers.

    Args:
        run: the call.
        prepare: called with the network first.
    """

    def learn(model: nn.Module) -> Learned:
        _prepare(model, prepare)
        with torch.enable_grad(), _NoDropout():
            outputs = run(model)
            _backward(loss_of(outputs))
        return Learned(_detached(outputs), _gradients(model), {n: b.detach() for n, b in model.named_buffers()})

    return learn


def trained_once(run: Run, after: Callable[[nn.Module], None] | None = None) -> Run:
    """Return a call in training mode, a step of AdamW on its loss, and the call again.

    Args:
        run: the call.
        after: called with the network after the step.
    """

    def learn(model: nn.Module) -> Any:
        _prepare(model, None)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=_RATE)
        with torch.enable_grad(), _NoDropout():
            before = loss_of(run(model))
            _backward(before)
            optimizer.step()
            if after is not None:
                after(model)
            last = loss_of(run(model))
        return {"the loss": before.detach(), "the loss after the step": last.detach()}

    return learn


def _backward(loss: torch.Tensor) -> None:
    """Compute gradients like ``loss.backward()``, which would hide recomputed ops from function modes."""
    torch.autograd.backward(loss)


def loss_of(outputs: Any) -> torch.Tensor:
    """Return the loss among the outputs of a network, or Σ x + x²/2 over all outputs, to which zeros add nothing.

    Raises:
        NotTaken: no output has a gradient.
    """
    if hasattr(outputs, "get") and isinstance(outputs.get("loss"), torch.Tensor):
        found: torch.Tensor = outputs["loss"]
        return found.sum()
    total: torch.Tensor | None = None
    for _, x in named_tensors(outputs):
        value = torch.view_as_real(x) if x.is_complex() else x
        if not value.is_floating_point() or not (value.requires_grad or not torch.is_grad_enabled()):
            continue
        finite = value.masked_fill(~value.isfinite(), 0)
        term = (finite + finite.square() / 2).sum() / max(1, value.shape[0] if value.dim() else 1)
        total = term if total is None else total + term
    if total is None:
        raise NotTaken("nothing that it returns has a gradient")
    return total


def _prepare(model: nn.Module, prepare: Callable[[nn.Module], None] | None) -> None:
    model.train()
    without_dropout_(model)
    if prepare is not None:
        prepare(model)


def without_dropout_(model: nn.Module) -> None:
    """Switch dropout off: in torch's modules, and in numbers of modules and their settings with such a name."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            if holder is None or id(holder) in seen or not hasattr(holder, "__dict__"):
                continue
            seen.add(id(holder))
            for name, value in vars(holder).items():
                if ("drop" in name and "dim" not in name) and isinstance(value, float):
                    vars(holder)[name] = 0.0


class _NoDropout(TorchFunctionMode):
    """Skips dropout whose rate is written in the code, as in a rewritten forward."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").split(".")[0]
        if name in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if name == "scaled_dot_product_attention":
            args, kwargs = (
                args[:_RATE_AT] + ((0.0, *args[_RATE_AT + 1 :]) if len(args) > _RATE_AT else ()),
                dict(kwargs),
            )
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*args, **kwargs)


# The position of the rate among the arguments of torch's attention.
_RATE_AT = 4
_DROPOUTS = (
    "dropout",
    "dropout_",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
)


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters() if p.requires_grad
    }


def _detached(outputs: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in named_tensors(outputs)}
