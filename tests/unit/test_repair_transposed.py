"""Transposed convolutions are refitted: their rows are those of a convolution over spread inputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from factories_repair import cut_half, distance, samples
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.repairs import repair_
from prunus.repairs.layerwise_run import LayerwiseRun, SiteProblem, run_context

LAYERS = [
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, (2, 4), stride=(2, 3), padding=(0, 3), groups=2), (4, 4, 5)),
    (nn.ConvTranspose2d(6, 6, 2, stride=1, dilation=2, groups=6, bias=False), (6, 3, 4)),
    (nn.ConvTranspose1d(3, 5, 4, stride=3, padding=2, output_padding=2), (3, 7)),
    (nn.ConvTranspose3d(2, 4, 2, stride=2), (2, 2, 3, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: v.__class__.__name__)
@pytest.mark.parametrize("most", [10_000, 16])
def test_rows_times_matrix_is_what_the_layer_answers(
    layer: nn.Module, shape: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunus.repairs.layerwise_run.ROWS", most)
    monkeypatch.setattr("prunus.repairs.layerwise_run.ROWS_PER_INPUT", 0)
    model = nn.Sequential(nn.Identity(), layer).eval()
    data = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    errors: list[float] = []

    def repair(problem: SiteProblem) -> dict[str, Tensor]:
        site, weight = problem.site, layer.weight.detach()
        matrix = site.matrix(weight).double()
        bias = torch.zeros(matrix.shape[:2]).double() if layer.bias is None else layer.bias.detach().double()
        assert matrix.shape[2] == site.inputs
        assert torch.equal(site.weight(site.matrix(weight)), weight)
        errors.append(float(problem.all.error(matrix, bias.reshape(matrix.shape[:2])).max()))
        return {}

    LayerwiseRun(run_context(model, couple(capture(model, data[:2])), None, [data]), absorb=False).run(repair)
    assert len(errors) == 1
    assert errors[0] < 1e-9


def test_a_decoder_comes_closer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 2, 3, padding=1),
    ).eval()
    coupling, result = cut_half(model, samples(2))
    small, fresh = copy.deepcopy(result.model), samples(64, 5)
    report = repair_(model, small, coupling, result.plan, [samples(96)], repair="refold")
    assert {layer.name for layer in report.layers if layer.ridge is not None} >= {"2.weight", "4.weight"}
    assert "not refitted" not in str(report)
    assert distance(model, small, fresh) < 0.5 * distance(model, result.model, fresh)
