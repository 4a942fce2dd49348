"""Verify on what models do: half precision, odd outputs, random numbers, other devices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_verified import ATTENTION, VECTOR, Proof, of, said, unscaled
from prunus.analysis.score import make_plan
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving import proof_run as trials
from prunus.surgery.proving.proof_run import Trial, relative_error
from prunus.surgery.proving.verify import TOLERANCE, verify


class Mixed(nn.Module):
    """Every output that is not a float tensor, and tensors that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6)
        self.basis = torch.randn(6, 6)
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.randn(3)))

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.norm(F.gelu(self.up(x))).to(x.dtype)
        y = self.down(h) @ self.basis.to(x.dtype)
        turned = torch.view_as_complex(y.float().reshape(-1, 3, 2)) * self.turn
        scores = y.masked_fill(torch.arange(6) > 3, -torch.inf)
        return {"y": y, "none": None, "name": "mixed", "best": y.argmax(-1), "scores": scores, "turned": [turned]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_half_precision_none_strings_integers_infinities_and_complex_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    for part in (model.up, model.norm, model.down):
        part.to(dtype)
    it = Proof(model, torch.randn(3, 4, dtype=dtype))
    check = it.verify(gradients=True)
    assert check.error < 1e-6
    assert check.change > 1e-3
    assert it.small.up.weight.dtype is dtype


class Biased(nn.Module):
    """Adds a constant of its own making in an op that takes one float type only."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(torch.arange(3.0), self.up(x), self.down)


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_constants_meet_the_float_type_of_the_trial(mode: str) -> None:
    assert Proof(Biased().eval(), torch.randn(5, 4), mode=mode).verify(gradients=True).error < 1e-9


class Best(nn.Module):
    """Only integers come out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ATTENTION.build()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).argmax(-1)


def test_integer_outputs_are_proved_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Proof(Best().eval(), ATTENTION.inputs(), seed=3)
    assert it.verify(gradients=True).gradient_error is None
    unscaled(monkeypatch)
    wrong = Proof(it.model, it.inputs, seed=3)
    assert wrong.check().error > TOLERANCE
    assert "scaled_dot_product_attention_0" in said(wrong)


class Noisy(nn.Module):
    """Draws numbers of the shape of what is cut, and some that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        torch.randn(5)
        h = self.up(x)
        h = h + 0.1 * torch.randn_like(h) + torch.rand(h.shape) + torch.empty_like(h).uniform_(-1, 1)
        h = h * torch.bernoulli(torch.sigmoid(h)) * torch.empty_like(h).bernoulli_(0.5)
        return self.down(h) + torch.randint(0, 3, (3,))


def test_random_ops_draw_the_same_whatever_the_shape() -> None:
    state = torch.random.get_rng_state()
    for seed in range(3):
        torch.manual_seed(seed)
        it = Proof(Noisy().eval(), torch.randn(3, 4), seed=seed)
        before = torch.random.get_rng_state()
        assert it.verify(seed=seed).error < 1e-9
        assert torch.equal(torch.random.get_rng_state(), before)
    torch.random.set_rng_state(state)


def test_a_device_without_float64_is_left_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    it = of(ATTENTION)
    monkeypatch.setattr(trials, "has_dtype", lambda device, dtype: False)
    assert it.trial().device.type == "cpu"
    assert it.verify(gradients=True).error < 1e-9


def test_an_op_without_float64_is_checked_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    it = of(VECTOR)
    true = Trial.uncut

    def refuses(self: Trial) -> list[Tensor]:
        if self.dtype is torch.float64:
            raise RuntimeError("\"gelu\" not implemented for 'Double'")
        return true(self)

    monkeypatch.setattr(Trial, "uncut", refuses)
    assert 0 < it.verify().error < 1e-5


def test_nothing_given_is_changed() -> None:
    it = of(ATTENTION)
    before = [copy.deepcopy(m.state_dict()) for m in (it.model, it.small)]
    inputs = it.inputs.clone()
    it.verify(gradients=True)
    for model, state in zip((it.model, it.small), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert torch.equal(it.inputs, inputs)


def test_relative_error() -> None:
    one = torch.tensor([1.0, -torch.inf, 4.0])
    assert relative_error([one], [one]) == 0
    assert relative_error([torch.tensor([1.0, -torch.inf, 5.0])], [one]) == 0.25
    assert relative_error([torch.tensor([1.0, 0.0, 4.0])], [one]) == float("inf")
    assert relative_error([torch.tensor([torch.nan])], [torch.tensor([torch.nan])]) == float("inf")
    assert relative_error([one, one], [one]) == float("inf")
    assert relative_error([one[:2]], [one]) == float("inf")
    assert relative_error([torch.tensor([3])], [torch.tensor([4])]) == 0.25


class Masked(nn.Module):
    """Attention whose result is laid out as the kernel likes, and which kernel runs hangs on the mask's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(24, 3 * 48), nn.Linear(48, 5)
        self.table = nn.Parameter(torch.randn(1, 4, 7, 7))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.view(2, 7, 4, 12).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.table * 2)
        return self.out(y.permute(0, 2, 1, 3).contiguous().view(2, 7, 48))


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_a_layout_that_another_kernel_would_not_give_is_no_error(mode: str) -> None:
    torch.manual_seed(0)
    model, x = Masked().eval(), torch.randn(2, 7, 24)
    coupling = couple(capture(model, x))
    plan = make_plan(coupling, {a.id: np.arange(a.size) < a.size // 2 for a in coupling.axes.values()})
    small, _ = cut_with_record(model, coupling, plan, x, mode=mode)
    assert verify(model, small, coupling, plan, x, gradients=True).ok
    # With a gradient for the mask another kernel runs, with other strides.
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
