"""How much faster: two models timed in turn in one process, the ratio with its interval."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.errors import OptionError
from prunus.measurement.batches import Inputs, call, check_count, device_of, move, tensors_in
from prunus.memory_format import sound_gradients

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """Time of a candidate over time of its baseline: below 1 is faster; milliseconds are medians of single calls."""

    median: float
    low: float
    high: float
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
) -> LatencyRatio:
    """Time two models in turn and return median and 95 % bootstrap interval of the per-round ratio.

    ratio_r = t_r(candidate) / t_r(baseline); who goes first alternates from round to round, so that a machine that
    slows down in the meantime slows both. Both models run in eval mode. Forward: one call under inference mode.
    Backward: the backward pass alone, from the mean square of the floating-point outputs to every parameter gradient;
    the forward pass before it and the clearing of the gradients after it lie outside the clock.
    The garbage collector is off while the clock runs; modes, gradients and thread count are put back.

    Args:
        candidate: The model in question.
        baseline: What it is compared with; may be the same model.
        inputs: One batch: a tensor, a tuple (positional) or a mapping (keywords).
        backward: Time the backward pass instead of the forward pass.
        rounds: Timed calls of each model.
        warmup: Calls of each before the clock runs.
        threads: Intra-op threads while timing; as they are where left out.
        seed: Of the bootstrap resampling.

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
    placed = [move(inputs, device_of(model)) for model in pair]
    times = np.empty((2, rounds))
    # What cannot be timed as it lies is timed in the memory format in which it can be trained.
    with _threads(threads) as used, _quiet(pair), sound_gradients(*pair) if backward else nullcontext():
        for _ in range(warmup):
            for which in (0, 1):
                clock(pair[which], placed[which])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                times[which, turn] = clock(pair[which], placed[which])
    median, low, high = _median_interval(times[0] / times[1], seed)
    candidate_ms, baseline_ms = (float(np.median(row)) * 1e3 for row in times)
    batch = next((len(tensor) for tensor in tensors_in(inputs) if tensor.ndim), 1)
    return LatencyRatio(median, low, high, candidate_ms, baseline_ms, rounds, used, batch, backward)


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
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


def _wait(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


@contextmanager
def _threads(count: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet(models: tuple[nn.Module, ...]) -> Iterator[None]:
    """Put the models in eval mode with cleared gradients; put modes and gradients back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    gradients: list[tuple[nn.Parameter, Tensor | None]] = [
        (parameter, parameter.grad) for model in models for parameter in model.parameters()
    ]
    try:
        for model in models:
            model.eval()
            model.zero_grad(set_to_none=True)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _median_interval(ratios: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    draws = np.random.default_rng(seed).integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)
