"""The weights of errors of a layer's outputs, their effect on the predictions: S = E[ggᵀ], without labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.criteria.labels import drawn_loss
from prunus.data.calibration import evaluating, inputs_of
from prunus.data.programs import Programs
from prunus.graph.interpreter import run
from prunus.graph.ir import Node

_BATCH = 32


def output_fisher(analysis: Analysis, dims: dict[str, int]) -> dict[str, Tensor]:
    """Return S of layers: for an error δ of a layer's output, KL(p_dense ‖ p) ≈ ½ tr(S·E[δδᵀ]).

    S = E_samples[Σ_positions ggᵀ], g = ∂ log p(y|x)/∂output with y drawn from the network's own p(y|x). Positions of
    one sample are treated as independent, as in K-FAC.
    Source: Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
    arXiv:1503.05671; Grosse and Martens, arXiv:1602.01407, for convolutions.

    Args:
        analysis: the network and its calibration data; targets only show whether it is a regression.
        dims: node name → the dim of its output that has the outputs.

    Shapes: → node name → (O, O), float64.
    """
    programs = Programs(analysis.model, analysis.coupling)
    sums: dict[str, Tensor] = {}
    samples = 0
    with evaluating(programs.model):
        for inputs, targets in inputs_of(analysis.calibration.batches(_BATCH), programs.device):
            coupling, flat = programs.of(inputs)
            watched: dict[str, Tensor] = {}

            def observe(node: Node, result: Any, watched: dict[str, Tensor] = watched) -> None:
                if node.name in dims and result.requires_grad:
                    watched[node.name] = result

            outputs = run(coupling.graph, programs.tensors, flat, observe=observe)
            loss, _ = drawn_loss(outputs, flat, targets, analysis.seed)
            batch = flat[0].shape[0]
            samples += batch
            # The mean over the batch divided every sample's gradient by its size.
            grads = torch.autograd.grad(loss * batch, list(watched.values()), allow_unused=True)
            _add(sums, watched, grads, dims)
    return {name: total / max(1, samples) for name, total in sums.items()}


def _add(sums: dict[str, Tensor], names: Iterable[str], grads: Iterable[Tensor | None], dims: dict[str, int]) -> None:
    for name, grad in zip(names, grads, strict=True):
        if grad is not None:
            lines = grad.movedim(dims[name], -1).reshape(-1, grad.shape[dims[name]]).double()
            own = (lines.T @ lines).cpu()
            sums[name] = sums[name] + own if name in sums else own
