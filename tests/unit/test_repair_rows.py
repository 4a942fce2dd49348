"""Few rows: the dual form answers as the primal one does, and needs memory for the rows alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_repair import cut_half, distance, net, samples
from prunus.repairs import Moments, refit_layers, repair_, see_layers
from prunus.repairs.moments import FewRows, Sums, moments_of
from prunus.repairs.paired_run import Track
from prunus.repairs.refold import refold


def rows(seed: int, count: int, width: int = 90, outputs: int = 4, groups: int = 2) -> tuple[Tensor, Tensor]:
    fixed, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    spread = torch.randn(groups, 12, width, generator=fixed)
    answer = torch.randn(groups, width, outputs, generator=fixed) / width**0.5
    x = torch.randn(groups, count, 12, generator=generator) @ spread
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    noise = 0.1 * torch.randn(groups, count, outputs, generator=generator)
    return x + 0.5, x @ answer + noise + 2


@pytest.mark.parametrize("shifts", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_dual_form_gives_the_same_weight(shifts: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.repairs.normal_equations.COLUMNS", 64)  # the rows do not fit in one piece
    monkeypatch.setattr("prunus.repairs.moments.COLUMNS", 64)
    width = 90
    fit, check = rows(1, 30), rows(2, 10)
    few = [moments_of([part]) for part in (fit, check)]
    full = [Moments.of(*part) for part in (fit, check)]
    assert [type(m) for m in few] == [FewRows, FewRows]
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(2, 4, width, generator=generator, dtype=torch.float64) / width**0.5
    mask = torch.rand(matrix.shape, generator=generator) > 0.4 if masked else None
    matrix = matrix if mask is None else matrix * mask
    bias = torch.zeros(2, 4, dtype=torch.float64)
    found = [refold(matrix, bias, m[0], m[1], shifts=shifts, mask=mask) for m in (few, full)]
    assert found[0].ridge == found[1].ridge
    assert found[0].ridge is not None
    torch.testing.assert_close(found[0].matrix, found[1].matrix, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[0].bias, found[1].bias, rtol=1e-8, atol=1e-8)
    assert found[0].after == pytest.approx(found[1].after, rel=1e-8)
    assert found[0].before == pytest.approx(found[1].before, rel=1e-8)


def test_rows_become_moments_when_they_are_many() -> None:
    parts = [rows(seed, 20) for seed in range(4)]
    once = Moments.of(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
    together = [
        moments_of(parts),
        moments_of(parts[:2]) + moments_of(parts[2:]),
        moments_of(parts[:3]) + moments_of(parts[3:]),
    ]
    assert isinstance(moments_of(parts[:2]), FewRows)
    for found in together:
        assert isinstance(found, Sums)
        for name in ("count", "mean", "second", "target", "cross", "target_second"):
            torch.testing.assert_close(getattr(found, name), getattr(once, name), rtol=1e-10, atol=1e-10)


def test_a_symmetric_product_is_whole() -> None:
    x = torch.randn(2, 40, 1300, generator=torch.Generator().manual_seed(0))
    second = Moments.of(x, x[:, :, :1]).second
    torch.testing.assert_close(second, x.double().mT @ x.double() / 40, rtol=1e-12, atol=1e-12)


def wide(inputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, inputs), nn.ReLU(), nn.Linear(inputs, 3)).eval()


def data(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def test_a_wide_layer_is_refitted_from_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide(600)
    coupling, result = cut_half(model, data(2))
    made: list[FewRows] = []
    monkeypatch.setattr(FewRows, "sums", lambda self: made.append(self))
    small = copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, [data(64)], repair="refold")
    assert not made
    assert {layer.name: layer.ridge for layer in report.layers}["2.weight"] is not None
    assert distance(model, small, data(64, 5)) < 0.5 * distance(model, result.model, data(64, 5))


def test_of_a_very_wide_layer_few_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.repairs.layerwise_run.WIDEST", 300)
    model = wide(600)
    coupling, result = cut_half(model, data(2))
    small = copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, [data(700)], repair="refold")
    kept = small[2].weight.shape[1]
    assert kept > 300
    assert {layer.name: layer.rows for layer in report.layers}["2.weight"] <= kept // 4 + 11
    assert report.chosen == "refold"


def test_a_walk_hands_over_second_moments_of_few_rows_too() -> None:
    model = wide(300)
    coupling, result = cut_half(model, data(2))
    seen: list[Tensor] = []

    def at(site: object, moments: Moments) -> None:
        seen.append(moments.second)

    x = data(16)
    refit_layers(model, coupling, result.plan, [x], at)
    read = result.model[:2](x).detach().double()
    torch.testing.assert_close(seen[1][0], read.T @ read / 16, rtol=1e-5, atol=1e-6)


def test_layers_that_are_only_seen_have_the_same_moments_from_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(), samples(96)
    coupling = prunus.couple(prunus.capture(model, x[:2]))
    walked: dict[str, Moments] = {}
    seen: dict[str, Moments] = {}
    refit_layers(model, coupling, None, [x], lambda site, moments: walked.update({site.node: moments}))
    made: list[Track] = []
    real = Track.__init__
    monkeypatch.setattr(Track, "__init__", lambda self, *a: (made.append(self), real(self, *a))[1])
    see_layers(model, coupling, [x], lambda site, moments: seen.update({site.node: moments}))
    assert len(made) == 8  # the samples come in eight groups
    assert seen.keys() == walked.keys()
    for node, moments in seen.items():
        for name in ("count", "mean", "second", "target", "cross", "target_second"):
            torch.testing.assert_close(getattr(moments, name), getattr(walked[node], name), rtol=0, atol=0)
