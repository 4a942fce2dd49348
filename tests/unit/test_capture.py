"""Capture: what it refuses and how it says so, which way it takes, and models with habits of their own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from factories_states import snapshot
from prunus.errors import BudgetError, CaptureError, ModelError, OptionError
from prunus.graph.capture import capture, preserved

INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
HALF = {"params": 0.5}


class Net(nn.Module):
    """Two linear layers and something in between."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor] = F.relu) -> None:
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(6, 8), nn.Linear(8, 2), middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def spoiled(value: float, *, buffer: bool = False) -> nn.Module:
    model = Net()
    if buffer:
        model.register_buffer("mask", torch.full((2,), value))
    else:
        model.first.weight.data[0, 0] = value
    return model


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2))


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spoiled(float("nan")), r"'first.weight' holds NaN or infinite values; load a sound checkpoint"),
        (lambda: spoiled(float("-inf")), r"'first.weight' holds NaN or infinite"),
        (lambda: spoiled(float("nan"), buffer=True), r"'mask' holds NaN"),
        (on_meta, r"'first.weight' is on the meta device and has no values; load the weights first"),
        (lazy, r"'0.weight' is lazy and has no shape yet; run one forward pass first"),
        (quantised, r"'first' is quantised; prune the float model first"),
        (scripted, r"TorchScript module; prune the nn.Module it was made from"),
        (lambda: "resnet50", r"model is 'resnet50'; allowed: a torch.nn.Module"),
    ],
    ids=["nan", "infinite", "nan buffer", "meta", "lazy", "quantised", "scripted", "no module"],
)
def test_models_that_cannot_be_used_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        prunus.prune(make(), INPUTS, budget=HALF)
    assert "\n" not in str(caught.value)


def test_buffers_may_hold_minus_infinity() -> None:
    assert prunus.prune(spoiled(float("-inf"), buffer=True), INPUTS, budget=HALF).check.ok


def test_weights_may_be_so_large_that_their_sum_is_infinite() -> None:
    net = Net()
    nn.init.constant_(net.first.weight, 3e38)
    assert prunus.analyse(net, INPUTS).coupling.axes


def test_wrong_inputs_name_the_file_and_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        prunus.prune(Net(), torch.randn(4, 5), budget=HALF)
    message = str(caught.value)
    assert re.search(r"test_capture\.py:\d+", message), message
    assert "4x5 and 6x8" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", ""), "one line, no logs of torch beside it"


def test_a_forward_that_raises_is_named() -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such key")

    with pytest.raises(CaptureError, match=r"Net could not be captured.*test_capture\.py:\d+.*no such key"):
        capture(Net(refuse), INPUTS)


def test_inputs_and_ways_that_do_not_exist() -> None:
    with pytest.raises(OptionError, match="give a tensor, a tuple of arguments or a dict"):
        capture(Net(), None)
    with pytest.raises(OptionError, match="capture method 'trace' is unknown; allowed: auto, record, run, export"):
        capture(Net(), INPUTS, method="trace")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(6, 3), r"all its dims are frozen \(input, output\)\. Use levels"),
        (nn.ReLU(), "it has no weights"),
    ],
)
def test_nothing_to_remove_is_an_error(model: nn.Module, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        prunus.prune(model, INPUTS, budget=HALF)


def test_everything_ignored_is_an_error() -> None:
    with pytest.raises(BudgetError, match=r"ignored: Linear\): all 1 axes are held.*Loosen ignore"):
        prunus.prune(Net(), INPUTS, budget=HALF, ignore=["Linear"])


def test_control_flow_on_data_is_captured_on_real_tensors() -> None:
    def middle(x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if float(x.sum()) > -1e9 else x.sigmoid()

    graph = capture(Net(middle), INPUTS)
    assert "real" in graph.how
    assert prunus.prune(Net(middle), INPUTS, budget=HALF).check.ok


@pytest.mark.parametrize("method", ["record", "run", "export"])
def test_every_way_gives_the_same_program(method: str) -> None:
    program = [node.op for node in capture(Net(), INPUTS).nodes if node.op.startswith("aten")]
    assert [node.op for node in capture(Net(), INPUTS, method=method).nodes if node.op.startswith("aten")] == program


class Habits(nn.Module):
    """Keeps activations, counts calls, and shares a list with the outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.calls, self.log = 0, list[str]()
        self.kept: torch.Tensor | None = None
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.log.append("called")
        self.kept = self.first(x)
        self.total += 1
        return self.last(self.norm(self.kept))


def test_models_with_habits_are_left_as_they_were() -> None:
    model = Habits()
    model(INPUTS)
    log, kept, before = model.log, model.kept, snapshot(model)
    small = prunus.prune(model, INPUTS, budget=HALF).model
    assert snapshot(model) == before
    assert model.log is log
    assert log == ["called"]
    assert model.kept is kept
    small(INPUTS)
    assert small.kept.shape[1] < 8
    assert small.calls == 2
    assert log == ["called"]


def test_a_failed_capture_leaves_the_model_as_it_was() -> None:
    model, wrong = Habits().train(), torch.randn(4, 5)
    before = snapshot(model)
    with pytest.raises(CaptureError):
        capture(model, wrong)
    assert snapshot(model) == before


def test_preserved_puts_everything_back() -> None:
    model = Habits().train()
    before = snapshot(model)
    with preserved(model):
        assert not model.norm.training
        model(INPUTS)
        model.calls = 99
        model.extra = object()
        torch.rand(3)
    assert snapshot(model) == before


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "weight_norm by hooks", "torch prune"])
def test_parametrised_weights(kind: str, training: bool) -> None:
    import torch.nn.utils.prune as torch_prune

    torch.manual_seed(0)
    model = Net().train(training)
    if kind == "torch prune":
        torch_prune.l1_unstructured(model.first, "weight", 0.5)
    elif kind == "weight_norm by hooks":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(model.first)
    else:
        getattr(nn.utils.parametrizations, kind)(model.first)
    model(INPUTS)
    before = snapshot(model)
    result = prunus.prune(model, INPUTS, budget=HALF)
    assert snapshot(model) == before
    assert result.model(INPUTS).shape == (4, 2)
    assert result.model.last.weight.shape[1] < 8


def test_a_huge_constant_is_computed_in_every_call_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(40, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            where = torch.arange(x.shape[1]).clamp(0, 39)
            return x + nn.functional.one_hot(where, 40).to(x.dtype) @ self.table

    model, x = Positions(), torch.randn(2, 6, 8)
    kept = capture(model, x)
    assert sum(value.numel() for value in kept.constants.values()) == 6 * 40
    monkeypatch.setattr("prunus.graph.passes._LARGEST", 100)
    left = capture(model, x)
    assert sum(value.numel() for value in left.constants.values()) <= 6
    assert any("one_hot" in node.op or "eq" in node.op or "scatter" in node.op for node in left.nodes)
