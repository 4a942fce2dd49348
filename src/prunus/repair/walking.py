"""The lock-step walk: both programs over all calibration lanes at once, with a stop at every site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import ModelError, OptionError
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref
from prunus.plans import Plan, fingerprint
from prunus.repair.lanes import MOST, Lane, Role, argument_names, lanes_of
from prunus.repair.lockstep import Lockstep
from prunus.repair.moments import Moments, moments_of
from prunus.repair.programs import Programs
from prunus.repair.room import samples_that_fit
from prunus.repair.rows import conv_rows, linear_rows, norm_rows
from prunus.repair.sites import Norm, Site, find_sites
from prunus.repair.tails import Tail, find_tails, lost
from prunus.surgery.draws import draws
from prunus.surgery.tensors import cut_tensors
from prunus.surgery.trial import original_tensors

ROWS = 16384
"""Rows of a layer's problem at least, where the data have so many; layers with many inputs get more."""
ROWS_PER_INPUT = 64
"""Rows for each input of a group: places of one picture say nearly the same, more of them cost more than they give."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What a walk hands over at a site: moments of the lanes that are fitted to, and of those that check.

    ``check`` is None where the data have too few lanes.
    """

    site: Site | Norm
    fit: Moments
    check: Moments | None
    tensors: Mapping[str, Tensor]

    @property
    def all(self) -> Moments:
        """Return the moments of both."""
        return self.fit if self.check is None else self.fit + self.check


Repairer = Callable[[Stop], Mapping[str, Tensor]]
At = Callable[[Site, Moments], "Tensor | None"]


@dataclass(frozen=True, slots=True)
class Walked:
    """The end of a walk.

    Attributes:
        tensors: name → tensor of the small network, the repaired ones included.
        changed: names of those that a repair replaced.
        errors: role of the lanes → ‖dense − small‖² / ‖dense‖² of the network's outputs.
    """

    tensors: Mapping[str, Tensor]
    changed: frozenset[str]
    errors: Mapping[Role, float]


@dataclass(frozen=True, slots=True)
class Route:
    """What every walk over one cut needs, made once: programs, lanes, sites and the tensors of both networks."""

    programs: Programs
    lanes: tuple[Lane, ...]
    dense: Mapping[str, Tensor]
    small: Mapping[str, Tensor]
    sites: Mapping[str, Site | Norm]
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
    names = argument_names(coupling.graph)
    ready = isinstance(data, tuple) and all(isinstance(lane, Lane) for lane in data)
    lanes = data if ready else lanes_of(data, device, names=names, most=min(MOST, samples_that_fit(coupling)))
    for lane in lanes:
        programs.of(lane.inputs)
    return Route(programs, lanes, dense, cut, find_sites(graph), find_tails(coupling.graph, graph), seed)


def walk(model: nn.Module, coupling: Coupling, plan: Plan | None, data: Any, at: At, *, seed: int = 0) -> Walked:
    """Hand every site the moments of what it reads, and go on with the weight that comes back.

    Args:
        model: the dense network; untouched.
        coupling: its analysis.
        plan: what goes; None removes nothing.
        data: calibration batches, see `prunus.repair.lanes.lanes_of`; targets are not looked at.
        at: (site, moments over all samples) → the new weight in ``site.shape``, or None to leave it.
        seed: of the rows that are drawn where there are more than are needed.

    Raises:
        DataError: no batches, NaN, or batches that do not go through the captured program.
        ModelError: the model draws random numbers.
        OptionError: ``at`` returned a tensor of another shape.
    """

    def repair(stop: Stop) -> Mapping[str, Tensor]:
        if not isinstance(stop.site, Site):
            return {}
        found = at(stop.site, stop.all)
        if found is None:
            return {}
        if tuple(found.shape) != stop.site.shape:
            raise OptionError(
                f"the new weight of {stop.site.tensor!r} has shape {tuple(found.shape)}; allowed: {stop.site.shape}."
            )
        return {stop.site.tensor: found}

    return Walk(route(model, coupling, plan, data, seed=seed), absorb=False, held=False).run(repair)


class Walk:
    """One walk along a route.

    Args:
        route: where.
        absorb: the last layer of a residual branch is asked for what the other operand of the sum lost, too.
        held: lanes in the role ``held`` are kept out of the moments.
        layers: stop at layers, too; else at norms alone.
    """

    def __init__(self, route: Route, *, absorb: bool, held: bool = True, layers: bool = True) -> None:
        self.route, self._absorb, self._held = route, absorb, held
        self.sites = {name: site for name, site in route.sites.items() if layers or isinstance(site, Norm)}
        self.tensors = dict(route.small)
        self.steps = [Lockstep(lane, route.programs.of(lane.inputs), route.dense, self.tensors) for lane in route.lanes]
        self.nodes = route.programs.first.dense.nodes
        self.changed: set[str] = set()
        self.position = 0

    def run(self, repair: Repairer) -> Walked:
        """Walk to the end, stopping at every site."""
        for position, node in enumerate(self.nodes):
            if node.name in self.sites:
                self.stop(position, repair)
        self.go(len(self.nodes))
        return Walked(self.tensors, frozenset(self.changed), self.errors())

    def errors_as_it_is(self) -> dict[Role, float]:
        """Walk to the end without a stop."""
        self.go(len(self.nodes))
        return self.errors()

    def go(self, position: int) -> None:
        """Run both programs of every lane up to a node."""
        for step in self.steps:
            step.advance(self.position, position)
        self.position = position

    def stop(self, position: int, repair: Repairer) -> None:
        """Go to a site, repair it, and go on behind it."""
        self.go(position)
        for step in self.steps:
            step.advance_dense(position)
        site = self.sites[self.nodes[position].name]
        self.replace(repair(self._stop(site, position)))
        for step in self.steps:
            step.advance_small(position)
        self.position = position + 1

    def replace(self, found: Mapping[str, Tensor]) -> None:
        """Put repaired tensors in place for everything that is computed from now on."""
        for name, value in found.items():
            own = self.tensors[name]
            self.tensors[name] = value.detach().to(own.device, own.dtype)
            self.changed.add(name)

    def errors(self) -> dict[Role, float]:
        """Return by role ‖dense − small‖² / ‖dense‖² of the outputs, every output with the same weight."""
        sums: dict[Role, list[list[float]]] = {}
        for step in self.steps:
            sums.setdefault(step.lane.role, []).append(step.output_errors())
        found: dict[Role, float] = {}
        for role, rows in sums.items():
            totals = [sum(column) for column in zip(*rows, strict=True)]
            shares = [miss / max(whole, 1e-30) for miss, whole in zip(totals[::2], totals[1::2], strict=True)]
            found[role] = sum(shares) / max(len(shares), 1)
        return found

    @torch.no_grad()
    def _stop(self, site: Site | Norm, position: int) -> Stop:
        parts: dict[Role, list[tuple[Tensor, Tensor]]] = {"fit": [], "check": []}
        most = max(ROWS, ROWS_PER_INPUT * _inputs(site)) // len(self.steps) + 1
        generator = torch.Generator().manual_seed(self.route.seed * 100_003 + position)
        for step in self.steps:
            role: Role = "fit" if step.lane.role == "held" and not self._held else step.lane.role
            if role != "held":
                parts[role].append(self._rows(step, site, most, generator))
        check = moments_of(parts["check"]) if parts["check"] else None
        return Stop(site, moments_of(parts["fit"]), check, self.tensors)

    def _rows(self, step: Lockstep, site: Site | Norm, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        target = step.target(Ref(site.node))
        tail = self.route.tails.get(site.node) if self._absorb else None
        missing = lost(step, tail, target) if tail is not None else None
        target = target if missing is None else target + missing
        node = step.pair.small.node(site.node)
        if isinstance(site, Norm):
            return norm_rows(_normalised(step, site, node), target, site.dim)
        inputs = step.small.value(site.reads)
        if site.kind == "linear":
            return linear_rows(site, inputs, target, most, generator)
        return conv_rows(site, node, inputs, target, most, generator)


def _normalised(step: Lockstep, norm: Norm, node: Node) -> Tensor:
    """Return what a norm scales and shifts; of a batch norm what it reads, for its statistics are repaired too."""
    if norm.mean:
        read: Tensor = step.small.value(norm.reads)
        return read
    plain: Tensor = step.small.computed(node, **{key: None for key in ("weight", "bias") if key in node.args})
    return plain


def _inputs(site: Site | Norm) -> int:
    if isinstance(site, Norm):
        return 1
    return site.shape[0] if site.turned else int(torch.Size(site.shape[1:]).numel())


__all__ = ["At", "Repairer", "Route", "Stop", "Walk", "Walked", "route", "walk"]
