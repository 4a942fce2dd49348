"""Refit of recurrent layers: the pre-activations of all gates are fitted to the dense layer's, step by step."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunus.repairs.paired_run import Lockstep, Track
from prunus.repairs.rnn_cells import Cell, Part, Recurrent
from prunus.repairs.rnn_unroll import CellWeights, Sequences, Unrolled, sequences_of, states_of, unrolled
from prunus.repairs.rows import Rows, linear_rows
from prunus.repairs.sites import Site

Solve = Callable[[Site, Mapping[str, Tensor], Sequence[Rows]], Mapping[str, Tensor]]
"""(site, tensors, rows of every sample group) → the new tensors of the site; none where it stays."""


@dataclass(slots=True)
class _GroupSequences:
    """The sequences that the next layer of a stack reads from one sample group, in both networks."""

    lockstep: Lockstep
    dense: Sequences
    small: Sequences


def refit_recurrent(
    site: Recurrent,
    locksteps: Sequence[Lockstep],
    tensors: MutableMapping[str, Tensor],
    solve: Solve,
    most: Callable[[Site], int],
    generator: torch.Generator,
) -> None:
    """Fit all cells of a recurrent layer, layer by layer; each layer reads the output of the fitted one below it.

    min Σ_t Σ_h ‖g_t − W_ih x_t − W_hh h_{t−1} − b‖² for the gate pre-activations g_t of the dense cell at kept units;
    x_t is the input of the small cell. Every step gives two states h: the one that the small cell reaches with its
    weights before the fit, and the one of the dense cell. The first alone differ from the states of the fitted cell;
    the second alone do not teach it to correct its own drift.

    Args:
        site: the recurrent layer.
        locksteps: all sample groups, stopped before the node.
        tensors: of the small network; new ones take their place.
        solve: returns the new tensors of one part of a cell.
        most: site → rows of a sample group at most.
        generator: draws the rows.
    """
    groups = []
    for lockstep in locksteps:
        dense, small = lockstep.pair.dense.node(site.node), lockstep.pair.small.node(site.node)
        groups.append(
            _GroupSequences(lockstep, sequences_of(lockstep.dense, dense), sequences_of(lockstep.small, small))
        )
    for layer in range(len(site.cells) // site.directions):
        outputs: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in groups]
        for direction in range(site.directions):
            number = layer * site.directions + direction
            cell = site.cells[number]
            runs = [(_run(site, number, group, dense=True), _run(site, number, group)) for group in groups]
            for part in cell.parts:
                rows = [
                    _rows(part, cell, group, *own, most(part.site), generator)
                    for group, own in zip(groups, runs, strict=True)
                ]
                _refit_part(part, cell, tensors, solve, rows)
            for group, (wide, narrow), own in zip(groups, outputs, runs, strict=True):
                wide.append(own[0].after)
                narrow.append(_run(site, number, group).after)
        for group, (wide, narrow) in zip(groups, outputs, strict=True):
            group.dense = Sequences(torch.cat(wide, 1), group.dense.sizes)
            group.small = Sequences(torch.cat(narrow, 1), group.small.sizes)


def _run(site: Recurrent, number: int, group: _GroupSequences, *, dense: bool = False) -> Unrolled:
    """Run one cell on a sample group, in the dense network or in the small one as it is."""
    lockstep = group.lockstep
    track, sequences = (lockstep.dense, group.dense) if dense else (lockstep.small, group.small)
    states = states_of(track, track.graph.node(site.node), number)
    back = number % site.directions == 1
    return unrolled(site.kind, _weights(site.cells[number], track), sequences, states, back=back)


def _weights(cell: Cell, track: Track) -> CellWeights:
    ih, hh = (track.tensors[name].to(torch.float64) for name in (cell.ih, cell.hh))
    none = ih.new_zeros(len(ih))
    b_ih, b_hh = (track.tensors[name].to(torch.float64) if name else none for name in (cell.b_ih, cell.b_hh))
    project = track.tensors[cell.project].to(torch.float64) if cell.project else None
    return CellWeights(ih, hh, b_ih, b_hh, project)


def _rows(
    part: Part,
    cell: Cell,
    group: _GroupSequences,
    dense: Unrolled,
    small: Unrolled,
    most: int,
    generator: torch.Generator,
) -> Rows:
    fed = part.fed(_kept(group, cell.ih, 0, dense.from_input), _kept(group, cell.ih, 0, dense.from_state))
    reads = [part.read(group.small.rows, small.before)]
    if part.state:
        reads.append(part.read(group.small.rows, _kept(group, cell.hh, 1, dense.before)))
    return linear_rows(torch.cat(reads), torch.cat([fed] * len(reads)), most, generator)


def _kept(group: _GroupSequences, tensor: str, dim: int, values: Tensor) -> Tensor:
    """Return the columns of a dense value at the kept positions of a dim of a tensor."""
    pair = group.lockstep.pair
    mask = pair.coupling.mask(pair.coupling.tensors[tensor][dim], pair.plan.axes)
    return values[:, torch.from_numpy(np.flatnonzero(mask)).to(values.device)]


def _refit_part(
    part: Part, cell: Cell, tensors: MutableMapping[str, Tensor], solve: Solve, rows: Sequence[Rows]
) -> None:
    """Solve one part of a cell and write the solution into the cell's tensors."""
    site, span = part.site, slice(part.start, part.stop)
    joined = {site.tensor: part.joined(tensors[cell.ih], tensors[cell.hh])}
    if site.bias:
        shares = [tensors[cell.b_ih][span]] * bool(part.input) + [tensors[cell.b_hh][span]] * bool(part.state)
        joined[site.bias] = torch.stack(shares).to(torch.float64).sum(0)
    solution = solve(site, ChainMap(joined, tensors), rows)
    if site.tensor in solution:
        new = solution[site.tensor]
        _write(tensors, cell.ih, span, new[:, : part.input])
        _write(tensors, cell.hh, span, new[:, part.input :])
    if site.bias in solution:
        name = cell.b_ih if part.input else cell.b_hh
        change = solution[site.bias] - joined[site.bias]
        _write(tensors, name, span, tensors[name][span] + change.to(tensors[name].dtype))


def _write(tensors: MutableMapping[str, Tensor], name: str, span: slice, value: Tensor) -> None:
    """Replace a tensor by a copy with new rows."""
    if value.dim() == 1 or value.shape[1]:
        new = tensors[name].clone()
        new[span] = value.to(new.device, new.dtype)
        tensors[name] = new
