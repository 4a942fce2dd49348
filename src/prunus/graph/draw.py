"""The drawing turns a `Coupling` into Graphviz text: modules are frames, ops are boxes, each axis has a colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from prunus.graph.coupling import Coupling
from prunus.graph.draw_labels import Labels
from prunus.graph.ir import INPUT, TENSOR, Node, Ref, refs_in

# More than this takes Graphviz minutes, and a reader longer.
_MOST_BOXES, _MOST_EDGES = 250, 400
_STYLE = (
    '  graph [fontname="Helvetica", fontsize=10, ranksep=0.3, nodesep=0.2, labelloc=t];',
    '  node [fontname="Helvetica", fontsize=9, shape=plain]; edge [arrowsize=0.5, color="#777777"];',
)


def dot_text(coupling: Coupling, *, depth: int | None = None) -> str:
    """Return the graph of a network in Graphviz's language.

    A box is an op, with the shape of its result and of the parameters that it reads. A coloured dim can be cut,
    together with every dim of the same colour; a white one is frozen. ``a·b`` is a product, ``a+b`` a concatenation.

    Args:
        coupling: the analysed graph.
        depth: modules at this level become one box; None goes as deep as 250 boxes and 400 arrows allow.

    Example:
        >>> import torch, prunus
        >>> dot_text(prunus.couple(prunus.capture(torch.nn.Linear(4, 2), torch.zeros(1, 4)))).split()[0]
        'digraph'
    """
    if depth is not None:
        return _Drawing(coupling, max(depth, 1)).text()
    deepest = max((len(_around(coupling, call.index)) for call in coupling.graph.calls), default=1)
    drawings = (_Drawing(coupling, level) for level in range(deepest, 0, -1))
    fitting = next((d for d in drawings if len(d.boxes) <= _MOST_BOXES and len(d.edges) <= _MOST_EDGES), None)
    return (fitting or _Drawing(coupling, 1)).text()


def _around(coupling: Coupling, call: int) -> list[int]:
    """Return a module call and those around it, from the root inwards."""
    chain: list[int] = []
    while call >= 0 and coupling.graph.calls:
        chain.append(call)
        call = coupling.graph.calls[call].parent
    return chain[::-1]


@dataclass(frozen=True, slots=True)
class _Box:
    """One box of the drawing: the op ``first``, or the whole call ``closed``; ``frame`` is the call around it."""

    id: str
    first: Node
    frame: int
    closed: int = 0


class _Drawing:
    def __init__(self, coupling: Coupling, depth: int) -> None:
        self.coupling, self.graph = coupling, coupling.graph
        self.labels = Labels(coupling)
        self.boxes: dict[str, _Box] = {}
        self.box_of: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.op != TENSOR:
                box = self._box(node, depth)
                self.boxes.setdefault(box.id, box)
                self.box_of[node.name] = box.id
        pairs = (
            (self.box_of[ref.node], self.box_of[node.name])
            for node in self.graph.nodes
            if node.op != TENSOR
            for ref in refs_in(node.args)
            if ref.node in self.box_of
        )
        self.edges = dict.fromkeys((start, end) for start, end in pairs if start != end)
        self.inside: dict[int, list[_Box]] = {}
        self.frames: dict[int, dict[int, None]] = {}
        for box in self.boxes.values():
            self.inside.setdefault(box.frame, []).append(box)
            chain = _around(coupling, box.frame)
            for outer, inner in pairwise(chain):
                self.frames.setdefault(outer, {})[inner] = None

    def _box(self, node: Node, depth: int) -> _Box:
        chain = _around(self.coupling, node.call)
        if node.op == INPUT or len(chain) <= depth:
            return _Box(node.name, node, node.call)
        return _Box(f"call_{chain[depth]}", node, chain[depth - 1], chain[depth])

    def text(self) -> str:
        head = ["digraph prunus {", *_STYLE, f"  label=<{self.labels.legend()}>;"]
        return "\n".join([*head, *self._frame(0, "  ", ""), *self._outputs(), *self._edges(), "}"]) + "\n"

    def _frame(self, call: int, indent: str, around: str) -> Iterator[str]:
        boxes, frames = self.inside.get(call, []), self.frames.get(call, {})
        path = self.graph.calls[call].path if self.graph.calls else ""
        # A frame around a single box adds nothing to the name in it.
        framed = call != 0 and len(boxes) + len(frames) > 1
        inner = path if framed else around
        if framed:
            yield f"{indent}subgraph cluster_{call} {{"
            yield f"{indent}  label=<{self.labels.title(call, path)}>; style=rounded; color=gray70;"
        for box in boxes:
            yield f"{indent}  {_quoted(box.id)} [label=<{self._label(box, path, inner)}>];"
        for below in frames:
            yield from self._frame(below, indent + "  ", inner)
        if framed:
            yield f"{indent}}}"

    def _label(self, box: _Box, path: str, frame: str) -> str:
        if box.closed:
            return self.labels.of_call(box.closed, _inside(self.graph.calls[box.closed].path, frame))
        return self.labels.of_op(box.first, _inside(path, frame))

    def _outputs(self) -> Iterator[str]:
        leaves = dict.fromkeys(leaf for leaf in self.graph.outputs if isinstance(leaf, Ref))
        for i, leaf in enumerate(leaves):
            if leaf.node in self.box_of:
                yield f'  "output of the network {i}" [label=<{self.labels.of_output()}>];'
                yield f'  {_quoted(self.box_of[leaf.node])} -> "output of the network {i}";'

    def _edges(self) -> Iterator[str]:
        yield from (f"  {_quoted(start)} -> {_quoted(end)};" for start, end in self.edges)


def _inside(path: str, frame: str) -> str:
    """Return the path of a module as seen from a frame; the frame itself needs no name in it."""
    return "" if path == frame else path.removeprefix(f"{frame}.") if frame else path


def _quoted(name: str) -> str:
    return f'"{name}"'
