"""Energy of a forward call on machines with a counter: RAPL for the processor, NVML for the GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunus.data.batches import Inputs, call, device_of, moved
from prunus.errors import OptionError
from prunus.foundation.as_found import in_eval_mode
from prunus.measurement.bootstrap import median_interval
from prunus.measurement.interval import MedianRatio

POWERCAP = Path("/sys/class/powercap")
_LEAST_SECONDS = 0.1
"""The shortest span of a reading; a counter is refreshed about once a millisecond."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A counter of energy.

    Attributes:
        name: of the counter, for people.
        joules: () → energy of the whole device since the last call; the first call sets the start and returns 0.
    """

    name: str
    joules: Callable[[], float]


@dataclass(frozen=True, slots=True)
class EnergyRatio(MedianRatio):
    """Energy of a candidate over that of a baseline: median of the rounds with its 95 % bootstrap interval."""

    candidate_mj: float
    baseline_mj: float
    meter: str


def find_meter(device: torch.device | str = "cpu", powercap: Path = POWERCAP) -> Meter:
    """Return the meter of a device.

    Args:
        device: for the CPU the sum over the processor packages (RAPL); for CUDA the board (NVML, by the package
            ``pynvml``).
        powercap: the folder in which Linux shows RAPL.

    Raises:
        OptionError: no counter can be read.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _nvml(device)
    # Packages are intel-rapl:0, intel-rapl:1, …; zones below them are part of them, "psys" contains them all.
    zones = [z for z in sorted(powercap.glob("*rapl*:*")) if z.name.count(":") == 1 and _text(z / "name") != "psys"]
    readable = [z for z in zones if os.access(z / "energy_uj", os.R_OK) and _text(z / "energy_uj").isdigit()]
    if device.type != "cpu" or not readable:
        found = f"{len(zones)} RAPL zones there, none readable" if zones else "no RAPL zone there"
        raise OptionError(
            f"budget energy: the energy of device {device.type!r} cannot be read on this machine ({powercap}: {found})"
            ". Make energy_uj readable for this user, or give the budget as latency_ms or macs."
        )
    return Meter(f"RAPL, {len(readable)} package{'s' if len(readable) > 1 else ''}", _Rapl(readable))


class _Rapl:
    """The sum of the counters of some zones; a counter wraps to zero at its largest value."""

    def __init__(self, zones: list[Path]) -> None:
        self.zones = zones
        self.ranges = [int(_text(z / "max_energy_range_uj") or 0) for z in zones]
        self.last: list[int] | None = None

    def __call__(self) -> float:
        now = [int(_text(zone / "energy_uj")) for zone in self.zones]
        before, self.last = self.last or now, now
        spent = (n - b if n >= b else n - b + r for n, b, r in zip(now, before, self.ranges, strict=True))
        return sum(spent) / 1e6


def _nvml(device: torch.device) -> Meter:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # The errors of the driver have no common type.
        raise OptionError(
            f"budget energy: NVML does not tell the energy of {device} ({type(error).__name__}: {error}). Install "
            "nvidia-ml-py and a driver that counts it, or give the budget as latency_ms or macs."
        ) from error
    last: list[float] = []

    def joules() -> float:
        now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        spent = now - last[0] if last else 0.0
        last[:] = [now]
        return float(spent)

    return Meter("NVML", joules)


def energy_ratio(
    candidate: nn.Module, baseline: nn.Module, inputs: Inputs, meter: Meter, *, rounds: int = 11, seed: int = 0
) -> EnergyRatio:
    """Run two models in turn and compare the energy of a call.

    Each reading spans as many calls as take 0.1 s. Other programs on the machine are counted too, so it should be idle.

    Args:
        candidate: the model to compare.
        baseline: the model to compare it with.
        inputs: one call.
        meter: of the device of both models.
        rounds: readings of each model.
        seed: of the bootstrap resampling.

    Units: millijoules a call; the ratio has none.

    Raises:
        OptionError: the counter does not move.
    """
    pair = (candidate, baseline)
    placed = [moved(inputs, device_of(model)) for model in pair]
    spent = np.empty((2, rounds))
    with in_eval_mode(*pair):
        calls = [_calls(model, x) for model, x in zip(pair, placed, strict=True)]
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                meter.joules()
                _run(pair[which], placed[which], calls[which])
                spent[which, turn] = meter.joules() / calls[which]
    if not (spent > 0).all():
        raise OptionError(f"budget energy: {meter.name} stands still; give the budget as latency_ms or macs.")
    ratio = median_interval(spent[0] / spent[1], seed)
    mj = np.median(spent, axis=1) * 1e3
    return EnergyRatio(ratio.estimate, ratio.low, ratio.high, float(mj[0]), float(mj[1]), meter.name)


def _calls(model: nn.Module, inputs: Inputs) -> int:
    _run(model, inputs, 1)
    start = time.perf_counter()
    _run(model, inputs, 1)
    return max(1, int(_LEAST_SECONDS / max(time.perf_counter() - start, 1e-6)))


def _run(model: nn.Module, inputs: Inputs, calls: int) -> None:
    with torch.inference_mode():
        for _ in range(calls):
            call(model, inputs)
    if device_of(model).type == "cuda":
        torch.cuda.synchronize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
