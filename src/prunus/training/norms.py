"""Re-estimation of the running statistics of batch norms, without labels or training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count, islice

import torch
from torch import nn

from prunus.data.batches import Batch, answer, check_count, device_of, moved, pair_of, tensors_in
from prunus.errors import DataError
from prunus.foundation.as_found import in_eval_mode


def reestimate_statistics_(model: nn.Module, batches: Iterable[Batch], *, max_batches: int = 100) -> int:
    """Reset the running statistics of every batch norm and average them over forward batches; return their number.

    running ← (1/n) Σ_b statistic(batch b), each batch with the same weight. Only batch norms run in train mode;
    everything else (dropout, other norms) in eval mode. Modes and momenta are restored; nothing else changes.
    Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576 (PreciseBN).

    Args:
        model: Its batch norm buffers change in place; for a model without any, 0 is returned.
        batches: Pairs (inputs, targets); targets are ignored. Batches of one sample are passed over.
        max_batches: The largest number of batches used.

    Raises:
        OptionError: max_batches < 1.
        DataError: a batch that is no pair, or no batch of at least two samples; the statistics are then unchanged.
    """
    check_count("max_batches", max_batches)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = [module for module in model.modules() if isinstance(module, kinds) and module.running_mean is not None]
    if not norms:
        return 0
    usable = (inputs for inputs, _ in map(pair_of, batches, count()) if len(next(tensors_in(inputs))) > 1)
    chosen = islice(usable, max_batches)
    first = next(chosen, None)
    if first is None:
        raise DataError(
            "reestimate_statistics_ got no batch of at least 2 samples; a batch norm needs a variance. "
            "Give calibration data, in larger batches."
        )
    momenta = [(norm, norm.momentum) for norm in norms]
    device, used = device_of(model), 0
    with in_eval_mode(model), torch.no_grad():
        try:
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
            for inputs in chain((first,), chosen):  # unpacking would keep every batch in memory at once
                answer(model, moved(inputs, device))
                used += 1
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum
    return used
