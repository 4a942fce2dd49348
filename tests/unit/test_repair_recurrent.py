"""Recurrent layers: replayed as torch runs them, fitted to the dense gates, and the network comes closer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories_repair import cut_half, distance, nothing
from prunus.graph.ir import Node
from prunus.repairs import repair_
from prunus.repairs.find_sites import find_sites
from prunus.repairs.layerwise_run import LayerwiseRun, SiteProblem, run_context
from prunus.repairs.paired_run import Lockstep
from prunus.repairs.program_pairs import Programs
from prunus.repairs.refold import refold
from prunus.repairs.repairs import REPAIRS, SiteRepairer
from prunus.repairs.rnn_cells import Recurrent
from prunus.repairs.rnn_fit import _GroupSequences, _run, refit_recurrent
from prunus.repairs.rnn_unroll import CellWeights, Sequences, sequences_of, unrolled
from prunus.repairs.samples import sample_groups_of

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

KINDS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {"num_layers": 2, "batch_first": True}),
    (nn.LSTM, {"bidirectional": True, "bias": False}),
    (nn.LSTM, {"proj_size": 5, "batch_first": True}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
    (nn.RNN, {"nonlinearity": "tanh", "num_layers": 2}),
]


class Reader(nn.Module):
    """Reads sequences (B, T, 6) through a linear layer and a recurrent one."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.cells = kind(16, 14, **options)
        width = (options.get("proj_size") or 14) * (2 if options.get("bidirectional") else 1)
        self.leave, self.first = nn.Linear(width, 4), bool(options.get("batch_first"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        out = self.cells(x if self.first else x.transpose(0, 1))[0]
        found: Tensor = self.leave(out if self.first else out.transpose(0, 1))
        return found


def sequences(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(count, 9, 6, generator=generator).cumsum(1) / 3
    return drift @ torch.randn(6, 6, generator=torch.Generator().manual_seed(4))


def reader(kind: type[nn.RNNBase], options: dict[str, Any]) -> Reader:
    torch.manual_seed(0)
    model = Reader(kind, **options).eval()
    with torch.no_grad():
        for parameter in model.cells.parameters():
            parameter *= 2  # weights as they come hardly use their state
    return model


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda v: getattr(v, "__name__", None))
def test_the_replay_gives_what_the_layer_gives(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = reader(kind, options)
    coupling, plan = nothing(model, sequences(2))
    data = sequences(8, 1)
    programs = Programs(model, coupling, plan)
    place = next(p for p in find_sites(programs.first.small).values() if isinstance(p, Recurrent))
    sample_groups = sample_groups_of(data, torch.device("cpu"))
    values = dict(model.state_dict())
    steps = [Lockstep(group, programs.of(group.inputs), values, values) for group in sample_groups]
    seen: list[float] = []
    nodes = programs.first.dense.nodes
    position = next(i for i, node in enumerate(nodes) if node.name == place.node)

    def solve(site: Any, tensors: Mapping[str, Tensor], rows: Any) -> Mapping[str, Tensor]:
        for x, t in rows:
            miss = t - x @ tensors[site.tensor].double().T
            seen.append(float((miss - (tensors[site.bias].double() if site.bias else 0)).abs().max()))
        return {}

    for step in steps:
        step.advance(0, position)
    refit_recurrent(place, steps, values, solve, lambda site: 10_000, torch.Generator())
    assert len(seen) == len(steps) * sum(len(cell.parts) for cell in place.cells)
    assert max(seen) < 1e-12  # the gates' inputs are the joined weights times what is read
    for step in steps:
        check_outputs(step, nodes[position], place, model)


def check_outputs(step: Lockstep, node: Node, place: Recurrent, model: Reader) -> None:
    """The last layer's states, put side by side, are what the layer answers."""
    with torch.no_grad():
        given = sequences_of(step.small, node)
        sample_group = _GroupSequences(step, given, given)
        for layer in range(0, len(place.cells), place.directions):
            after = [_run(place, layer + d, sample_group).after for d in range(place.directions)]
            sample_group.small = Sequences(torch.cat(after, 1), given.sizes)
        answered = model.cells(step.small.value(node.args["input"]))[0]
    wanted = (answered.transpose(0, 1) if model.first else answered).reshape(sample_group.small.rows.shape)
    torch.testing.assert_close(sample_group.small.rows, wanted.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda v: getattr(v, "__name__", None))
def test_a_recurrent_network_comes_closer(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    model = reader(kind, options)
    coupling, result = cut_half(model, sequences(2))
    small, fresh = copy.deepcopy(result.model), sequences(64, 9)
    report = repair_(model, small, coupling, result.plan, [sequences(192, 2)], repair="refold")
    fitted = [layer for layer in report.layers if layer.name.startswith("cells.")]
    assert any(layer.ridge is not None for layer in fitted)
    assert sum(layer.after for layer in fitted) < 0.9 * sum(layer.before for layer in fitted)
    alone = copy.deepcopy(result.model)
    context = run_context(model, coupling, result.plan, [sequences(192, 2)])
    others = without_recurrent(alone, context)
    found = [distance(model, net, fresh) for net in (small, alone, result.model)]
    assert others > 0
    assert found[0] < found[1] < found[2]
    assert "cells.weight_ih" not in str(report)


def test_the_joined_weight_is_the_optimum_over_both_states() -> None:
    torch.manual_seed(3)
    model = reader(nn.LSTM, {"batch_first": True})
    coupling, result = cut_half(model, sequences(2))
    small, x = result.model, sequences(24, 5)
    context = run_context(model, coupling, result.plan, [x])
    found: list[Tensor] = []

    def repair(problem: SiteProblem) -> Mapping[str, Tensor]:
        if "cells" in problem.site.tensor:
            start = torch.zeros_like(problem.all.cross), torch.zeros_like(problem.all.target)
            fit = refold(*start, problem.all, None, shifts=True, grid=(1e-13,))
            found.append(torch.cat([fit.matrix[0], fit.bias.T], 1))
        return {}

    LayerwiseRun(context, absorb=False, held=False).run(repair)
    with torch.no_grad():
        wide, narrow = model.enter(x).relu(), small.enter(x).relu()
        states = [net.cells(read)[0][:, :-1] for net, read in ((model, wide), (small, narrow))]
        before = [torch.cat([torch.zeros_like(state[:, :1]), state], 1) for state in states]
        cells = model.cells
        gates = wide @ cells.weight_ih_l0.T + before[0] @ cells.weight_hh_l0.T + cells.bias_ih_l0 + cells.bias_hh_l0
    rows, columns = (torch.from_numpy(result.plan.keep[f"cells.weight_{n}_l0"][d]) for n, d in (("ih", 0), ("hh", 1)))
    reads = [torch.cat([narrow, state], 2).flatten(0, 1) for state in (before[1], before[0][:, :, columns])]
    design = np.hstack([torch.cat(reads).double().numpy(), np.ones((2 * 24 * 9, 1))])
    target = torch.cat([gates[:, :, rows].flatten(0, 1)] * 2).double().numpy()
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    misses = [float(((design @ w - target) ** 2).sum()) for w in (best, found[0].T.numpy())]
    assert len(found) == 1
    assert misses[1] == pytest.approx(misses[0], rel=1e-5)


def test_masked_weights_of_a_cell_stay_zero() -> None:
    model = reader(nn.GRU, {"batch_first": True})
    coupling, result = cut_half(model, sequences(2), budget={"params": 0.4}, levels=("unit", "weight"))
    small = copy.deepcopy(result.model)
    zero = {name: value == 0 for name, value in small.named_parameters() if value.dim() > 1}
    report = repair_(model, small, coupling, result.plan, [sequences(96)], repair="refold")
    assert report.chosen == "refold"
    assert int(zero["cells.weight_hh_l0"].sum()) > 20
    moved = dict(small.named_parameters())
    assert all((moved[name][where] == 0).all() for name, where in zero.items())
    assert not torch.equal(moved["cells.weight_hh_l0"], result.model.cells.weight_hh_l0)


def test_packed_sequences_are_replayed() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.GRU(3, 4, bidirectional=True)
    lengths = torch.tensor([5, 3, 3, 1])
    padded = torch.randn(5, 4, 3, generator=generator)
    packed = nn.utils.rnn.pack_padded_sequence(padded, lengths)
    wanted = layer(packed)[0].data.detach().double()
    sizes = tuple(packed.batch_sizes.tolist())
    for back, names in ((False, "l0"), (True, "l0_reverse")):
        tensors = [getattr(layer, f"{name}_{names}").detach().double() for name in PARTS]
        own = unrolled(
            "gru",
            CellWeights(*tensors, None),
            Sequences(packed.data.double(), sizes),
            [torch.zeros(4, 4, dtype=torch.float64)],
            back=back,
        )
        torch.testing.assert_close(own.after, wanted[:, 4 * back : 4 * back + 4], rtol=1e-6, atol=1e-6)


def without_recurrent(small: nn.Module, context: Any) -> int:
    """Refold all but the recurrent layers."""
    context = replace(context, sites={n: p for n, p in context.sites.items() if not isinstance(p, Recurrent)})
    repaired = LayerwiseRun(context, absorb=True).run(SiteRepairer(REPAIRS.get("refold"), context))
    with torch.no_grad():
        for name in repaired.changed:
            dict(small.named_parameters())[name].copy_(repaired.tensors[name])
    return len(repaired.changed)
