"""The repairs by name: each says what happens to a layer and to a norm when the walk stops there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunus.foundation.registry import Registry
from prunus.graph.ir import refs_in
from prunus.graph.rules.context import base_name
from prunus.repairs.moments import Moments
from prunus.repairs.refold import Fit, refold
from prunus.repairs.report import LayerRepair
from prunus.repairs.rnn_cells import with_joined
from prunus.repairs.scales import rescale
from prunus.repairs.sites import Norm, Site
from prunus.repairs.statistics import Way, repair_norm
from prunus.repairs.walking import Repairer, Route, Stop
from prunus.surgery.tensors import sliced_masks

LayerFit = Callable[[Site, Tensor, Tensor, Moments, "Moments | None", bool, "Tensor | None"], Fit]


@dataclass(frozen=True, slots=True)
class Repair:
    """One way to repair.

    Attributes:
        name: as in recipes and reports.
        description: one line.
        layer: what is done to a layer; None leaves them.
        norm: how norms are brought back.
        absorb: the last layer of a residual branch is asked for what the other operand of the sum lost, too.
        tunes: blocks are trained towards the dense network's afterwards.
        matches: and then the whole network, on samples made up in every step.
        documents: where the papers behind it are named: ``module:name`` of what has a ``Source:`` line.
    """

    name: str
    description: str
    layer: LayerFit | None
    norm: Way
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
    """Scale every unit that is read.

    Source: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", arXiv:2204.09656.
    """
    return rescale(matrix, bias, fit, check, shifts=shifts, positions=site.positions)


def _refold(
    site: Site, matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, shifts: bool, mask: Tensor | None
) -> Fit:
    """Refit the weight, its correction ridged.

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
        documents=(_REFOLD, "prunus.repairs.blocks:Tuning", "prunus.repairs.mixup:blended"),
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
            "prunus.repairs.blocks:Tuning",
            "prunus.repairs.matching:matched",
            "prunus.repairs.mixup:blended",
        ),
    ),
):
    REPAIRS.register(_repair.name)(_repair)


@dataclass(slots=True)
class Mending:
    """Carries one repair out along a walk, and notes what it did."""

    repair: Repair
    route: Route
    layers: list[LayerRepair] = field(default_factory=list)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    _shifted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        pair = self.route.programs.first
        self.masks = with_joined(sliced_masks(pair.plan), self.route.sites)
        normed = {
            ref.node for node in pair.small.nodes if base_name(node.op) == "batch_norm" for ref in refs_in(node.args)
        }
        self._shifted = frozenset(normed)

    def __call__(self, stop: Stop) -> Mapping[str, Tensor]:
        """Return the new tensors of a site."""
        if isinstance(stop.site, Norm):
            node = self.route.programs.first.small.node(stop.site.node)
            return repair_norm(stop, stop.site, float(node.get("eps", 0.0)), self.repair.norm)
        return self._layer(stop, stop.site)

    def _layer(self, stop: Stop, site: Site) -> Mapping[str, Tensor]:
        if self.repair.layer is None:
            return {}
        weight = stop.tensors[site.tensor]
        matrix = site.matrix(weight).to(torch.float64)
        bias = stop.tensors[site.bias].to(torch.float64) if site.bias else torch.zeros(matrix.shape[:2]).to(matrix)
        mask = self.masks.get(site.tensor)
        own = None if mask is None else site.matrix(mask.to(weight.device))
        shifts = bool(site.bias) or site.node in self._shifted
        fit = self.repair.layer(site, matrix, bias.reshape(matrix.shape[:2]), stop.fit, stop.check, shifts, own)
        self.layers.append(LayerRepair(site.tensor, stop.all.count, fit.before, fit.after, fit.ridge))
        found = {site.tensor: site.weight(fit.matrix)} if fit.ridge is not None else {}
        if site.bias and fit.after < fit.before:
            found[site.bias] = fit.bias.reshape(-1)
        return found


__all__ = ["REPAIRS", "Mending", "Repair", "Repairer"]
