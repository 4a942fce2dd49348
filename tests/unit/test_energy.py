"""Energy: counters that wrap around, machines that cannot tell, and a budget met by what a meter says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus import analyse
from prunus.errors import OptionError
from prunus.measurement.energy import Meter, energy_ratio, find_meter
from prunus.pipeline.measured_budget import _next


def zone(root: Path, name: str, kind: str, counter: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{counter}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_added_up_and_wrap_around(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 100)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    platform = zone(tmp_path, "intel-rapl:2", "psys", 5)
    meter = find_meter("cpu", tmp_path)
    assert meter.name == "RAPL, 2 packages"
    assert meter.joules() == 0
    (first / "energy_uj").write_text("100000\n")  # 200,000 µJ later it has started again
    (second / "energy_uj").write_text("300100\n")
    for ignored in (part, platform):
        (ignored / "energy_uj").write_text("999999\n")
    assert meter.joules() == pytest.approx(0.5)
    assert meter.joules() == 0


@pytest.mark.parametrize(
    ("zones", "said"), [(False, "no RAPL zone there"), (True, "1 RAPL zones there, none readable")]
)
def test_a_machine_that_cannot_tell_is_named(tmp_path: Path, zones: bool, said: str) -> None:
    if zones:
        (zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").write_text("")
    with pytest.raises(OptionError, match=rf"{said}.*latency_ms or macs"):
        find_meter("cpu", tmp_path)


class Fake:
    """A counter that goes up by the multiplications that the models around it did."""

    def __init__(self) -> None:
        self.spent = self.seen = 0.0

    def joules(self) -> float:
        found, self.seen = self.spent - self.seen, self.spent
        return found


def watched(model: nn.Module, fake: Fake) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, a, o: setattr(fake, "spent", fake.spent + m.weight.numel()))
    return model


def test_the_ratio_is_that_of_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.measurement.energy._LEAST_SECONDS", 0.001)
    fake = Fake()
    small, large = (watched(nn.Sequential(nn.Linear(64, n)), fake) for n in (8, 32))
    large.train()
    found = energy_ratio(small, large, torch.randn(2, 64), Meter("fake", fake.joules), rounds=3)
    assert found.median == found.low == found.high == pytest.approx(0.25)
    assert found.baseline_mj == pytest.approx(64 * 32 * 1e3)
    assert large.training
    with pytest.raises(OptionError, match="fake stands still"):
        energy_ratio(small, large, torch.randn(2, 64), Meter("fake", lambda: 0.0), rounds=2)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8))


def test_a_budget_of_energy_is_met_as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"last": time.perf_counter()}

    def joules() -> float:
        now = time.perf_counter()
        spent, clock["last"] = now - clock["last"], now
        return spent

    meter = Meter("fake", joules)
    monkeypatch.setattr("prunus.pipeline.planner.find_meter", lambda device: meter)
    monkeypatch.setattr("prunus.pipeline.measured_budget.find_meter", lambda device: meter)
    # As if a call cost a tenth of the whole however small the network is.
    shares: list[float] = []

    class Ratio:
        def __init__(self, value: float) -> None:
            self.median = self.low = self.high = value

    def measured(small: nn.Module, model: nn.Module, inputs: object, meter: Meter, seed: int) -> Ratio:
        macs = [sum(m.weight.numel() for m in x.modules() if isinstance(m, nn.Linear)) for x in (small, model)]
        shares.append(0.1 + 0.9 * macs[0] / macs[1])
        return Ratio(shares[-1])

    monkeypatch.setattr("prunus.pipeline.measured_budget.energy_ratio", measured)
    result = prunus.prune(net(), torch.randn(4, 64), budget={"energy": 0.5})
    told = result.plan.settings["energy"]
    assert told["wanted"] == pytest.approx(0.5, abs=1e-3)
    assert told["measured"] == pytest.approx(0.5, rel=0.03)
    assert told["predicted"] < 0.47
    assert len(shares) >= 2


@pytest.mark.parametrize("value", [0, 1.0, 5, "1J", True])
def test_only_a_kept_fraction_is_a_budget_of_energy(value: object) -> None:
    with pytest.raises(OptionError, match="allowed: a kept fraction between 0 and 1"):
        prunus.prune(net(), torch.randn(4, 64), budget={"energy": value})  # type: ignore[dict-item]


def test_without_a_meter_nothing_is_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("prunus.measurement.energy.POWERCAP", tmp_path)

    def missing(device: object = "cpu") -> Meter:
        return find_meter("cpu", tmp_path)

    monkeypatch.setattr("prunus.pipeline.planner.find_meter", missing)
    for act in (
        lambda: prunus.prune(net(), torch.randn(4, 64), budget={"energy": 0.5}),
        lambda: analyse(net(), torch.randn(4, 64)).plan({"energy": 0.5}),
    ):
        with pytest.raises(OptionError, match="cannot be read on this machine"):
            act()


def test_the_next_request_lies_between_the_plans_around_the_goal() -> None:
    assert _next({0.5: 0.55}, 0.5) == pytest.approx(0.5 * 0.5 / 0.55)
    assert _next({0.5: 0.56, 0.44: 0.45}, 0.5) == pytest.approx(0.44 + 0.06 * 0.05 / 0.11)
    assert _next({0.5: 2.0}, 0.5) == 0.25  # never by more than a factor of two
