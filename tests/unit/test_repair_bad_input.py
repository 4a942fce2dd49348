"""Calibration data and models that cannot be used: one clear line, and nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_pruned import same_state
from factories_repair import cut_half, distance, net, samples
from prunus.errors import DataError, ModelError
from prunus.repairs import repair_
from prunus.repairs.matching import Rounds
from prunus.repairs.normal_equations import solved

X = samples(2, 9)


def infinite() -> Tensor:
    data = samples(16)
    data[0, 0, 0, 0] = float("inf")
    return data


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "infinity": (lambda: [infinite()], "batch 0 holds NaN or infinity"),
    "nan in a later batch": (lambda: [samples(8), infinite()], "batch 1 holds NaN or infinity"),
    "one batch of one sample": (lambda: [samples(1)], "got 1 calibration samples"),
    "no values": (lambda: [samples(16).to("meta")], "device 'meta' and has no values"),
    "dtype": (lambda: [samples(16).double()], r"dtype torch.float64; allowed: torch.float32"),
    "integers": (lambda: [samples(16).long()], r"dtype torch.int64; allowed: torch.float32"),
    "rank": (lambda: [torch.zeros(16, 8)], "does not go through the model"),
    "channels": (lambda: [samples(8), samples(8)[:, :2]], "does not go through the model"),
    "two arguments": (lambda: [((samples(8), samples(8)), None)], "does not go through the model"),
    "an empty batch": (lambda: [samples(8), samples(0)], "batch 1 holds no samples"),
    "used up": (lambda: iter([]), "used up"),
    "a text": (lambda: "calibration.pt", "is a str"),
}


@pytest.fixture(scope="module")
def cut_net() -> tuple[nn.Module, Any, Any]:
    model = net()
    return model, *cut_half(model, X)


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_one_line(cut_net: tuple[nn.Module, Any, Any], case: str) -> None:
    model, coupling, result = cut_net
    make, part = BAD[case]
    small = copy.deepcopy(result.model)
    with pytest.raises(DataError, match=part) as raised:
        repair_(model, small, coupling, result.plan, make(), repair="refold")
    assert "\n" not in str(raised.value).strip()
    assert same_state(small, result.model)


def test_a_generator_is_used_up_once() -> None:
    def generator() -> Iterator[Tensor]:
        yield from samples(48).split(16)

    model, data = net(), generator()
    first = prunus.prune(model, X, budget={"params": 0.6}, data=data, repair="refold")
    assert first.repair is not None
    assert first.repair.samples == 48
    with pytest.raises(DataError, match="used up"):
        prunus.prune(model, X, budget={"params": 0.6}, data=data, repair="refold")


def test_an_iterator_that_ends_early_gives_what_it_has(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, iter([samples(20)]), repair="refold")
    assert report.samples == 20
    assert distance(model, small, samples(64, 77)) < distance(model, result.model, samples(64, 77))


def test_an_error_of_the_loader_comes_through_and_changes_nothing(cut_net: tuple[nn.Module, Any, Any]) -> None:
    def broken() -> Iterator[Tensor]:
        yield samples(16)
        raise OSError("the disk is gone")

    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    with pytest.raises(OSError, match="the disk is gone"):
        repair_(model, small, coupling, result.plan, broken())
    assert same_state(small, result.model)


class Dropping(nn.Module):
    """Dropout that its author left on: it ignores the mode."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.one, self.two, self.always = nn.Linear(6, 24), nn.Linear(24, 3), always

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.one(x).relu(), 0.3, training=self.always or self.training)
        out: Tensor = self.two(hidden)
        return out


def test_dropout_left_on_is_refused_or_told() -> None:
    torch.manual_seed(0)
    model, x = Dropping(always=True).eval(), torch.randn(32, 6)
    coupling, result = cut_half(model, x[:2])
    before = copy.deepcopy(result.model)
    with pytest.raises(ModelError, match="draws random numbers"):
        repair_(model, result.model, coupling, result.plan, [x], repair="refold")
    report = repair_(model, result.model, coupling, result.plan, [x])
    assert report.chosen == "none"
    assert "draws random numbers" in str(report)
    assert same_state(before, result.model)


def test_a_network_in_training_mode_is_repaired_as_in_evaluation() -> None:
    torch.manual_seed(0)
    model, x = Dropping(always=False).eval(), torch.randn(64, 6)
    coupling, result = cut_half(model, x[:2])
    small, again = copy.deepcopy(result.model), copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, [x], repair="refold")
    model.train()
    assert repair_(model, again, coupling, result.plan, [x], repair="refold") == report
    assert model.training
    assert same_state(small, again)


def test_values_that_overflow_inside_the_model_are_named() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two((200 * self.one(x)).exp())
            return out

    torch.manual_seed(0)
    model, x = Growing().eval(), torch.randn(32, 6)
    coupling, result = cut_half(model, x[:2])
    before = copy.deepcopy(result.model)
    for repair in ("refold", "scales", "bias"):
        with pytest.raises(DataError, match="reads or answers NaN or infinity"):
            repair_(model, result.model, coupling, result.plan, [x], repair=repair)
    assert same_state(before, result.model)


def test_a_repair_that_raises_the_error_is_taken_back(
    cut_net: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunus.repairs.refold import Fit

    def spoil(*args: Any, **options: Any) -> Fit:
        matrix, bias = args[:2]
        return Fit(2 * matrix, bias + 1, 0.1, 1.0, 0.5)  # says that it helped

    model, coupling, result = cut_net
    monkeypatch.setattr("prunus.repairs.repairs.refold", spoil)
    small = copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, [samples(32)], repair="refold")
    assert report.chosen == "none"
    assert report.after == report.before
    assert report.tried["refold"] > report.before
    assert "taken back" in str(report)
    assert same_state(small, result.model)


class Answering(nn.Module):
    """Answers with whole numbers, or with logits of which one is always masked."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.one, self.two, self.masked = nn.Linear(6, 24), nn.Linear(24, 4), masked

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.two(self.one(x).relu())
        if not self.masked:
            return logits.argmax(-1)
        return logits.masked_fill(torch.tensor([True, False, False, False]), float("-inf"))


def test_outputs_that_are_whole_numbers_cannot_be_compared_and_that_is_said() -> None:
    torch.manual_seed(0)
    model, x = Answering(masked=False).eval(), torch.randn(32, 6)
    coupling, result = cut_half(model, x[:2])
    report = repair_(model, result.model, coupling, result.plan, [x])
    assert report.chosen == "none"
    assert "no output is of floating-point numbers" in str(report)


def test_masked_logits_are_left_out_of_the_comparison() -> None:
    torch.manual_seed(0)
    model, x = Answering(masked=True).eval(), torch.randn(64, 6)
    for criterion in (None, "magnitude"):
        report = prunus.prune(
            model, x[:2], budget={"params": 0.6}, criterion=criterion, data=[x], repair="refold"
        ).repair
        assert report is not None
        assert report.chosen == "refold"
        assert 0 < report.after < report.before < 1


def test_too_little_memory_for_a_repair_is_told_as_such(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    with pytest.raises(DataError, match=r"more than 0\.0117 MiB, which hold 1\. Allow memory_limit='128KiB', or"):
        repair_(model, small, coupling, result.plan, [samples(32)], repair="refold", memory_limit=1 << 15)


def test_moments_that_overflow_end_in_an_error_and_not_in_a_loop() -> None:
    with pytest.raises(DataError, match="overflow"):
        solved(torch.full((1, 2, 2), torch.inf).double(), torch.ones(1, 1, 2).double())


def test_a_covariance_that_rounding_left_below_zero_ends_in_an_answer() -> None:
    gram = -1e-9 * torch.eye(2, dtype=torch.float64)[None]
    assert bool(torch.isfinite(solved(gram, torch.ones(1, 1, 2).double())).all())


class Attending(nn.Module):
    """Attention under a mask that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.up, self.down, self.head = (
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 24),
            nn.Linear(24, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        answer: Tensor = self.head((x + self.down(self.up(x).relu())).mean(1))
        return answer


@pytest.mark.parametrize("repair", ["refold", "matching"])
@pytest.mark.parametrize("infinite", [False, True])
def test_a_mask_beside_more_samples_than_are_drawn_is_no_sample(
    monkeypatch: pytest.MonkeyPatch, infinite: bool, repair: str
) -> None:
    monkeypatch.setattr("prunus.repairs.choose_repairs.BEST", Rounds(3))
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.randn(160, 5, 8)
    mask: Tensor = nn.Transformer.generate_square_subsequent_mask(5)
    mask = mask if infinite else mask == 0
    data = [((part, mask), None) for part in x.split(80)]
    report = prunus.prune(model, (x[:2], mask), budget={"params": 0.6}, data=data, repair=repair).repair
    assert report is not None
    assert report.chosen == repair
    assert report.after < report.before
