"""What every walk over one cut needs, made once: programs, lanes, places and the tensors of both networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.programs import names_of
from prunus.errors import ModelError
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.plans import Plan, fingerprint
from prunus.repairs.find_sites import find_sites
from prunus.repairs.memory_fit import samples_that_fit
from prunus.repairs.program_pairs import Programs
from prunus.repairs.residual_sums import Tail, find_tails
from prunus.repairs.rnn_cells import Place
from prunus.repairs.samples import MOST, Lane, lanes_of
from prunus.surgery.proof_run import original_tensors
from prunus.surgery.random_ops import draws
from prunus.surgery.tensors import cut_tensors


@dataclass(frozen=True, slots=True)
class Route:
    """What every walk over one cut needs, made once: programs, lanes, sites and the tensors of both networks."""

    programs: Programs
    lanes: tuple[Lane, ...]
    dense: Mapping[str, Tensor]
    small: Mapping[str, Tensor]
    sites: Mapping[str, Place]
    tails: Mapping[str, Tail]
    seed: int = 0


def route(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan | None,
    data: Any,
    *,
    small: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Route:
    """Check model and data and prepare walks; arguments as in `walk`, ``data`` may be lanes already."""
    model = unwrap(model)
    if draws(coupling.graph):
        raise ModelError(
            f"{type(model).__name__} draws random numbers in eval mode; the dense and the small network would differ "
            "by chance. Switch the drawing off, or leave the repair out."
        )
    chosen = plan if plan is not None else Plan(fingerprint(coupling.graph), {}, {})
    dense = original_tensors(model, coupling.graph)
    device = next((t.device for t in dense.values()), torch.device("cpu"))
    programs = Programs(model, coupling, chosen)
    cut = cut_tensors(model, coupling, chosen) | dict(small or {})
    graph = programs.first.small
    names = names_of(model, coupling.graph)
    ready = isinstance(data, tuple) and all(isinstance(lane, Lane) for lane in data)
    lanes = data if ready else lanes_of(data, device, names=names, most=min(MOST, samples_that_fit(coupling)))
    for lane in lanes:
        programs.of(lane.inputs)
    return Route(programs, lanes, dense, cut, find_sites(graph), find_tails(coupling.graph, graph), seed)


__all__ = ["Route", "route"]
