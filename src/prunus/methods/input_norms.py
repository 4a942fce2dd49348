"""The norms of the inputs that weights multiply, for weight criteria such as wanda."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.methods.levels_from_data import unlabelled
from prunus.repairs import Moments, Site, see_layers


def input_norms(analysis: Analysis, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return √E[x²] of the input x that each weight multiplies, over calibration samples and positions.

    Weights whose inputs are not seen (embeddings, recurrent layers, weights that several layers read) take the mean
    norm of all others, so they compare by their size.

    Args:
        analysis: the analysis with the data; targets are not read.
        model: the model to run: that of the analysis, or a masked copy of it.
        weights: name → weight.

    Shapes: those of the weights.

    Raises:
        DataError: no batches, or batches that do not go through the captured program.
    """
    seen: dict[str, Tensor] = {}

    def note(site: Site, moments: Moments) -> None:
        rms = moments.second.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        rows = site.matrix(torch.zeros(site.shape)).shape[1]
        seen[site.tensor] = site.weight(rms[:, None, :].expand(-1, rows, -1))

    run = analysis.model if model is analysis.user_model else model
    see_layers(run, analysis.coupling, unlabelled(analysis), note, seed=analysis.seed)
    norms = {name: seen[name].to(weight.device) for name, weight in weights.items() if name in seen}
    count = sum(norm.numel() for norm in norms.values())
    mean = sum(float(norm.sum()) for norm in norms.values()) / count if count else 1.0
    return {
        name: norms[name] if name in norms else torch.full((), mean, device=weight.device).expand(weight.shape)
        for name, weight in weights.items()
    }
