"""Recurrent layers: gates are fitted to what the dense ones are fed at that step, from the small one's own state."""

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
"""(site, tensors, rows of every lane) → the new tensors of the site; none where it stays."""


@dataclass(slots=True)
class _Lane:
    """How far a lane is in a stack of layers: what the next layer reads, in both networks."""

    step: Lockstep
    dense: Sequences
    small: Sequences


def mend_recurrent(
    place: Recurrent,
    steps: Sequence[Lockstep],
    tensors: MutableMapping[str, Tensor],
    solve: Solve,
    most: Callable[[Site], int],
    generator: torch.Generator,
) -> None:
    """Fit all cells of a recurrent layer, layer by layer; a layer reads what the fitted one below it gives.

    min Σ_t Σ_h ‖g_t − W_ih x_t − W_hh h_{t−1} − b‖² for what the gates of the dense cell are fed, g_t, at kept units;
    x_t is what the small cell reads. The states h are twice as many as steps: where the small cell comes by itself,
    with the weights before the fit, and where the dense one is. The first alone are not those that the fitted cell
    will meet; the second alone do not teach it the way back.

    Args:
        place: where.
        steps: all lanes, stopped before the node.
        tensors: of the small network; new ones take their place.
        solve: what finds them.
        most: site → rows of a lane at most.
        generator: draws the rows.
    """
    lanes = []
    for step in steps:
        dense, small = step.pair.dense.node(place.node), step.pair.small.node(place.node)
        lanes.append(_Lane(step, sequences_of(step.dense, dense), sequences_of(step.small, small)))
    for layer in range(len(place.cells) // place.directions):
        outputs: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in lanes]
        for direction in range(place.directions):
            number = layer * place.directions + direction
            ran = [(_ran(place, number, lane, dense=True), _ran(place, number, lane)) for lane in lanes]
            for part in place.cells[number].parts:
                rows = [
                    _rows(part, place.cells[number], lane, *own, most(part.site), generator)
                    for lane, own in zip(lanes, ran, strict=True)
                ]
                _settle(part, place.cells[number], tensors, solve, rows)
            for lane, (wide, narrow), own in zip(lanes, outputs, ran, strict=True):
                wide.append(own[0].after)
                narrow.append(_ran(place, number, lane).after)
        for lane, (wide, narrow) in zip(lanes, outputs, strict=True):
            lane.dense = Sequences(torch.cat(wide, 1), lane.dense.sizes)
            lane.small = Sequences(torch.cat(narrow, 1), lane.small.sizes)


def _ran(place: Recurrent, number: int, lane: _Lane, *, dense: bool = False) -> Unrolled:
    """Run one cell on a lane, in the dense network or in the small one as it is."""
    pair = lane.step.pair
    track, graph, given = (
        (lane.step.dense, pair.dense, lane.dense) if dense else (lane.step.small, pair.small, lane.small)
    )
    states = states_of(track, graph.node(place.node), number)
    back = number % place.directions == 1
    return unrolled(place.kind, _weights(place.cells[number], track), given, states, back=back)


def _weights(cell: Cell, track: Track) -> CellWeights:
    ih, hh = (track.tensors[name].to(torch.float64) for name in (cell.ih, cell.hh))
    none = ih.new_zeros(len(ih))
    b_ih, b_hh = (track.tensors[name].to(torch.float64) if name else none for name in (cell.b_ih, cell.b_hh))
    project = track.tensors[cell.project].to(torch.float64) if cell.project else None
    return CellWeights(ih, hh, b_ih, b_hh, project)


def _rows(
    part: Part, cell: Cell, lane: _Lane, dense: Unrolled, small: Unrolled, most: int, generator: torch.Generator
) -> Rows:
    fed = part.fed(_kept(lane, cell.ih, 0, dense.from_input), _kept(lane, cell.ih, 0, dense.from_state))
    reads = [part.read(lane.small.rows, small.before)]
    if part.state:
        reads.append(part.read(lane.small.rows, _kept(lane, cell.hh, 1, dense.before)))
    return linear_rows(torch.cat(reads), torch.cat([fed] * len(reads)), most, generator)


def _kept(lane: _Lane, tensor: str, dim: int, values: Tensor) -> Tensor:
    """Return the columns of a dense value that stay where those of a dim of a tensor do."""
    pair = lane.step.pair
    mask = pair.coupling.mask(pair.coupling.tensors[tensor][dim], pair.plan.axes)
    return values[:, torch.from_numpy(np.flatnonzero(mask)).to(values.device)]


def _settle(part: Part, cell: Cell, tensors: MutableMapping[str, Tensor], solve: Solve, rows: Sequence[Rows]) -> None:
    """Put what is found for a part into the cell's tensors."""
    site, span = part.site, slice(part.start, part.stop)
    joined = {site.tensor: part.joined(tensors[cell.ih], tensors[cell.hh])}
    if site.bias:
        shares = [tensors[cell.b_ih][span]] * bool(part.input) + [tensors[cell.b_hh][span]] * bool(part.state)
        joined[site.bias] = torch.stack(shares).to(torch.float64).sum(0)
    found = solve(site, ChainMap(joined, tensors), rows)
    if site.tensor in found:
        new = found[site.tensor]
        _write(tensors, cell.ih, span, new[:, : part.input])
        _write(tensors, cell.hh, span, new[:, part.input :])
    if site.bias in found:
        name = cell.b_ih if part.input else cell.b_hh
        change = found[site.bias] - joined[site.bias]
        _write(tensors, name, span, tensors[name][span] + change.to(tensors[name].dtype))


def _write(tensors: MutableMapping[str, Tensor], name: str, span: slice, value: Tensor) -> None:
    """Replace rows of a tensor by a new tensor in its place."""
    if value.dim() == 1 or value.shape[1]:
        new = tensors[name].clone()
        new[span] = value.to(new.device, new.dtype)
        tensors[name] = new


__all__ = ["mend_recurrent"]
