"""Latency ratios: what is timed, in which order, and what is left as it was."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.errors import OptionError
from prunus.measurement import latency
from prunus.measurement.bootstrap import median_interval
from prunus.measurement.latency import latency_ratio


class Work(nn.Module):
    """A chain of ``depth`` products, so that cost is proportional to depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.weight = nn.Parameter(torch.eye(192))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = x @ self.weight
        return x


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backward", [False, True])
def test_less_work_is_faster(backward: bool) -> None:
    result = latency_ratio(Work(2), Work(40), torch.randn(192, 192), backward=backward, rounds=11)
    assert result.median < 0.5
    assert 0 < result.low <= result.median <= result.high
    assert result.candidate_ms < result.baseline_ms
    assert (result.rounds, result.threads, result.batch, result.backward) == (11, 1, 192, backward)


def test_ratio_and_interval_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, baseline = Work(1), Work(1)
    order: list[str] = []

    def clock(model: nn.Module, inputs: Any) -> float:
        order.append("c" if model is candidate else "b")
        return 0.002 if model is candidate else 0.004

    monkeypatch.setattr(latency, "_forward_seconds", clock)
    result = latency_ratio(candidate, baseline, torch.zeros(3, 192), rounds=4, warmup=1)
    assert (result.median, result.low, result.high) == (0.5, 0.5, 0.5)
    assert (result.candidate_ms, result.baseline_ms) == pytest.approx((2.0, 4.0))
    assert "".join(order) == "cb" + "cb" + "bc" + "cb" + "bc"


def test_interval_is_decided_by_the_seed() -> None:
    ratios = torch.rand(20, generator=torch.Generator().manual_seed(0)).double().numpy()
    first = median_interval(ratios, seed=3)
    assert first == median_interval(ratios, seed=3)
    assert first.low < first.estimate < first.high


@pytest.mark.parametrize("backward", [False, True])
def test_everything_is_left_as_it_was(backward: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[2].eval()
    model[0].weight.grad = torch.full((4, 4), 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latency_ratio(model, model, torch.randn(5, 4), backward=backward, rounds=2, threads=2)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.equal(model[0].weight.grad, torch.full((4, 4), 7.0))
    assert model[0].bias.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.get_num_threads() == 1
    assert gc.isenabled()


def test_collector_is_off_and_mode_is_eval_while_the_clock_runs() -> None:
    seen: list[tuple[bool, bool, int]] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((gc.isenabled(), self.training, torch.get_num_threads()))
            return x

    latency_ratio(Spy(), Spy(), torch.zeros(1), rounds=1, warmup=0, threads=2)
    assert seen == [(False, False, 2)] * 2


@pytest.mark.parametrize("wrap", [lambda y: (y, y.argmax(1)), lambda y: {"logits": y, "hidden": [y * 2]}])
def test_nested_outputs_have_a_backward(wrap: Any) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Any:
            return wrap(self.linear(x) * scale)

    inputs = {"x": torch.randn(6, 3), "scale": torch.ones(())}
    result = latency_ratio(Nested(), Nested(), inputs, backward=True, rounds=2)
    assert result.batch == 6
    assert result.baseline_ms > 0


def test_threads_are_put_back_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        latency_ratio(model, model, torch.zeros(1), threads=2)
    assert torch.get_num_threads() == 1
    assert model.training
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rounds": 0}, "rounds is 0"), ({"warmup": -1}, "warmup is -1"), ({"threads": 0}, "threads is 0")],
)
def test_bad_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        latency_ratio(Work(1), Work(1), torch.zeros(1, 192), **options)


def test_a_backward_needs_something_to_train() -> None:
    with pytest.raises(OptionError, match="trainable parameter"):
        latency_ratio(nn.ReLU(), nn.ReLU(), torch.zeros(1, 2), backward=True)
