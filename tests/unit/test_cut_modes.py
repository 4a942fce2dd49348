"""Cutting in module, hybrid and graph mode: exact, trainable, any batch, and refused where it cannot be exact."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from factories_cuts import random_share
from factories_states import snapshot
from prunus.analysis.score import make_plan
from prunus.errors import CaptureError, OptionError, PlanError, VerifyError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Drop, Plan
from prunus.surgery.cut import cut, cut_with_record
from prunus.surgery.proving.verify import compare_models, verify
from prunus.surgery.record import Surgery

MODES = ("module", "hybrid", "graph")


class Conv(nn.Module):
    """Nothing in its forward knows a size: module mode serves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.shared, self.drop, self.head = nn.Conv2d(8, 8, 1), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = self.shared(x) + self.shared(x.flip(-1))
        return self.head(self.drop(x.mean((2, 3))))


class Attention(nn.Module):
    """A forward full of sizes: hybrid mode rewrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = nn.Linear(6, 12), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.qkv, self.out, self.head = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        y = F.dropout(y.transpose(1, 2).reshape(batch, tokens, 12), 0.2, self.training)
        return self.head(self.drop(x + self.out(y)).mean(1))


INPUTS = {Conv: torch.randn(2, 3, 6, 6), Attention: torch.randn(2, 5, 6)}
CASES = [(Conv, mode) for mode in MODES] + [(Attention, mode) for mode in MODES[1:]]
cases = pytest.mark.parametrize(("kind", "mode"), CASES)


def operated(
    kind: type[nn.Module], mode: str, *, training: bool = False
) -> tuple[nn.Module, nn.Module, Surgery, Coupling, Plan]:
    torch.manual_seed(0)
    model = kind().train(training)
    coupling = couple(capture(model, INPUTS[kind]))
    plan = make_plan(coupling, random_share(coupling, 1, 0.4, 0.7))
    small, surgery = cut_with_record(model, coupling, plan, INPUTS[kind], mode=mode)
    return model, small, surgery, coupling, plan


@cases
def test_every_mode_is_exact_and_says_what_it_did(kind: type[nn.Module], mode: str) -> None:
    model, small, surgery, coupling, plan = operated(kind, mode)
    check = verify(model, small, coupling, plan, INPUTS[kind])
    assert check.error < 1e-8
    assert check.change > 1e-3
    assert surgery.mode == ("module" if kind is Conv and mode == "hybrid" else mode)
    assert surgery.spliced == (("",) if surgery.mode == "hybrid" else ())
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert type(small).__name__ == ("Program" if mode == "graph" else kind.__name__)
    assert mode == "graph" or isinstance(small, kind)


def test_modes_agree() -> None:
    for kind in (Conv, Attention):
        outputs = [operated(kind, mode)[1](INPUTS[kind]) for k, mode in CASES if k is kind]
        for other in outputs[1:]:
            torch.testing.assert_close(other, outputs[0])


def test_integers_of_modules_are_mended() -> None:
    _, small, surgery, _, plan = operated(Conv, "module")
    kept = len(plan.keep["conv.weight"][0])
    assert small.conv.out_channels == small.norm.num_features == small.shared.in_channels == kept
    assert small.head.in_features == small.head.weight.shape[1]
    assert surgery.attributes["conv"] == {"out_channels": kept}


@cases
def test_modes_switch_dropout_and_norms(kind: type[nn.Module], mode: str) -> None:
    _, small, _, _, _ = operated(kind, mode)
    x, mean = INPUTS[kind], small.get_buffer("norm.running_mean")
    assert torch.equal(small(x), small(x))
    before = mean.clone()
    small.train()
    assert not torch.equal(small(x), small(x)), "dropout draws"
    assert not torch.equal(mean, before), "running statistics move"
    before = mean.clone()
    small.eval()
    assert torch.equal(small(x), small(x))
    assert torch.equal(mean, before)


@cases
def test_a_training_model_stays_one_and_is_not_touched(kind: type[nn.Module], mode: str) -> None:
    torch.manual_seed(0)
    model = kind().train()
    coupling = couple(capture(model, INPUTS[kind]))
    plan, before = make_plan(coupling, random_share(coupling, 1, 0.4, 0.7)), snapshot(model)
    small = cut(model, coupling, plan, INPUTS[kind], mode=mode)
    verify(model, small, coupling, plan, INPUTS[kind])
    assert snapshot(model) == before
    assert all(m.training for m in small.modules())


@cases
def test_one_step_of_training_moves_every_parameter(kind: type[nn.Module], mode: str) -> None:
    _, small, _, _, _ = operated(kind, mode, training=True)
    before = {n: p.detach().clone() for n, p in small.named_parameters()}
    optimizer = torch.optim.Adam(small.parameters(), 0.05)
    F.cross_entropy(small(torch.cat([INPUTS[kind]] * 4)), torch.arange(8) % 4).backward()
    optimizer.step()
    assert {n for n, p in small.named_parameters() if torch.equal(p, before[n])} == set()


@cases
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_any_batch_size(kind: type[nn.Module], mode: str, batch: int) -> None:
    _, small, _, _, _ = operated(kind, mode)
    x = torch.randn(batch, *INPUTS[kind].shape[1:])
    whole = small(torch.cat([x, x]))
    assert small(x).shape == (batch, 4)
    torch.testing.assert_close(whole[:batch], small(x), rtol=1e-4, atol=1e-5)


@cases
def test_cut_models_are_copied_and_saved_like_others(kind: type[nn.Module], mode: str) -> None:
    _, small, _, _, _ = operated(kind, mode)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        twin.get_parameter("head.weight").zero_()
    twin.load_state_dict(small.state_dict())
    assert torch.equal(twin(INPUTS[kind]), small(INPUTS[kind]))


def test_module_mode_refuses_stale_code() -> None:
    with pytest.raises(CaptureError, match=r"Attention cannot be cut in module mode: .* Use mode='hybrid'"):
        operated(Attention, "module")


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(OptionError, match="cut mode 'fx' is unknown; allowed: hybrid, module, graph"):
        operated(Conv, "fx")


def test_plans_for_another_model_are_refused() -> None:
    model, _, _, _, plan = operated(Conv, "module")
    other = couple(capture(Attention(), INPUTS[Attention]))
    with pytest.raises(PlanError, match="Plan again for this model"):
        cut(model, other, plan, INPUTS[Attention])


def test_an_emptied_axis_is_refused() -> None:
    coupling = couple(capture(Conv(), INPUTS[Conv]))
    name, axis = next(iter(coupling.axes.items()))
    with pytest.raises(PlanError, match=r"would keep 0 of 8 units in dim 0; at least 1 must stay"):
        make_plan(coupling, {name: np.zeros(axis.size, bool)})


def test_bypassing_what_is_not_there_is_refused() -> None:
    coupling = couple(capture(Conv(), INPUTS[Conv]))
    with pytest.raises(PlanError, match="'no such join'"):
        make_plan(coupling, {}, [Drop("no such join", 0, "a branch")])
    join = next(n.name for n in coupling.graph.nodes if n.op.startswith("aten.add"))
    with pytest.raises(PlanError, match="keep one"):
        make_plan(coupling, {}, [Drop(join, 0, "left"), Drop(join, 1, "right")])


@pytest.mark.parametrize("what", ["a wrong value", "a wrong forward", "another unit"])
def test_verify_catches_what_is_not_the_masked_original(what: str) -> None:
    model, small, _, coupling, plan = operated(Conv, "module")
    if what == "a wrong value":
        small.conv.weight.data[0, 0, 0, 0] += 1e-3
    elif what == "a wrong forward":
        small.drop = nn.Tanh()
    else:
        small.head.weight.data = small.head.weight.data.flip(1)
    with pytest.raises(VerifyError, match=r"The cut Conv .* masked original"):
        verify(model, small, coupling, plan, INPUTS[Conv])
    assert not compare_models(model, small, coupling, plan, INPUTS[Conv]).ok


def test_nothing_hides_behind_zeros() -> None:
    """With a last layer of zeros every output is zero: the check perturbs the constants and sees the change."""
    torch.manual_seed(0)
    model = Conv().eval()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    coupling = couple(capture(model, INPUTS[Conv]))
    plan = make_plan(coupling, random_share(coupling, 1, 0.4, 0.7))
    small = cut(model, coupling, plan, INPUTS[Conv])
    assert verify(model, small, coupling, plan, INPUTS[Conv]).change > 1e-3
    small.norm = nn.Identity()
    assert not compare_models(model, small, coupling, plan, INPUTS[Conv]).ok


def test_a_written_forward_lets_go_of_values_that_nothing_reads_any_more() -> None:

    class Alive(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.made: list[weakref.ref[torch.Tensor]] = []
            self.most = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.made.append(weakref.ref(out))
                self.most = max(self.most, sum(ref() is not None for ref in self.made))
            return out

    model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(6, 6), nn.Tanh())])
    x = torch.randn(2, 6)
    coupling = couple(capture(model, x))
    plan = make_plan(coupling, {a.id: np.arange(a.size) < 4 for a in coupling.axes.values()})
    program, _ = cut_with_record(model, coupling, plan, x, mode="graph")
    with torch.no_grad(), Alive() as alive:
        program(x)
    assert len(alive.made) >= 16
    assert alive.most <= 3
