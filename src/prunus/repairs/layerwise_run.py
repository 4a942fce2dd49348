"""A layer-wise run: both programs over all calibration samples at once, with a refit at every site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.programs import names_of
from prunus.errors import DataError, ModelError
from prunus.foundation.free_memory import default_memory
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref
from prunus.plans import Plan, fingerprint
from prunus.repairs.find_sites import find_sites
from prunus.repairs.moments import Moments, MomentsSum
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.program_pairs import Programs
from prunus.repairs.residual_sums import ResidualSum, find_residual_sums, skip_path_error
from prunus.repairs.rnn_cells import AnySite, Recurrent
from prunus.repairs.rnn_fit import refit_recurrent
from prunus.repairs.room import few_rows, holds_pairs
from prunus.repairs.rows import Rows, norm_rows, site_moments
from prunus.repairs.samples import MOST, Role, SampleGroup, sample_groups_of, samples_that_fit
from prunus.repairs.scales import WIDEST
from prunus.repairs.sites import Norm, Site
from prunus.surgery.proving.proof_run import original_tensors
from prunus.surgery.proving.random_ops import draws
from prunus.surgery.tensors import cut_tensors

ROWS = 16384
"""The least number of rows of a layer's problem, where the data have so many; layers with many inputs get more."""
ROWS_PER_INPUT = 64
"""Rows for each input of a group: positions of one picture are nearly alike, so more of them add little."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """The parts that all runs over one cut share: programs, sample groups, sites and the tensors of both networks.

    ``memory`` is the limit in bytes; layers whose matrices it cannot hold are fitted to a part of their rows.
    """

    programs: Programs
    sample_groups: tuple[SampleGroup, ...]
    dense: Mapping[str, Tensor]
    small: Mapping[str, Tensor]
    sites: Mapping[str, AnySite]
    residual_sums: Mapping[str, ResidualSum]
    seed: int = 0
    memory: int = field(default_factory=default_memory)


def run_context(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan | None,
    data: Any,
    *,
    small: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    memory: int | None = None,
) -> RunContext:
    """Check model and data and prepare runs; arguments as in `prunus.repairs.refit_layers`.

    ``data`` may be sample groups already.
    """
    model, memory = unwrap(model), default_memory() if memory is None else memory
    if draws(coupling.graph):
        raise ModelError(
            f"{type(model).__name__} draws random numbers in eval mode; the dense and the small network would differ "
            "by chance. Switch the drawing off, or leave the repair out."
        )
    chosen = plan if plan is not None else Plan(fingerprint(coupling.graph), {}, {})
    dense = original_tensors(model, coupling.graph)
    device = next((t.device for t in dense.values()), torch.device("cpu"))
    programs = Programs(model, coupling, chosen)
    tensors = cut_tensors(model, coupling, chosen) | dict(small or {})
    graph = programs.first.small
    names = names_of(model, coupling.graph)
    if isinstance(data, tuple) and all(isinstance(group, SampleGroup) for group in data):
        groups = data
    else:
        groups = sample_groups_of(data, device, names=names, most=min(MOST, samples_that_fit(coupling, memory)))
    for group in groups:
        programs.of(group.inputs)
    residual_sums = find_residual_sums(coupling.graph, graph)
    return RunContext(programs, groups, dense, tensors, find_sites(graph), residual_sums, seed, memory)


@dataclass(frozen=True, slots=True)
class SiteProblem:
    """The least-squares problem of one site: moments of the samples to fit, and of those that select among fits.

    ``check`` is None where the data have too few sample groups. ``tensors`` are those of the small network.
    """

    site: Site | Norm
    fit: Moments
    check: Moments | None
    tensors: Mapping[str, Tensor]

    @property
    def all(self) -> Moments:
        """Return the moments of both."""
        return self.fit if self.check is None else self.fit + self.check


Repairer = Callable[[SiteProblem], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a layer-wise run.

    Attributes:
        tensors: name → tensor of the small network, the repaired ones included.
        changed: names of those that a repair replaced.
        errors: role of the sample groups → ‖dense − small‖² / ‖dense‖² of the network's outputs.
    """

    tensors: Mapping[str, Tensor]
    changed: frozenset[str]
    errors: Mapping[Role, float]


class LayerwiseRun:
    """One run of the dense and the small program, node by node over all sample groups.

    Args:
        context: programs, samples and sites.
        absorb: let the last layer of a residual branch also compensate the error of the skip path.
        held: keep sample groups in the role ``held`` out of the moments.
        layers: repair layers too; else norms alone.
        still: nothing was cut and nothing will change, so one program runs in place of two.
    """

    def __init__(
        self, context: RunContext, *, absorb: bool, held: bool = True, layers: bool = True, still: bool = False
    ) -> None:
        self.context, self._absorb, self._held = context, absorb, held
        self.sites = {name: site for name, site in context.sites.items() if layers or isinstance(site, Norm)}
        self.tensors = dict(context.small)
        self.locksteps = [
            Lockstep(group, context.programs.of(group.inputs), context.dense, self.tensors, still=still)
            for group in context.sample_groups
        ]
        self.nodes = context.programs.first.dense.nodes
        self.changed: set[str] = set()
        self.position = 0

    def run(self, repair: Repairer) -> RunResult:
        """Run to the end and repair every site on the way."""
        for position, node in enumerate(self.nodes):
            if node.name in self.sites:
                self.repair_site(position, repair)
        self.run_to(len(self.nodes))
        return RunResult(self.tensors, frozenset(self.changed), self.errors())

    def errors_without_repair(self) -> dict[Role, float]:
        """Run to the end without a repair and return the errors."""
        self.run_to(len(self.nodes))
        return self.errors()

    def run_to(self, position: int) -> None:
        """Run both programs of every sample group up to a node."""
        for lockstep in self.locksteps:
            lockstep.advance(self.position, position)
        self.position = position

    def repair_site(self, position: int, repair: Repairer) -> None:
        """Run to a site, repair it, and compute its node with the new tensors."""
        self.run_to(position)
        site = self.sites[self.nodes[position].name]
        if isinstance(site, Recurrent):
            # The refit replays the inputs of the dense node, which are freed once that node has run.
            self._refit_recurrent(site, position, repair)
            self.run_to(position + 1)
            return
        for lockstep in self.locksteps:
            lockstep.advance_dense(position)
        self.replace(repair(self._problem(site, position)))
        for lockstep in self.locksteps:
            lockstep.advance_small(position)
        self.position = position + 1

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put repaired tensors in place for everything that is computed from now on."""
        for name, value in tensors.items():
            own = self.tensors[name]
            self.tensors[name] = value.detach().to(own.device, own.dtype)
            self.changed.add(name)

    def errors(self) -> dict[Role, float]:
        """Return by role ‖dense − small‖² / ‖dense‖² of the outputs, every output with the same weight."""
        sums: dict[Role, list[list[float]]] = {}
        for lockstep in self.locksteps:
            sums.setdefault(lockstep.sample_group.role, []).append(lockstep.output_errors())
        errors: dict[Role, float] = {}
        for role, rows in sums.items():
            totals = [sum(column) for column in zip(*rows, strict=True)]
            shares = [miss / max(whole, 1e-30) for miss, whole in zip(totals[::2], totals[1::2], strict=True)]
            errors[role] = sum(shares) / max(len(shares), 1)
        return errors

    @torch.no_grad()
    def _problem(self, site: Site | Norm, position: int) -> SiteProblem:
        generator = self._generator(position)
        parts = (
            (role, part)
            for lockstep, role in self._fitted_locksteps()
            for part in self._parts(lockstep, site, position, generator)
        )
        return _problem_of(site, parts, self.tensors)

    @torch.no_grad()
    def _refit_recurrent(self, site: Recurrent, position: int, repair: Repairer) -> None:
        old, fitted = dict(self.tensors), self._fitted_locksteps()

        def solve(part: Site, tensors: Mapping[str, Tensor], rows: Sequence[Rows]) -> Mapping[str, Tensor]:
            with_roles = [(role, own) for (_, role), own in zip(fitted, rows, strict=True)]
            return repair(_problem_of(part, with_roles, tensors))

        locksteps = [lockstep for lockstep, _ in fitted]
        refit_recurrent(site, locksteps, self.tensors, solve, self._most, self._generator(position))
        self.changed |= {name for name in old if old[name] is not self.tensors[name]}

    def _fitted_locksteps(self) -> list[tuple[Lockstep, Role]]:
        """Return the locksteps of the sample groups that are fitted or select, with their roles."""
        fitted: list[tuple[Lockstep, Role]] = []
        for lockstep in self.locksteps:
            role = lockstep.sample_group.role
            if role != "held":
                fitted.append((lockstep, role))
            elif not self._held:
                fitted.append((lockstep, "fit"))
        return fitted

    def _generator(self, position: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.context.seed * 100_003 + position)

    def _most(self, site: Site) -> int:
        """Return how many rows of a sample group are taken from each layer that reads a weight."""
        rows, memory = max(ROWS, ROWS_PER_INPUT * site.inputs), self.context.memory
        if site.inputs > WIDEST or not holds_pairs(site.inputs, site.groups, memory):
            rows = few_rows(site.inputs, site.groups, memory)  # no matrix over pairs of inputs is made
        return rows // (len(self.locksteps) * (1 + len(site.others))) + 1

    def _parts(
        self, lockstep: Lockstep, site: Site | Norm, position: int, generator: torch.Generator
    ) -> Iterator[Rows | Moments]:
        if isinstance(site, Norm):
            node = lockstep.pair.small.node(site.node)
            yield norm_rows(_normalised(lockstep, site, node), self._target(lockstep, site), site.dim)
            return
        most = self._most(site)
        for one, at in self._readers(lockstep, site, position):
            node, inputs = at.pair.small.node(one.node), at.small.value(one.reads)
            yield site_moments(one, node, inputs, self._target(at, one), most, generator)

    def _readers(self, lockstep: Lockstep, site: Site, position: int) -> Iterator[tuple[Site, Lockstep]]:
        """Yield every layer that reads a weight, with a lockstep that stands at it.

        Layers behind the first one are reached by a branched lockstep that computes with the weight as it is.
        """
        yield site, lockstep
        waiting = {other.node: other for other in site.others}
        if not waiting:
            return
        ahead = lockstep.branched()
        ahead.advance_small(position)
        while waiting:
            position += 1
            ahead.advance_dense(position)
            other = waiting.pop(self.nodes[position].name, None)
            if other is not None:
                yield other, ahead
            ahead.advance_small(position)

    def _target(self, lockstep: Lockstep, site: Site | Norm) -> Tensor:
        """Return the output that a layer should have, less the constant that is added to it and not fitted."""
        target = lockstep.target(Ref(site.node))
        residual_sum = self.context.residual_sums.get(site.node) if self._absorb else None
        missing = skip_path_error(lockstep, residual_sum, target) if residual_sum is not None else None
        target = target if missing is None else target + missing
        if isinstance(site, Norm) or site.constant is None:
            return target
        constant: Tensor = lockstep.small.value(site.constant)
        return target - (constant.view(-1, *[1] * (target.dim() - 2)) if site.kind != "linear" else constant)


def _problem_of(
    site: Site | Norm, parts: Iterable[tuple[Role, Rows | Moments]], tensors: Mapping[str, Tensor]
) -> SiteProblem:
    sums: dict[Role, MomentsSum] = {"fit": MomentsSum()}
    for role, part in parts:
        sums.setdefault(role, MomentsSum()).add(part)
    problem = SiteProblem(site, sums["fit"].result(), sums["check"].result() if "check" in sums else None, tensors)
    for moments in (problem.fit, problem.check):
        if moments is not None and not bool(moments.mean.isfinite().all() and moments.target.isfinite().all()):
            raise DataError(
                f"layer {site.node!r} reads or answers NaN or infinity on the calibration data, though these are "
                "finite; nothing can be fitted to that. Check the model in this dtype, or leave the repair out."
            )
    return problem


def _normalised(lockstep: Lockstep, norm: Norm, node: Node) -> Tensor:
    """Return the values that a norm scales and shifts.

    For a batch norm this is its input, because its running statistics are repaired too.
    """
    if norm.mean:
        read: Tensor = lockstep.small.value(norm.reads)
        return read
    plain: Tensor = lockstep.small.computed(node, **{key: None for key in ("weight", "bias") if key in node.args})
    return plain
