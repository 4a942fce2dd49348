"""Latency ratio of two models, timed in turn in one process, with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prunus.data.batches import Inputs, call, check_count, device_of, moved, tensors_in
from prunus.errors import OptionError
from prunus.foundation.as_found import collector_paused, gradients_put_aside, in_eval_mode, threads_set
from prunus.foundation.memory_format import sound_gradients
from prunus.measurement.bootstrap import median_interval
from prunus.measurement.interval import MedianRatio


@dataclass(frozen=True, slots=True)
class LatencyRatio(MedianRatio):
    """Time of a candidate over time of its baseline: below 1 is faster; milliseconds are medians of single calls."""

    candidate_ms: float
    baseline_ms: float
    rounds: int
    threads: int
    batch: int
    backward: bool


def latency_ratio(
    candidate: nn.Module,
    baseline: nn.Module,
    inputs: Inputs,
    *,
    backward: bool = False,
    rounds: int = 30,
    warmup: int = 3,
    threads: int | None = None,
    seed: int = 0,
    baseline_inputs: Inputs | None = None,
) -> LatencyRatio:
    """Time two models in turn and return median and 95 % bootstrap interval of the per-round ratio.

    ratio_r = t_r(candidate) / t_r(baseline); the order alternates from round to round, so a machine that slows
    down slows both. Both models run in eval mode. Forward: one call under inference mode.
    Backward: the backward pass alone, from the mean square of the floating-point outputs to every parameter gradient;
    the forward pass before it and the clearing of the gradients after it are not timed.
    The garbage collector is off while the clock runs; modes, gradients and thread count are restored.

    Args:
        candidate: The model to compare.
        baseline: The model to compare it with; may be the same model.
        inputs: One batch: a tensor, a tuple (positional) or a mapping (keywords).
        backward: Time the backward pass instead of the forward pass.
        rounds: Timed calls of each model.
        warmup: Untimed calls of each model before.
        threads: Intra-op threads while timing; None leaves them as they are.
        seed: Of the bootstrap resampling.
        baseline_inputs: The batch of the baseline where it takes another size; by default that of the candidate.

    Units: milliseconds; the ratio has none.

    Raises:
        OptionError: rounds or threads < 1, warmup < 0, or ``backward`` on a model without trainable parameters.

    Warns:
        MemoryFormatWarning: a layer works in the default memory format, because its own would corrupt memory.
    """
    check_count("rounds", rounds)
    check_count("warmup", warmup, least=0)
    if threads is not None:
        check_count("threads", threads)
    clock = _backward_seconds if backward else _forward_seconds
    pair = (candidate, baseline)
    given = (inputs, inputs if baseline_inputs is None else baseline_inputs)
    placed = [moved(own, device_of(model)) for own, model in zip(given, pair, strict=True)]
    times = np.empty((2, rounds))
    # Layers whose memory format makes gradients unsound are timed in the format in which they can be trained.
    sound = sound_gradients(*pair) if backward else nullcontext()
    with threads_set(threads) as used, in_eval_mode(*pair), gradients_put_aside(*pair), sound:
        for _ in range(warmup):
            for which in (0, 1):
                clock(pair[which], placed[which])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                times[which, turn] = clock(pair[which], placed[which])
    ratio = median_interval(times[0] / times[1], seed)
    candidate_ms, baseline_ms = (float(np.median(row)) * 1e3 for row in times)
    batch = next((len(tensor) for tensor in tensors_in(inputs) if tensor.ndim), 1)
    return LatencyRatio(ratio.estimate, ratio.low, ratio.high, candidate_ms, baseline_ms, rounds, used, batch, backward)


def _forward_seconds(model: nn.Module, inputs: Inputs) -> float:
    with torch.inference_mode():
        return _timed(lambda: call(model, inputs), device_of(model))


def _backward_seconds(model: nn.Module, inputs: Inputs) -> float:
    with torch.enable_grad():
        roots = [tensor for tensor in tensors_in(call(model, inputs)) if tensor.requires_grad]
        if not roots:
            raise OptionError(
                f"backward=True, but no output of {type(model).__name__} depends on a trainable parameter; "
                "set requires_grad on its parameters or time the forward pass."
            )
        loss = torch.stack([root.float().square().mean() for root in roots]).sum()
    seconds = _timed(loss.backward, device_of(model))
    model.zero_grad(set_to_none=True)
    return seconds


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    with collector_paused():
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
