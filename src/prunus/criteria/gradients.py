"""Collect gradient statistics of named weights over calibration batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.criteria.weight_statistics import Evidence, precise
from prunus.data.batches import answer, call
from prunus.data.calibration import LossFunction, Progress, evaluating, loss_on, pairs
from prunus.errors import DataError, ModelError, OptionError, SelectorError, nearest
from prunus.foundation.memory_format import sound_gradients

_Grads = dict[str, Tensor]
_Moments = dict[str, _Grads]


def collect_gradients(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: LossFunction,
    names: Iterable[str],
    *,
    per_sample: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evidence:
    """Estimate E[g], E|g| and E[g²] of named weights, g = ∂L/∂w.

    There are two estimators, whose values differ:

    - per batch (default): g is the gradient of ``loss_fn`` on a whole batch, E the plain mean over batches. If
      the loss averages over a batch, E[g²] is the *squared batch-mean gradient*: its noise part shrinks with the batch
      size.
    - ``per_sample``: g is the gradient on one sample, E the mean over all samples: the empirical Fisher diagonal.
      Memory grows with batch size × weights, so it is for small models.

    The model runs in eval mode; modes, ``.grad`` and ``requires_grad`` stay as found.

    Args:
        model: the network.
        batches: pairs (inputs, targets); inputs are a tensor, a tuple of positional or a mapping of named inputs.
            They are moved to the device of the first named weight.
        loss_fn: (outputs, targets) → one number.
        names: parameters to collect for, each requiring grad.
        per_sample: use the second estimator.
        seed: passed on to the evidence.
        progress: called with (batches done, batches in all or 0 where unknown).

    Returns:
        `Evidence` with detached weights and the three statistics, at least float32, on the device of each weight.

    Raises:
        SelectorError: a name is no parameter of the model.
        OptionError: no names, a parameter that does not require grad, or a loss that is no single number.
        DataError: no batches, a batch that is no pair, or a gradient that is NaN or infinite; the tensor is named.
        ModelError: the loss has no gradient, or ``per_sample`` meets an operation that cannot be vectorised.
    """
    weights = _named_weights(model, names)
    estimate = _sample_moments if per_sample else _batch_moments
    device = next(iter(weights.values())).device
    sums: _Moments = {}
    count = 0
    with evaluating(model), sound_gradients(model):
        for index, (inputs, targets) in enumerate(pairs(batches, device, progress)):
            moments, samples = estimate(model, weights, loss_fn, inputs, targets)
            _check_finite(moments["grad_sq"], index)
            sums = _added(sums, moments) if sums else moments
            count += samples
    means = {field: {name: value / count for name, value in values.items()} for field, values in sums.items()}
    return Evidence({name: weight.detach() for name, weight in weights.items()}, seed=seed, **means)


def _named_weights(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights: dict[str, nn.Parameter] = {}
    for name in names:
        if name not in parameters:
            raise SelectorError(f"{name!r} names no parameter of the model.{nearest(name, parameters)}")
        if not parameters[name].requires_grad:
            raise OptionError(f"parameter {name!r} does not require grad; leave it out or unfreeze it.")
        weights[name] = parameters[name]
    if not weights:
        raise OptionError("no names to collect gradients for; give some, see prunable_weights(model).")
    return weights


def _batch_moments(
    model: nn.Module, weights: Mapping[str, nn.Parameter], loss_fn: LossFunction, inputs: Any, targets: Any
) -> tuple[_Moments, int]:
    loss = loss_on(loss_fn, answer(model, inputs), targets)
    # autograd.grad does not touch .grad; a weight that the batch does not use has gradient zero.
    computed = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    grads = {
        name: torch.zeros_like(precise(weight)) if grad is None else precise(grad)
        for (name, weight), grad in zip(weights.items(), computed, strict=True)
    }
    return _moments(grads), 1


def _sample_moments(
    model: nn.Module, weights: Mapping[str, nn.Parameter], loss_fn: LossFunction, inputs: Any, targets: Any
) -> tuple[_Moments, int]:
    def sample_loss(chosen: dict[str, Tensor], sample: Any, target: Any) -> Tensor:
        def run(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, chosen, args, kwargs)

        return loss_fn(call(run, _as_batch(sample)), _as_batch(target))

    chosen = {name: weight.detach() for name, weight in weights.items()}
    vectorised = torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, 0, 0))
    try:
        found = vectorised(chosen, inputs, targets)
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"per_sample gradients failed: {str(error).splitlines()[0]} "
            "Batches of size 1 with per_sample=False give the same statistics."
        ) from error
    each = _moments({name: precise(grad) for name, grad in found.items()})  # (B, *weight)
    sums = {field: {name: value.sum(0) for name, value in values.items()} for field, values in each.items()}
    return sums, len(next(iter(found.values())))


def _as_batch(value: Any) -> Any:
    """Add the batch dim of 1 that vmap removed from a sample."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.unsqueeze(0), value)


def _moments(grads: _Grads) -> _Moments:
    return {
        "grad": grads,
        "grad_abs": {name: grad.abs() for name, grad in grads.items()},
        "grad_sq": {name: grad.square() for name, grad in grads.items()},
    }


def _added(total: _Moments, more: _Moments) -> _Moments:
    return {
        field: {name: value + more[field][name] for name, value in values.items()} for field, values in total.items()
    }


def _check_finite(grads: _Grads, batch: int) -> None:
    for name, grad in grads.items():
        if not torch.isfinite(grad).all():
            raise DataError(
                f"gradient of {name!r} is NaN or infinite in calibration batch {batch}; "
                "allowed are finite numbers. Check the data and the weights."
            )
