"""Replay of recurrent layers step by step: the pre-activations of all gates and the states before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from prunus.graph.ir import Node
from prunus.repairs.paired_run import Track


@dataclass(frozen=True, slots=True)
class Sequences:
    """Packed sequences: one step after the other, each with the samples that are at least that long.

    Shapes: rows (N, I); ``sizes`` has one entry a step, N = Σ sizes.
    """

    rows: Tensor
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CellWeights:
    """The tensors of one layer in one direction.

    Biases of a layer without them are zero; ``project`` is None except for projected LSTMs.

    Shapes: ih (g·H, I), hh (g·H, P), b_ih and b_hh (g·H,), project (P, H).
    """

    ih: Tensor
    hh: Tensor
    b_ih: Tensor
    b_hh: Tensor
    project: Tensor | None


@dataclass(frozen=True, slots=True)
class Unrolled:
    """The run of one layer in one direction over sequences.

    Shapes: before, after (N, P): the state before and after each step; from_input, from_state (N, g·H): the two
    summands of the gates' pre-activations.
    """

    before: Tensor
    from_input: Tensor
    from_state: Tensor
    after: Tensor


def sequences_of(track: Track, node: Node) -> Sequences:
    """Return the input of a recurrent layer, in float64."""
    if "data" in node.args:
        sizes = tuple(int(n) for n in track.value(node.args["batch_sizes"]).tolist())
        return Sequences(track.value(node.args["data"]).to(torch.float64), sizes)
    x = track.value(node.args["input"]).to(torch.float64)
    if x.dim() == 2:
        x = x.unsqueeze(1)
    elif node.get("batch_first"):
        x = x.transpose(0, 1)
    return Sequences(x.reshape(-1, x.shape[2]), (x.shape[1],) * len(x))


def states_of(track: Track, node: Node, number: int) -> list[Tensor]:
    """Return the first states of one layer in one direction, (B, P) and for an LSTM (B, H)."""
    given: Any = node.args["hx"]
    values = [track.value(ref) for ref in (given if isinstance(given, (list, tuple)) else [given])]
    return [(v[number] if v.dim() == 3 else v[number : number + 1]).to(torch.float64) for v in values]


def unrolled(kind: str, weights: CellWeights, given: Sequences, states: Sequence[Tensor], *, back: bool) -> Unrolled:
    """Run one layer in one direction.

    Args:
        kind: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.
        weights: of the layer.
        given: its input.
        states: before the first step of every sequence; left as they are.
        back: run from the last step to the first.
    """
    from_input = given.rows @ weights.ih.T + weights.b_ih
    from_state = torch.empty_like(from_input)
    states = [state.clone() for state in states]
    before = given.rows.new_empty(len(given.rows), states[0].shape[1])
    after = torch.empty_like(before)
    steps = [slice(stop - n, stop) for n, stop in zip(given.sizes, accumulate(given.sizes), strict=True)]
    for rows in reversed(steps) if back else steps:
        n = rows.stop - rows.start
        before[rows] = states[0][:n]
        from_state[rows] = before[rows] @ weights.hh.T + weights.b_hh
        new = _stepped(kind, from_input[rows], from_state[rows], [state[:n] for state in states])
        if weights.project is not None:
            new[0] = new[0] @ weights.project.T
        for state, value in zip(states, new, strict=True):
            state[:n] = value
        after[rows] = new[0]
    return Unrolled(before, from_input, from_state, after)


def _stepped(kind: str, from_input: Tensor, from_state: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Return the states after one step; the first one of an LSTM is not projected yet."""
    if kind == "gru":
        own = [part.chunk(3, 1) for part in (from_input, from_state)]
        reset, update = ((a + b).sigmoid() for a, b in zip(own[0][:2], own[1][:2], strict=True))
        fresh = (own[0][2] + reset * own[1][2]).tanh()
        return [fresh + update * (states[0] - fresh)]
    total = from_input + from_state
    if kind == "lstm":
        enter, forget, content, leave = total.chunk(4, 1)
        cell = forget.sigmoid() * states[1] + enter.sigmoid() * content.tanh()
        return [leave.sigmoid() * cell.tanh(), cell]
    return [total.tanh() if kind == "rnn_tanh" else total.relu()]
