"""Recurrent layers as sites of a repair: their cells, and the parts of a cell that are fitted together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.graph.ir import Graph, Node
from prunus.repairs.sites import Norm, Site


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start`` to ``stop`` of a cell's weights: ``input`` columns for the input and ``state`` for the state.

    ``site`` is the linear layer that both column blocks form together; no single tensor has its name.
    """

    site: Site
    start: int
    stop: int
    input: int
    state: int

    def joined(self, ih: Tensor, hh: Tensor) -> Tensor:
        """Return these rows of both weights side by side. Shapes: (g·H, I), (g·H, P) → (rows, input + state)."""
        rows = slice(self.start, self.stop)
        return torch.cat([ih[rows, : self.input], hh[rows, : self.state]], 1)

    def read(self, rows: Tensor, before: Tensor) -> Tensor:
        """Return the inputs of these rows. Shapes: (N, I), (N, P) → (N, input + state)."""
        return torch.cat([rows[:, : self.input], before[:, : self.state]], 1)

    def fed(self, from_input: Tensor, from_state: Tensor) -> Tensor:
        """Return the pre-activations that these rows compute. Shapes: (N, g·H) twice → (N, rows)."""
        total = from_input if not self.state else from_state if not self.input else from_input + from_state
        return total[:, self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Cell:
    """The tensors of one layer of a recurrent network in one direction; absent biases and ``project`` are ""."""

    ih: str
    hh: str
    b_ih: str
    b_hh: str
    project: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Recurrent:
    """An LSTM, a GRU or a plain recurrent network.

    ``kind`` is ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``; ``cells`` lie layer by layer, its directions in turn.
    """

    node: str
    kind: str
    directions: int
    cells: tuple[Cell, ...]


AnySite = Site | Norm | Recurrent


def tensors_of(site: AnySite) -> frozenset[str]:
    """Return the names of the weights that are fitted at a site."""
    if isinstance(site, Recurrent):
        return frozenset(name for cell in site.cells for name in (cell.ih, cell.hh))
    return frozenset((site.tensor if isinstance(site, Site) else site.weight,)) - {""}


def with_joined(masks: Mapping[str, Tensor], sites: Mapping[str, AnySite]) -> dict[str, Tensor]:
    """Add the masks of the parts of recurrent cells to weight masks, under the names of their sites."""
    joined = dict(masks)
    cells = [cell for site in sites.values() if isinstance(site, Recurrent) for cell in site.cells]
    for cell in cells:
        for part in cell.parts if {cell.ih, cell.hh} & masks.keys() else ():
            whole = torch.ones(part.stop, max(part.input, part.state), dtype=torch.bool)
            joined[part.site.tensor] = part.joined(masks.get(cell.ih, whole), masks.get(cell.hh, whole))
    return joined


def recurrent_site(graph: Graph, node: Node, kind: str, own: Callable[[object], str]) -> Recurrent | None:
    """Return the site of a recurrent node, or None if other nodes read its tensors too.

    Args:
        graph: the program.
        node: the node.
        kind: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.
        own: value → name of the tensor, "" if others read it.
    """
    names = [own(value) for value in node.args["params"]]
    directions = 2 if node.args["bidirectional"] else 1
    each = len(names) // (int(node.args["num_layers"]) * directions)
    if not all(names):
        return None
    biased = bool(node.args["has_biases"])
    reads = node.args["data" if "data" in node.args else "input"]
    cells = []
    for first in range(0, len(names), each):
        given = names[first : first + each]
        b_ih, b_hh = given[2:4] if biased else ("", "")
        project = given[-1] if each == (5 if biased else 3) else ""
        shapes = graph.tensors[given[0]].shape, graph.tensors[given[1]].shape
        parts = _parts(Site(node.name, "linear", "", b_ih, 1, shapes[0], reads), kind, given, shapes[1][1])
        cells.append(Cell(given[0], given[1], b_ih, b_hh, project, parts))
    return Recurrent(node.name, kind, directions, tuple(cells))


def _parts(like: Site, kind: str, names: list[str], state: int) -> tuple[Part, ...]:
    """Return the parts of a cell that are fitted together.

    The two summands of a GRU's new state, tanh(input part + r ∘ state part), are fitted separately.
    """
    rows, width = like.shape

    def part(label: str, start: int, stop: int, of_input: int, of_state: int) -> Part:
        name = " + ".join([names[0]] * bool(of_input) + [names[1]] * bool(of_state)) + label
        bias, shape = f"{name} (bias)" * bool(like.bias), (stop - start, of_input + of_state)
        site = Site(like.node, "linear", name, bias, 1, shape, like.reads)
        return Part(site, start, stop, of_input, of_state)

    if kind != "gru":
        return (part("", 0, rows, width, state),)
    gates = rows // 3 * 2
    return (
        part(" (gates)", 0, gates, width, state),
        part(" (new)", gates, rows, width, 0),
        part(" (new)", gates, rows, 0, state),
    )
