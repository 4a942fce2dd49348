"""The lock-step walk: both programs over all calibration lanes at once, with a stop at every site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import DataError, OptionError
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref
from prunus.plans import Plan
from prunus.repairs.moments import Moments, moments_of
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.residual_sums import lost
from prunus.repairs.rnn_cells import Recurrent
from prunus.repairs.rnn_fit import mend_recurrent
from prunus.repairs.rows import Rows, norm_rows, site_rows
from prunus.repairs.samples import Role
from prunus.repairs.scales import WIDEST
from prunus.repairs.sites import Norm, Site
from prunus.repairs.walk_context import Route, route

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


def walk(model: nn.Module, coupling: Coupling, plan: Plan | None, data: Any, at: At, *, seed: int = 0) -> Walked:
    """Hand every site the moments of what it reads, and go on with the weight that comes back.

    Args:
        model: the dense network; untouched.
        coupling: its analysis.
        plan: what goes; None removes nothing.
        data: calibration batches, see `prunus.repairs.samples.lanes_of`; targets are not looked at.
        at: (site, moments over all samples) → the new weight in ``site.shape``, or None to leave it.
        seed: of the rows that are drawn where there are more than are needed.

    Raises:
        DataError: no batches, NaN in them or in what a layer reads, or batches that do not go through the captured
            program.
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

    way = route(model, coupling, plan, data, seed=seed)
    way = replace(way, sites={n: s for n, s in way.sites.items() if isinstance(s, Site) and s.plain})
    return Walk(way, absorb=False, held=False).run(repair)


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
        place = self.sites[self.nodes[position].name]
        if isinstance(place, Recurrent):
            self._mend_recurrent(place, position, repair)  # it replays what the dense node reads, which goes with it
            self.go(position + 1)
            return
        for step in self.steps:
            step.advance_dense(position)
        self.replace(repair(self._stop(place, position)))
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
        generator = self._generator(position)
        lanes = [(role, rows) for step, role in self._lanes() for rows in self._rows(step, site, position, generator)]
        return _joined(site, lanes, self.tensors)

    @torch.no_grad()
    def _mend_recurrent(self, place: Recurrent, position: int, repair: Repairer) -> None:
        old, lanes = dict(self.tensors), self._lanes()

        def solve(site: Site, tensors: Mapping[str, Tensor], rows: Sequence[Rows]) -> Mapping[str, Tensor]:
            return repair(_joined(site, [(role, own) for (_, role), own in zip(lanes, rows, strict=True)], tensors))

        steps = [step for step, _ in lanes]
        mend_recurrent(place, steps, self.tensors, solve, self._most, self._generator(position))
        self.changed |= {name for name in old if old[name] is not self.tensors[name]}

    def _lanes(self) -> list[tuple[Lockstep, Role]]:
        """Return the lanes that are fitted to or check."""
        roles: list[Role] = ["fit" if s.lane.role == "held" and not self._held else s.lane.role for s in self.steps]
        return [(step, role) for step, role in zip(self.steps, roles, strict=True) if role != "held"]

    def _generator(self, position: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.route.seed * 100_003 + position)

    def _most(self, site: Site) -> int:
        """Return how many rows of a lane are taken from each layer that reads a weight."""
        rows = max(ROWS, ROWS_PER_INPUT * site.inputs)
        if site.inputs > WIDEST:  # few enough that no matrix over pairs of inputs is made
            rows = site.inputs // 4
        return rows // (len(self.steps) * (1 + len(site.others))) + 1

    def _rows(self, step: Lockstep, site: Site | Norm, position: int, generator: torch.Generator) -> list[Rows]:
        if isinstance(site, Norm):
            node = step.pair.small.node(site.node)
            return [norm_rows(_normalised(step, site, node), self._target(step, site), site.dim)]
        most = self._most(site)
        return [
            site_rows(
                one, at.pair.small.node(one.node), at.small.value(one.reads), self._target(at, one), most, generator
            )
            for one, at in self._readers(step, site, position)
        ]

    def _readers(self, step: Lockstep, site: Site, position: int) -> Iterator[tuple[Site, Lockstep]]:
        """Go to every layer that reads a weight: behind the first one on a branch, with the weight as it is."""
        yield site, step
        waiting = {other.node: other for other in site.others}
        if not waiting:
            return
        ahead = step.branched()
        ahead.advance_small(position)
        while waiting:
            position += 1
            ahead.advance_dense(position)
            other = waiting.pop(self.nodes[position].name, None)
            if other is not None:
                yield other, ahead
            ahead.advance_small(position)

    def _target(self, step: Lockstep, site: Site | Norm) -> Tensor:
        """Return what a layer should answer, less what is added to it and not fitted."""
        target = step.target(Ref(site.node))
        tail = self.route.tails.get(site.node) if self._absorb else None
        missing = lost(step, tail, target) if tail is not None else None
        target = target if missing is None else target + missing
        if isinstance(site, Norm) or site.constant is None:
            return target
        constant: Tensor = step.small.value(site.constant)
        return target - (constant.view(-1, *[1] * (target.dim() - 2)) if site.kind != "linear" else constant)


def _joined(site: Site | Norm, lanes: Sequence[tuple[Role, Rows]], tensors: Mapping[str, Tensor]) -> Stop:
    fit, check = ([rows for role, rows in lanes if role == wanted] for wanted in ("fit", "check"))
    stop = Stop(site, moments_of(fit), moments_of(check) if check else None, tensors)
    for moments in (stop.fit, stop.check):
        if moments is not None and not bool(moments.mean.isfinite().all() and moments.target.isfinite().all()):
            raise DataError(
                f"layer {site.node!r} reads or answers NaN or infinity on the calibration data, though these are "
                "finite; nothing can be fitted to that. Check the model in this dtype, or leave the repair out."
            )
    return stop


def _normalised(step: Lockstep, norm: Norm, node: Node) -> Tensor:
    """Return what a norm scales and shifts; of a batch norm what it reads, for its statistics are repaired too."""
    if norm.mean:
        read: Tensor = step.small.value(norm.reads)
        return read
    plain: Tensor = step.small.computed(node, **{key: None for key in ("weight", "bias") if key in node.args})
    return plain


__all__ = ["At", "Repairer", "Route", "Stop", "Walk", "Walked", "route", "walk"]
