"""The repairs by name: each defines the refit of a layer and of a norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunus.foundation.registry import Registry
from prunus.graph.ir import refs_in
from prunus.graph.rules.context import base_name
from prunus.repairs.layerwise_run import Repairer, RunContext, SiteProblem
from prunus.repairs.moments import Moments
from prunus.repairs.refold import Fit, refold
from prunus.repairs.report import LayerRepair
from prunus.repairs.rnn_cells import with_joined
from prunus.repairs.scales import rescale
from prunus.repairs.sites import Norm, Site
from prunus.repairs.statistics import NormFit, repair_norm
from prunus.surgery.tensors import sliced_masks

LayerFit = Callable[[Site, Tensor, Tensor, Moments, "Moments | None", bool, "Tensor | None"], Fit]


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair method.

    Attributes:
        name: as in recipes and reports.
        description: one line.
        layer: the refit of a layer; None leaves layers as they are.
        norm: the refit of norms, ``match`` or ``fit``.
        absorb: the last layer of a residual branch also compensates the error of the skip path.
        tunes: blocks are then trained towards the dense network's.
        matches: at last the whole network is trained, on samples blended in every step.
        documents: ``module:name`` of every object whose docstring names the source in a ``Source:`` line.
    """

    name: str
    description: str
    layer: LayerFit | None
    norm: NormFit
    absorb: bool = False
    tunes: bool = False
    matches: bool = False
    documents: tuple[str, ...] = ()


_STATISTICS, _REFOLD = "prunus.repairs.statistics:repair_norm", "prunus.repairs.refold:refold"

REPAIRS: Registry[Repair] = Registry("repair", kind=Repair)


def _bias(
    site: Site, matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, shifts: bool, mask: Tensor | None
) -> Fit:
    """Correct the bias alone, b′ = E[t] − W E[x].

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721.
    """
    return refold(matrix, bias, fit, check, shifts=shifts, mask=mask, grid=())


def _scales(
    site: Site, matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, shifts: bool, mask: Tensor | None
) -> Fit:
    """Scale every input unit of a layer.

    Source: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", arXiv:2204.09656.
    """
    return rescale(matrix, bias, fit, check, shifts=shifts, positions=site.positions)


def _refold(
    site: Site, matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, shifts: bool, mask: Tensor | None
) -> Fit:
    """Refit the weight by ridge regression on its correction.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168 (the
        reconstruction).
    """
    return refold(matrix, bias, fit, check, shifts=shifts, mask=mask)


for _repair in (
    Repair("statistics", "norm statistics, scales and shifts measured anew", None, "match", documents=(_STATISTICS,)),
    Repair("bias", "biases and norms", _bias, "match", documents=("prunus.repairs.repairs:_bias", _STATISTICS)),
    Repair(
        "scales",
        "one scale for each unit, biases and norms",
        _scales,
        "match",
        documents=("prunus.repairs.scales:rescale", _STATISTICS),
    ),
    Repair(
        "refold", "every layer refitted by ridge regression, norms", _refold, "fit", absorb=True, documents=(_REFOLD,)
    ),
    Repair(
        "blockwise",
        "refold, then each block trained towards the dense one",
        _refold,
        "fit",
        absorb=True,
        tunes=True,
        documents=(_REFOLD, "prunus.repairs.blocks:BlockTuning", "prunus.repairs.mixup:blended"),
    ),
    Repair(
        "matching",
        "blockwise, then the whole network trained on blends towards what the dense one answers to them",
        _refold,
        "fit",
        absorb=True,
        tunes=True,
        matches=True,
        documents=(
            _REFOLD,
            "prunus.repairs.blocks:BlockTuning",
            "prunus.repairs.matching:matched",
            "prunus.repairs.mixup:blended",
        ),
    ),
):
    REPAIRS.register(_repair.name)(_repair)


@dataclass(slots=True)
class SiteRepairer:
    """A repair as a function of a site's problem, with a record of its effect on every layer."""

    repair: Repair
    context: RunContext
    layers: list[LayerRepair] = field(default_factory=list)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    _shifted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        pair = self.context.programs.first
        self.masks = with_joined(sliced_masks(pair.plan), self.context.sites)
        normed = {
            ref.node for node in pair.small.nodes if base_name(node.op) == "batch_norm" for ref in refs_in(node.args)
        }
        self._shifted = frozenset(normed)

    def __call__(self, problem: SiteProblem) -> Mapping[str, Tensor]:
        """Return the new tensors of a site."""
        if isinstance(problem.site, Norm):
            node = self.context.programs.first.small.node(problem.site.node)
            return repair_norm(problem, problem.site, float(node.get("eps", 0.0)), self.repair.norm)
        return self._layer(problem, problem.site)

    def _layer(self, problem: SiteProblem, site: Site) -> Mapping[str, Tensor]:
        if self.repair.layer is None:
            return {}
        weight = problem.tensors[site.tensor]
        matrix = site.matrix(weight).to(torch.float64)
        bias = problem.tensors[site.bias].to(torch.float64) if site.bias else torch.zeros(matrix.shape[:2]).to(matrix)
        mask = self.masks.get(site.tensor)
        site_mask = None if mask is None else site.matrix(mask.to(weight.device))
        shifts = bool(site.bias) or site.node in self._shifted
        fit = self.repair.layer(
            site, matrix, bias.reshape(matrix.shape[:2]), problem.fit, problem.check, shifts, site_mask
        )
        self.layers.append(LayerRepair(site.tensor, problem.all.count, fit.before, fit.after, fit.ridge))
        tensors = {site.tensor: site.weight(fit.matrix)} if fit.ridge is not None else {}
        if site.bias and fit.after < fit.before:
            tensors[site.bias] = fit.bias.reshape(-1)
        return tensors


__all__ = ["REPAIRS", "Repair", "Repairer", "SiteRepairer"]
