"""Whatever state a model is in, its cut copy is in the same, and after any error the model is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from factories_states import snapshot
from prunus.analysis.score import make_plan
from prunus.errors import CaptureError, ModelError, PlanError, PrunusError, VerifyError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery import cut as cutting
from prunus.surgery.cut import cut_with_record

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
HALF = {"params": 0.5}
OTHER = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))


class Net(nn.Module):
    """One layer at two places, one module that holds sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Linear(12, 16), nn.BatchNorm1d(5), nn.Dropout(0.2)
        self.attention, self.shared = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 16)
        self.tail = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.stem(x)))
        x = self.shared(F.relu(self.shared(x + self.attention(x, x, x, need_weights=False)[0])))
        return self.head(self.tail(x)).mean(1)


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def halved(model: nn.Module, mode: str = "hybrid") -> nn.Module:
    coupling = couple(capture(model, X))
    keep = {a: np.arange(x.size) < max(1, x.size // 2) for a, x in coupling.axes.items()}
    return cut_with_record(model, coupling, make_plan(coupling, keep), X, mode=mode)[0]


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_every_module_keeps_its_mode_and_every_parameter_its_flag(mode: str) -> None:
    model = net().train()
    model.norm.eval()
    model.tail[0].eval()
    for name in ("stem.weight", "attention.in_proj_bias", "head.bias"):
        model.get_parameter(name).requires_grad_(False)
    before = snapshot(model)
    small = halved(model, mode)
    assert snapshot(model) == before
    modes = {path: m.training for path, m in model.named_modules()}
    assert {path: m.training for path, m in small.named_modules()} == modes
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in small.named_parameters()} == flags
    statistics = small.get_buffer("norm.running_mean").clone()
    small(X).sum().backward()
    assert torch.equal(small.get_buffer("norm.running_mean"), statistics), "the norm is in evaluation"
    assert {n for n, p in small.named_parameters() if p.grad is None} == {n for n, f in flags.items() if not f}


def test_hooks_go_with_their_modules() -> None:
    seen: list[tuple[str, Any]] = []
    model = net()
    model.stem.register_forward_hook(lambda m, args, out: seen.append(("forward", out.shape[-1])))
    model.attention.register_forward_pre_hook(lambda m, args: seen.append(("before", args[0].shape[-1])))
    model.tail[0].register_full_backward_hook(lambda m, grads, outs: seen.append(("backward", outs[0].shape[-1])))
    model.head.weight.register_hook(lambda grad: seen.append(("weight", grad.shape[-1])))
    small = halved(model)
    seen.clear()
    small(X).sum().backward()
    assert seen == [("forward", 8), ("before", 8), ("backward", 8)]
    seen.clear()
    model(X).sum().backward()
    assert seen == [("forward", 16), ("before", 16), ("weight", 16), ("backward", 16)]


def test_a_layer_at_two_places_stays_one() -> None:
    small = halved(net())
    assert small.shared.weight.shape == (8, 8)
    small.shared.weight.data.zero_()
    small.shared.bias.data.zero_()
    y = torch.zeros(2, 5, 8)
    torch.testing.assert_close(small(X), small.head(small.tail(y)).mean(1))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def in_place() -> nn.Module:
    model = net()
    model.compile(backend="eager")
    return model


def in_parts() -> nn.Module:
    model = net()
    model.tail = torch.compile(model.tail, backend="eager")  # type: ignore[assignment]
    return model


WRAPPED: dict[str, Callable[[], Any]] = {
    "compiled": lambda: torch.compile(net(), backend="eager"),
    "compiled in place": in_place,
    "compiled in parts": in_parts,
    "distributed": lambda: nn.parallel.DistributedDataParallel(net()),
    "both": lambda: torch.compile(nn.parallel.DistributedDataParallel(net()), backend="eager"),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_looked_through(name: str) -> None:
    expected = prunus.prune(net(), X, budget=HALF, forward="rewrite")
    result = prunus.prune(WRAPPED[name](), X, budget=HALF, forward="rewrite")
    assert type(result.model) is Net
    assert result.surgery.spliced == expected.surgery.spliced == ("attention",)
    torch.testing.assert_close(result.model(X), expected.model(X))
    result.model.train()(X).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


def parametrised(kind: str) -> Net:
    model = net()
    model.double()
    getattr(nn.utils.parametrizations, kind)(model.tail[0])
    model.tail(torch.randn(9, 16, dtype=torch.float64))
    return model


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_are_exact(kind: str) -> None:
    model = parametrised(kind)
    result = prunus.prune(model, X.double(), budget=HALF)
    assert result.check.ok
    assert sum(p.numel() for p in result.model.parameters()) == result.after.params
    small = result.model.train()
    small(X.double()).sum().backward()
    assert small.tail[0].weight.shape[0] == small.head.weight.shape[1]


def apart(device: str) -> nn.Module:
    model = net()
    model.tail.to(device)
    return model


def test_tensors_on_two_devices_are_named() -> None:
    message = r"several devices \('stem.weight' on cpu, 'tail.0.weight' on meta\); move the model to one device"
    with pytest.raises(ModelError, match=message) as caught:
        capture(apart("meta"), X)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"'tail\.0\.weight' is on the meta device and has no values"):
        prunus.prune(apart("meta"), X, budget=HALF)


class BadError(Exception):
    """Raised on purpose."""


def raising(*_: Any, **__: Any) -> Any:
    raise BadError


def spoiling(small: nn.Module, *_: Any) -> dict[str, Any]:
    small.head.weight.data.add_(1.0)
    return {}


def failed_cut(model: nn.Module, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    coupling = couple(capture(model, X))
    keep = {a: np.arange(x.size) < x.size // 2 for a, x in coupling.axes.items()}
    plan = make_plan(coupling, keep)
    if what == "plan":
        other = couple(capture(OTHER, X))
        cut_with_record(model, other, plan, X)
    elif what == "mode":
        cut_with_record(model, coupling, plan, X, mode="module")
    elif what == "budget":
        prunus.prune(model, X, budget={"params": 1e-9})
    elif what == "verify":
        monkeypatch.setattr(cutting, "mend_attributes_", spoiling)
        prunus.prune(model, X, budget=HALF, forward="rewrite")
    else:
        monkeypatch.setattr(cutting.Search if what == "search" else cutting, what_fails(what), raising)
        cut_with_record(model, coupling, plan, X, mode="graph" if what == "program" else "hybrid")


def what_fails(what: str) -> str:
    return {"search": "settled", "program": "Program", "copy": "copy_with", "mend": "mend_convolutions_"}[what]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("plan", PlanError),
        ("mode", CaptureError),
        ("budget", PrunusError),
        ("verify", VerifyError),
        ("search", BadError),
        ("program", BadError),
        ("copy", BadError),
        ("mend", BadError),
    ],
)
def test_after_an_error_the_model_is_as_it_was(
    what: str, error: type[Exception], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net().train(training)
    model.drop.eval()
    model.stem.weight.requires_grad_(False)
    model(X).sum().backward()
    before, inputs = snapshot(model), X.clone()
    with pytest.raises(error):
        failed_cut(model, monkeypatch, what)
    assert snapshot(model) == before
    assert torch.equal(X, inputs)
