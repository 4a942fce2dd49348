"""Moments of shifted windows equal those of patches, for every kind of convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.repairs import rows, shifted_moments
from prunus.repairs.each_layer import refit_layers
from prunus.repairs.moments import FewRows, Moments, MomentsSum, Sums
from prunus.repairs.shifted_moments import Windows, pays, shifted_products

KINDS = {
    "1-D": nn.Conv1d(4, 6, 5),
    "1-D, wide": nn.Conv1d(4, 6, 16, padding="same"),
    "1-D, stride and dilation": nn.Conv1d(4, 6, 6, stride=4, dilation=2, padding=3),
    "2-D": nn.Conv2d(4, 6, 3, padding=1),
    "2-D, one dim strided": nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 3)),
    "2-D, a kernel of one row": nn.Conv2d(4, 6, (1, 7), padding=(0, 3)),
    "2-D, grouped": nn.Conv2d(8, 6, 3, groups=2, padding=1),
    "3-D": nn.Conv3d(4, 6, (3, 3, 2), stride=(1, 2, 1), padding=1),
}


def _seen(layer: nn.Module, x: Tensor) -> dict[str, Moments]:
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval().to(x.dtype)
    model(x[:1])
    analysis = prunus.analyse(model, x[:2])
    seen: dict[str, Moments] = {}
    refit_layers(
        analysis.model, analysis.coupling, None, [x[:16], x[16:32], x[32:]], lambda s, m: seen.update({s.kind: m})
    )
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_shifted_windows_are_those_of_patches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = KINDS[kind].double()
    torch.manual_seed(0)
    x = torch.randn(
        48, layer.in_channels, *[14 if layer.weight.dim() < 5 else 7] * (layer.weight.dim() - 2), dtype=torch.float64
    )
    expected = _seen(layer, x)["conv"]
    monkeypatch.setattr(rows, "pays", lambda *_: True)
    calls: list[int] = []
    real = shifted_moments.shifted_moments
    monkeypatch.setattr(rows, "shifted_moments", lambda *a: (calls.append(1), real(*a))[1])
    found = _seen(layer, x)["conv"]
    assert calls
    assert found.count == expected.count
    for name in ("mean", "second", "target", "cross", "target_second"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)
    assert torch.equal(found.second, found.second.mT)


def test_single_precision_keeps_six_digits() -> None:
    torch.manual_seed(0)
    dims = [Windows(9, 120, 1, 1)]
    x, t = torch.randn(8, 4, 128), torch.randn(8, 3, 120)
    single = shifted_moments.shifted_moments(dims, 1, x, t)
    double = shifted_moments.shifted_moments(dims, 1, x.double(), t.double())
    assert single.second.dtype == torch.float64
    assert float((single.second - double.second).norm() / double.second.norm()) < 1e-6


def test_wide_kernels_take_shifts_and_pointwise_ones_rows() -> None:
    wide, pointwise = [Windows(64, 128, 1, 1)], [Windows(1, 128, 1, 1)]
    assert shifted_products(wide) < 64 * 64 * 128 / 20
    assert pays(wide, 512, 128, 64 * 64 * 128)
    assert not pays(pointwise, 512, 128, 1 << 20)
    assert not pays(wide, 2, 1024, 1 << 20), "few rows are kept as they are"
    assert not pays([Windows(3, 56, 1, 1)] * 2, 512, 64, 36864), "drawn rows cost less than all positions"


def test_rows_are_held_in_bounded_memory_and_give_the_same_moments() -> None:
    torch.manual_seed(0)
    parts = [(torch.randn(1, 50, 8, dtype=torch.float64), torch.randn(1, 50, 2, dtype=torch.float64)) for _ in range(6)]
    total = MomentsSum(most_bytes=8 * 50 * 10 * 2)
    for part in parts:
        total.add(part)
        assert sum(len(x[0]) for x, _ in total._waiting) < 100
    whole = Moments.of(*(torch.cat(p, 1) for p in zip(*parts, strict=True)))
    found = total.result()
    torch.testing.assert_close(found.second, whole.second)
    torch.testing.assert_close(found.cross, whole.cross)


def test_few_rows_stay_rows_however_small_the_memory() -> None:
    total = MomentsSum(most_bytes=8)
    for _ in range(3):
        total.add((torch.randn(1, 2, 40), torch.randn(1, 2, 3)))
    assert isinstance(total.result(), FewRows)
    total = MomentsSum(most_bytes=8)
    for _ in range(30):
        total.add((torch.randn(1, 2, 40), torch.randn(1, 2, 3)))
    assert isinstance(total.result(), Sums)
