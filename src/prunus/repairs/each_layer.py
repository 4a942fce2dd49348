"""Every layer of a network with the moments at it: refitted on the way, or only seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from prunus.errors import OptionError
from prunus.graph.coupling import Coupling
from prunus.plans import Plan
from prunus.repairs.layerwise_run import LayerwiseRun, RunContext, RunResult, SiteProblem, run_context
from prunus.repairs.moments import Moments
from prunus.repairs.sites import Site

At = Callable[[Site, Moments], "Tensor | None"]


def refit_layers(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan | None,
    data: Any,
    at: At,
    *,
    seed: int = 0,
    memory: int | None = None,
) -> RunResult:
    """Pass the moments of every layer to ``at``, and continue with the weight that it returns.

    Layers come in the order of the program, each once: linear layers and convolutions that are the only reader of
    their weight. The moments are those of the layer's inputs in the network as refitted so far, with the dense layer's
    outputs as targets.

    Args:
        model: the dense network; untouched.
        coupling: its analysis.
        plan: the removed units; None removes nothing.
        data: calibration batches, see `prunus.repairs.samples.sample_groups_of`; targets are ignored.
        at: (site, moments over all samples) → the new weight in ``site.shape``, or None to leave it.
        seed: of the rows that are drawn where there are more than are needed.
        memory: bytes that the run may take; by default `prunus.foundation.free_memory.default_memory`.

    Raises:
        DataError: no batches, NaN in them or in a layer's inputs, or batches that do not go through the captured
            program.
        ModelError: the model draws random numbers.
        OptionError: ``at`` returned a tensor of another shape.
    """

    def repair(problem: SiteProblem) -> Mapping[str, Tensor]:
        site = problem.site
        if not isinstance(site, Site):
            return {}
        weight = at(site, problem.all)
        if weight is None:
            return {}
        if tuple(weight.shape) != site.shape:
            raise OptionError(
                f"the new weight of {site.tensor!r} has shape {tuple(weight.shape)}; allowed: {site.shape}."
            )
        return {site.tensor: weight}

    context = _plain(run_context(model, coupling, plan, data, seed=seed, memory=memory))
    return LayerwiseRun(context, absorb=False, held=False).run(repair)


def see_layers(
    model: nn.Module,
    coupling: Coupling,
    data: Any,
    note: Callable[[Site, Moments], None],
    *,
    seed: int = 0,
    memory: int | None = None,
) -> None:
    """Pass the moments of every layer of the dense network to ``note``, in one pass over the data.

    They are those of `refit_layers` where nothing is removed and nothing refitted; arguments and errors as there.
    """
    run = LayerwiseRun(
        _plain(run_context(model, coupling, None, data, seed=seed, memory=memory)), absorb=False, held=False, still=True
    )

    def see(problem: SiteProblem) -> Mapping[str, Tensor]:
        if isinstance(problem.site, Site):
            note(problem.site, problem.all)
        return {}

    for position, node in enumerate(run.nodes):
        if node.name in run.sites:
            run.repair_site(position, see)


def _plain(context: RunContext) -> RunContext:
    return replace(context, sites={n: s for n, s in context.sites.items() if isinstance(s, Site) and s.plain})
